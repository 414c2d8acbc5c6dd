"""Does the graph compute what the checkpoint computes? Torch against ONNX Runtime, in numbers."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from model_export.errors import InvalidEntry
from model_export.evaluation import Predict
from model_export.preprocessing import Multiple, Preprocessing, RgbArray, open_image, to_rgb
from model_export.served import ServedModel, ServedSegmentation

BATCHES = (1, 2, 7)
RANDOM_IMAGES = 4
PROVIDER = "CPUExecutionProvider"
SCORES = "logits"
"""The numbers behind a segmentation's labels, compared but not served."""


@dataclass(frozen=True)
class Tolerance:
    """What is still equal.

    The relative difference is the largest absolute difference over the largest magnitude of the
    same output. fp32 sums in another order differ by about 1e-6 of that, by up to 2e-4 in
    ill-conditioned networks; the limit leaves room for these, not for another normalisation.
    """

    max_relative_difference: float = 5e-4
    agreement: float = 0.9999


@dataclass
class Parity:
    """The outcome of a comparison. `agreement` is the share of equal top-1 classes or pixels."""

    provider: str
    batches: list[int]
    sizes: list[tuple[int, int]]
    real_images: int
    random_images: int
    max_absolute_difference: dict[str, float] = field(default_factory=dict)
    max_relative_difference: dict[str, float] = field(default_factory=dict)
    mean_absolute_difference: dict[str, float] = field(default_factory=dict)
    agreement: float = 0.0
    tolerance: Tolerance = Tolerance()

    @property
    def failures(self) -> list[str]:
        """A sentence for each number beyond the tolerance; empty where the graph is equal."""
        limit = self.tolerance
        sentences = [
            f"{name} differs by {value:.2e} of its largest magnitude, more than "
            f"{limit.max_relative_difference:.0e}"
            for name, value in self.max_relative_difference.items()
            if not value <= limit.max_relative_difference
        ]
        if not self.agreement >= limit.agreement:
            sentences.append(f"only {self.agreement:.4%} of the answers agree")
        return sentences

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data for the certificate."""
        data = asdict(self)
        del data["provider"]
        data["sizes"] = [list(size) for size in self.sizes]
        return data


def verification_sizes(preprocessing: Preprocessing) -> list[tuple[int, int]]:
    """Heights and widths to compare at: the one input size, or several of a dynamic input."""
    resize, common = preprocessing.resize, preprocessing.common_size
    if not isinstance(resize, Multiple):
        return [common]
    photos = ((3, 4), (16, 9), (1, 1))
    sizes = (resize.size(1000 * width, 1000 * height) for width, height in photos)
    return list(dict.fromkeys([common, *((h, w) for w, h in sizes), (32, 64)]))


def compare(
    model: ServedModel,
    graph: Path,
    preprocessing: Preprocessing,
    photos: Sequence[Path],
    *,
    max_batch_size: int,
) -> Parity:
    """Run module and graph on the same images: photos and noise, several batches and sizes.

    Photos and noise take turns to fill the batches; the largest batch is run at the first
    size alone.
    """
    batches = sorted({*BATCHES, max_batch_size})
    sizes = verification_sizes(preprocessing)
    reference, predict = reference_predictor(model), _graph_with_scores(graph)
    sums: dict[str, list[tuple[float, float, float]]] = {}
    agreed, answers = 0, 0
    for images in _inputs(preprocessing, photos, batches, sizes):
        expected, actual = reference(images), predict(images)
        for name, wanted in expected.items():
            if name not in actual:
                raise InvalidEntry(f"{graph} has no output {name}")
            got = actual[name].astype(np.float64)
            if got.shape != wanted.shape:
                raise InvalidEntry(f"{graph} gives {name} {got.shape}, not {wanted.shape}")
            if name != "labels":
                difference = np.abs(got - wanted)
                sums.setdefault(name, []).append(
                    (difference.max(), np.abs(wanted).max(), difference.mean())
                )
        equal = _answers(expected) == _answers(actual)
        agreed, answers = agreed + int(equal.sum()), answers + equal.size
    return Parity(
        provider=PROVIDER,
        batches=batches,
        sizes=sizes,
        real_images=len(photos),
        random_images=RANDOM_IMAGES * len(sizes),
        max_absolute_difference={name: _worst(v, 0) for name, v in sums.items()},
        max_relative_difference={
            name: _worst(v, 0) / max(_worst(v, 1), 1e-12) for name, v in sums.items()
        },
        mean_absolute_difference={
            name: float(np.mean([each[2] for each in v])) for name, v in sums.items()
        },
        agreement=agreed / answers,
    )


def _worst(values: list[tuple[float, float, float]], column: int) -> float:
    """The largest, and not a number where any is not."""
    return float(np.max([value[column] for value in values]))


def _answers(outputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return outputs["labels"] if "labels" in outputs else outputs["logits"].argmax(axis=1)


def _inputs(
    preprocessing: Preprocessing,
    photos: Sequence[Path],
    batches: Sequence[int],
    sizes: Sequence[tuple[int, int]],
) -> Iterator[RgbArray]:
    """UINT8 `[B, H, W, 3]`, as `compare` describes."""
    chance = np.random.default_rng(0)
    for index, (height, width) in enumerate(sizes):
        noise = chance.integers(0, 256, (RANDOM_IMAGES, height, width, 3)).astype(np.uint8)
        turns = itertools.cycle(
            [*(_photo(p, preprocessing, height, width) for p in photos), *noise]
        )
        for batch in batches if index == 0 else batches[:-1]:
            yield np.stack(list(itertools.islice(turns, batch)))


def _photo(path: Path, preprocessing: Preprocessing, height: int, width: int) -> RgbArray:
    image = open_image(path)
    array = preprocessing(image)
    if array.shape[:2] == (height, width):
        return array
    return np.asarray(to_rgb(image, preprocessing.fill).resize((width, height)))


def reference_predictor(model: ServedModel) -> Predict:
    """The module on the CPU in float32, with the scores behind a segmentation's labels."""
    model = model.eval().float().cpu()

    def predict(images: RgbArray) -> dict[str, npt.NDArray[Any]]:
        batch = torch.from_numpy(images)
        with torch.inference_mode():
            if isinstance(model, ServedSegmentation):
                scores = model.network(model.normalisation(batch))
                return {"labels": scores.argmax(dim=1).byte().numpy(), SCORES: scores.numpy()}
            outputs = zip(model.output_names, model(batch), strict=True)
            return {name: output.numpy() for name, output in outputs}

    return predict


