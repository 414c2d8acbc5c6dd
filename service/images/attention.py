"""Describe the attention of visual tokens over a photo, and the similarity of tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service.errors import InferenceFailed
from service.schema.tasks import ATTENTION, TOKENS

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Attention:
    """The attention of the L tokens of one module, over a grid of `rows` x `columns` cells.

    Each map is positive and sums to 1. `maximum`, `share`, `entropy` are [L], `centre` is [L, 2].
    """

    maps: Floats
    """[L, rows, columns]"""
    share: Floats
    """Mean over the cells of a token's part of all tokens' attention there; sums to 1."""
    entropy: Floats
    """Entropy of a token's attention, from 0 (one cell) to 1 (uniform)."""
    centre: Floats
    """Mean position (x, y) of a token's attention, as fractions of the grid's width and height."""

    @property
    def maximum(self) -> Floats:
        """The largest attention of each token."""
        return np.max(self.maps, axis=(1, 2))  # type: ignore[no-any-return]

    def levels(self) -> npt.NDArray[np.uint8]:
        """Return the maps as UINT8 [L, rows, columns]; 255 is the maximum of the same token."""
        scaled = self.maps * (255 / self.maximum)[:, None, None]
        return np.rint(scaled).astype(np.uint8)


def attention(output: npt.NDArray[np.generic]) -> Attention:
    """Describe attention maps [L, rows, columns]; raises `InferenceFailed` if they are none."""
    maps = output.astype(np.float32, copy=False)
    tokens, rows, columns = maps.shape
    sums = maps.sum(axis=(1, 2))
    if not (np.isfinite(sums).all() and (sums > 0).all()):
        raise InferenceFailed("The model returned attention that is not a distribution.")
    maps = maps / sums[:, None, None]
    flat = maps.reshape(tokens, -1)
    logarithms = np.log(flat, out=np.zeros_like(flat), where=flat > 0)
    largest = np.log(max(rows * columns, 2))
    x, y = (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
    together = flat.sum(axis=0)
    parts = np.divide(flat, together, out=np.full_like(flat, 1 / tokens), where=together > 0)
    return Attention(
        maps,
        share=parts.mean(axis=1),
        entropy=-(flat * logarithms).sum(axis=1) / largest,
        centre=np.stack([maps.sum(axis=1) @ x, maps.sum(axis=2) @ y], axis=1),
    )


def attention_by_module(outputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, Attention]:
    """Describe the attention outputs of one photo, by module.

    `token_attention` [modules, L, rows, columns] is `module_1`, `module_2` and so on;
    `token_attention_<module>` is [L, rows, columns].
    """
    found: dict[str, Attention] = {}
    for name, output in outputs.items():
        if name == ATTENTION:
            found |= {f"module_{n}": attention(maps) for n, maps in enumerate(output, 1)}
        elif name.startswith(f"{ATTENTION}_"):
            found[name.removeprefix(f"{ATTENTION}_")] = attention(output)
    return found


def token_statistics(outputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, float]:
    """Return `token_similarity` and `attention_entropy_<module>` of one photo's outputs.

    They are means, over the pairs of different final tokens and over the tokens of a module. The
    certificate has their distributions over the data on which the model was evaluated.
    """
    statistics = {
        f"attention_entropy_{name}": float(module.entropy.mean())
        for name, module in attention_by_module(outputs).items()
    }
    tokens = outputs.get(TOKENS)
    if tokens is not None and len(tokens) > 1:
        cosines, count = similarity(tokens), len(tokens)
        off_diagonal = float(cosines.sum()) - float(np.trace(cosines))
        statistics["token_similarity"] = off_diagonal / (count * (count - 1))
    return statistics


def similarity(tokens: npt.NDArray[np.generic]) -> Floats:
    """Return the cosine similarity [tokens, tokens] of tokens [tokens, channels]."""
    unit = normalized(tokens)
    return np.matmul(unit, unit.T)  # type: ignore[no-any-return]


def normalized(vectors: npt.NDArray[np.generic]) -> Floats:
    """Scale vectors [..., channels] to length 1; a vector of zeros stays as it is."""
    values = vectors.astype(np.float32, copy=False)
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    result: Floats = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)
    return result
