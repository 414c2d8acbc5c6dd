"""Explanation: where the visual tokens of a model look, and what they contribute to a class."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import numpy.typing as npt

from service.batching.interface import Instance
from service.engine.call import Call
from service.errors import InvalidRequest
from service.images.attention import Attention, attention_by_module, similarity
from service.images.classes import top_classes
from service.images.heat_maps import contact_sheet, heat_map
from service.images.overlays import Picture, PictureChoice, encode_picture
from service.images.photo import EncodedOrPrepared, Photo, PreparedImage
from service.images.resize import Box, visible_box
from service.runtime.arrays import Array, Outputs
from service.runtime.image_threads import ImageThreads
from service.schema.contract import Contract
from service.schema.predictions import (
    ClassScore,
    ExplainedClass,
    ExplainResponse,
    Explanation,
    TokenMap,
    TokenModule,
)
from service.schema.tasks import TASKS, TOKENS

Contributions = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExplainOptions:
    """Options of an explanation; None chooses by the prediction.

    `module` and `token` choose the map of an overlay.
    """

    top_k: int = 5
    class_name: str | None = None
    """Label or index of the class whose contributions are given; by default, the most likely."""
    module: str | None = None
    token: int | None = None


async def explain(
    call: Call, pool: ImageThreads, images: Sequence[EncodedOrPrepared], options: ExplainOptions
) -> ExplainResponse:
    """Return the attention of each token over each photo, and its contribution to a class."""
    explainer, photos, outputs = await _explained(call, images, options)
    began = perf_counter()
    pairs = zip(photos, outputs, strict=True)
    predictions = await pool.gather([partial(explainer.explanation, *pair) for pair in pairs])
    call.timings.encode = perf_counter() - began
    identity = call.instance.identity
    return ExplainResponse(
        model=identity.name,
        version=identity.version,
        task=identity.task,
        predictions=predictions,
    )


async def draw_contact_sheet(
    call: Call, pool: ImageThreads, images: Sequence[EncodedOrPrepared], options: ExplainOptions
) -> Picture:
    """Return the maps of all tokens over a single photo as a PNG, one row per module."""
    return await _draw(call, pool, images, options, None)


async def draw_heat_map(
    call: Call,
    pool: ImageThreads,
    images: Sequence[EncodedOrPrepared],
    options: ExplainOptions,
    choice: PictureChoice,
) -> Picture:
    """Return a single photo with the map of one token over it."""
    return await _draw(call, pool, images, options, choice)


async def _draw(
    call: Call,
    pool: ImageThreads,
    images: Sequence[EncodedOrPrepared],
    options: ExplainOptions,
    choice: PictureChoice | None,
) -> Picture:
    if len(images) > 1:
        raise InvalidRequest("An image response shows one photo; send one photo, or ask for JSON.")
    explainer, photos, outputs = await _explained(call, images, options)
    photo = photos[0]
    if not isinstance(photo, Photo):
        raise InvalidRequest("A picture needs an image file, not a tensor; send an image file.")
    began = perf_counter()
    if choice is None:
        picture = await pool.run(explainer.contact_sheet, photo, outputs[0])
    else:
        picture = await pool.run(explainer.heat_map, photo, outputs[0], choice)
    call.timings.encode = perf_counter() - began
    return picture


async def _explained(
    call: Call, images: Sequence[EncodedOrPrepared], options: ExplainOptions
) -> tuple["_Explainer", Sequence[Photo | PreparedImage], Sequence[Outputs]]:
    explainer = _Explainer(call.instance, options)
    inferred = await call.infer(images, explainer.names)
    return explainer, inferred.photos, inferred.outputs


class _Explainer:
    """Explains photos with the outputs of one model; raises `InvalidRequest` for its options."""

    def __init__(self, instance: Instance, options: ExplainOptions) -> None:
        contract = self._contract = instance.contract
        _check_outputs(contract)
        self._temperature = contract.versions[instance.identity.version].temperature
        self._head = instance.head
        self._top_k = options.top_k
        self._class = None if options.class_name is None else self._index_of(options.class_name)
        self._module = _module(contract, options.module)
        self._token = _token(contract, self._module, options.token)
        self._has_scores = TASKS[contract.task].has_scores
        scores = [contract.prediction] if self._has_scores else []
        self.names = [*scores, TOKENS, *contract.attention_outputs]
        """The outputs that the explanation needs."""

    def _index_of(self, name: str) -> int:
        """Return the index of a class from its label or index."""
        labels = self._contract.labels
        if self._head is None:
            raise InvalidRequest(
                f"The model {self._contract.name} cannot say what its tokens contribute to a "
                "class; only classifiers with tokens can, if they were exported with their head."
            )
        if name in labels:
            return labels.index(name)
        if name.isdecimal() and len(name) < 10 and int(name) < len(labels):
            return int(name)
        raise InvalidRequest(f"There is no class {name}; the classes are {', '.join(labels)}.")

    def explanation(self, photo: Photo | PreparedImage, outputs: Outputs) -> Explanation:
        """Return the explanation of one photo."""
        image, contract = photo.prepare(), self._contract
        box = visible_box(image.photo_width, image.photo_height, contract.preprocessing)
        modules = attention_by_module(outputs)
        explanation = Explanation(
            width=image.photo_width,
            height=image.photo_height,
            box=tuple(round(each, 2) for each in box),  # type: ignore[typeddict-item]
            modules=_modules(modules, len(outputs[TOKENS]), box, self._contributions(outputs)),
            similarity=similarity(outputs[TOKENS]).round(4).tolist(),
        )
        if self._has_scores:
            logits = outputs[contract.prediction]
            explanation["classes"] = self._ranked(logits, self._top_k)
            if self._head is not None:
                explanation["explained"] = self._explained(outputs)
        return explanation

    def _explained(self, outputs: Outputs) -> ExplainedClass:
        assert self._head is not None  # noqa: S101
        logits, labels = outputs[self._contract.prediction], self._contract.labels
        index = self._explained_class(outputs)
        ranked = self._ranked(logits, len(labels))
        score = next(each["score"] for each in ranked if each["index"] == index)
        logit, bias = float(logits[index]), float(self._head.bias[index])
        return ExplainedClass(label=labels[index], index=index, score=score, logit=logit, bias=bias)

    def _ranked(self, logits: Array, count: int) -> list[ClassScore]:
        return top_classes(logits, self._contract.labels, count, self._temperature)

    def _explained_class(self, outputs: Outputs) -> int:
        if self._class is not None:
            return self._class
        return int(outputs[self._contract.prediction].argmax())

    def _contributions(self, outputs: Outputs) -> Contributions | None:
        """Return what each final token adds to the logit of the explained class: `w . T_t / L`."""
        if self._head is None:
            return None
        tokens: Contributions = outputs[TOKENS].astype(np.float32, copy=False)
        weight = self._head.weight[self._explained_class(outputs)]
        contributions: Contributions = tokens @ weight / np.float32(len(tokens))
        return contributions

    def contact_sheet(self, photo: Photo, outputs: Outputs) -> Picture:
        """Draw the maps of all tokens."""
        modules, upright = attention_by_module(outputs), photo.upright()
        box = visible_box(*upright.size, self._contract.preprocessing)
        return Picture(encode_picture(contact_sheet(upright, modules, box), "png"), "image/png")

    def heat_map(self, photo: Photo, outputs: Outputs, choice: PictureChoice) -> Picture:
        """Draw the map of the chosen token; by default, that of the most important one."""
        module, upright = attention_by_module(outputs)[self._module], photo.upright()
        token = self._token
        if token is None:
            contributions = self._contributions(outputs)
            importance = module.share if contributions is None else contributions
            token = int(importance.argmax())
        box = visible_box(*upright.size, self._contract.preprocessing)
        return choice.encode(heat_map(upright, module.levels()[token], box), photo.format)


def _check_outputs(contract: Contract) -> None:
    if not (contract.has_tokens and contract.token_modules):
        raise InvalidRequest(
            f"The model {contract.name} has no attention maps of visual tokens; use a model "
            "whose tokenizers attend, exported with the outputs tokens and token_attention."
        )


def _module(contract: Contract, name: str | None) -> str:
    modules = contract.token_modules
    if name is None:
        return next(reversed(modules))
    if name not in modules:
        raise InvalidRequest(f"There is no module {name}; the modules are {', '.join(modules)}.")
    return name


def _token(contract: Contract, module: str, token: int | None) -> int | None:
    count = contract.token_modules[module]
    if token is not None and not 0 <= token < count:
        raise InvalidRequest(
            f"There is no token {token} in {module}; its tokens are 0 to {count - 1}."
        )
    return token


def _modules(
    modules: dict[str, Attention],
    final_tokens: int,
    box: Box,
    contributions: Contributions | None,
) -> list[TokenModule]:
    """Describe the modules; the final tokens are those of the last modules, in order."""
    rows: list[TokenModule] = []
    row = final_tokens
    for name, module in reversed(modules.items()):
        row -= len(module.maps)
        is_final = row >= 0
        own = contributions[row:] if is_final and contributions is not None else None
        described = TokenModule(
            name=name,
            grid=(module.maps.shape[1], module.maps.shape[2]),
            tokens=_tokens(module, box, own),
            similarity_row=row if is_final else None,
        )
        rows.append(described)
    return rows[::-1]


def _tokens(module: Attention, box: Box, contributions: Contributions | None) -> list[TokenMap]:
    width, height = box.right - box.left, box.bottom - box.top
    tokens = []
    for index, (levels, maximum) in enumerate(zip(module.levels(), module.maximum, strict=True)):
        x, y = module.centre[index].tolist()
        token = TokenMap(
            index=index,
            attention=base64.b64encode(levels.tobytes()).decode("ascii"),
            maximum=float(maximum),
            share=round(float(module.share[index]), 6),
            entropy=round(float(module.entropy[index]), 6),
            centre=(round(box.left + x * width, 2), round(box.top + y * height, 2)),
        )
        if contributions is not None:
            token["contribution"] = float(contributions[index])
        tokens.append(token)
    return tokens