def _graph_with_scores(path: Path) -> Predict:
    """The graph as it stands; where it ends in an argmax, with the argmax's input as well."""
    try:
        proto = onnx.load(path)
    except Exception as error:
        raise InvalidEntry(f"{path} is not an ONNX graph: {error}") from error
    argmax = [node for node in proto.graph.node if node.op_type == "ArgMax"]
    if argmax and all(output.name != SCORES for output in proto.graph.output):
        scores = argmax[-1].input[0]
        identity = helper.make_node("Identity", [scores], [SCORES])
        proto.graph.node.append(identity)
        proto.graph.output.append(helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, None))
    return graph_predictor(proto.SerializeToString())


def graph_predictor(graph: Path | bytes) -> Predict:
    """A graph through ONNX Runtime on the CPU; raises `InvalidEntry` where that is refused."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = graph if isinstance(graph, bytes) else str(graph)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[PROVIDER])
    except Exception as error:
        raise InvalidEntry(f"ONNX Runtime does not load the graph: {error}") from error
    names = [output.name for output in session.get_outputs()]

    def predict(images: RgbArray) -> dict[str, npt.NDArray[Any]]:
        try:
            outputs = session.run(names, {session.get_inputs()[0].name: images})
        except Exception as error:
            raise InvalidEntry(f"ONNX Runtime does not run the graph: {error}") from error
        return dict(zip(names, outputs, strict=True))

    return predict
