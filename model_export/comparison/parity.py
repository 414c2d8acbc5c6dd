"""Parity of a graph in ONNX Runtime with its checkpoint in PyTorch, in numbers."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.comparison.evaluation import Outputs, answers
from model_export.comparison.predictors import graph_predictor, reference_predictor
from model_export.entry.precisions import PRECISIONS, PrecisionName, Tolerance
from model_export.errors import InvalidEntry, VerificationFailed
from model_export.execution_providers import CPU
from model_export.models.served import ServedModel
from model_export.preprocessing import Buckets, Preprocessing, RgbArray, open_image

BATCHES = (1, 2, 7)
SCORES = ("logits", "scores")
"""The outputs that decide the answer: the scores of a class, or of the class of each pixel."""
RANDOM_IMAGES = 4


@dataclass
class Parity:
    """The result of a comparison. `agreement` is the share of equal top-1 classes or pixels."""

    provider: str
    batches: list[int]
    sizes: list[tuple[int, int]]
    real_images: int
    random_images: int
    max_absolute_difference: dict[str, float] = field(default_factory=dict)
    max_relative_difference: dict[str, float] = field(default_factory=dict)
    mean_absolute_difference: dict[str, float] = field(default_factory=dict)
    agreement: float = 0.0
    precision: PrecisionName = "fp32"

    @property
    def tolerance(self) -> Tolerance:
        """The tolerance of the precision."""
        return PRECISIONS[self.precision].parity

    @property
    def failures(self) -> list[str]:
        """One sentence for each number outside the tolerance."""
        limit = self.tolerance
        sentences = [
            f"{name} differs by {value:.2e} of its largest magnitude "
            f"(tolerance {limit.max_relative_difference:.0e})"
            for name, value in self._judged.items()
            if not value <= limit.max_relative_difference
        ]
        if not self.agreement >= limit.agreement:
            sentences.append(
                f"{self.agreement:.4%} of the answers agree (tolerance {limit.agreement:.2%})"
            )
        return sentences

    @property
    def _judged(self) -> Mapping[str, float]:
        """The relative differences that the tolerance applies to."""
        differences = self.max_relative_difference
        if PRECISIONS[self.precision].answers_only:
            return {name: value for name, value in differences.items() if name in SCORES}
        return differences

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data for the certificate."""
        data = asdict(self) | {"tolerance": asdict(self.tolerance)}
        del data["provider"], data["precision"]
        data["sizes"] = [list(size) for size in self.sizes]
        return data


def require_parity(parity: Parity) -> None:
    """Raise `VerificationFailed` with every number outside the tolerance."""
    if parity.failures:
        raise VerificationFailed(
            "the graph's outputs differ from the checkpoint's: " + "; ".join(parity.failures)
        )


def verification_sizes(preprocessing: Preprocessing) -> list[tuple[int, int]]:
    """Heights and widths to compare at: the fixed input size, or several of a dynamic one."""
    resize, common = preprocessing.resize, preprocessing.common_size
    if not isinstance(resize, Buckets):
        return [common]
    photos = ((3, 4), (16, 9), (1, 1))
    sizes = (resize.size(1000 * width, 1000 * height) for width, height in photos)
    return list(dict.fromkeys([common, *((h, w) for w, h in sizes), (32, 64)]))


@dataclass(frozen=True)
class Comparison:
    """A model, its graph of one precision, and the execution provider to compare on."""

    model: ServedModel
    graph: Path
    preprocessing: Preprocessing
    photos: Sequence[Path]
    max_batch_size: int
    precision: PrecisionName = "fp32"
    provider: str = CPU


def compare(comparison: Comparison) -> Parity:
    """Run module and graph on the same photos and noise, in several batches and sizes.

    Batches are filled with photos and noise in turn. The first size is run with every batch size,
    the others with the two smallest.
    """
    batches = sorted({*BATCHES, comparison.max_batch_size})
    sizes = verification_sizes(comparison.preprocessing)
    reference = reference_predictor(comparison.model)
    predict = graph_predictor(comparison.graph, comparison.provider)
    differences = Differences()
    for images in inputs(comparison.preprocessing, comparison.photos, batches, sizes):
        differences.add(reference(images), predict(images))
    return Parity(
        provider=comparison.provider,
        batches=batches,
        sizes=sizes,
        real_images=len(comparison.photos),
        random_images=RANDOM_IMAGES * len(sizes),
        max_absolute_difference=differences.largest,
        max_relative_difference=differences.relative,
        mean_absolute_difference=differences.mean,
        agreement=differences.agreement,
        precision=comparison.precision,
    )


@dataclass
class Differences:
    """Running maxima and means of the differences between two predictors, by output."""

    largest: dict[str, float] = field(default_factory=dict)
    means: dict[str, list[float]] = field(default_factory=dict)
    magnitudes: dict[str, float] = field(default_factory=dict)
    equal: int = 0
    answers: int = 0

    def add(self, expected: Outputs, actual: Outputs) -> None:
        """Add a batch; raises `InvalidEntry` if an output is missing or has another shape."""
        for name, wanted in expected.items():
            got = _output(actual, name, wanted.shape)
            if name != "labels":
                self._add_output(name, np.abs(got.astype(np.float64) - wanted), np.abs(wanted))
        same = answers(expected) == answers(actual)
        self.equal, self.answers = self.equal + int(same.sum()), self.answers + same.size

    def _add_output(
        self, name: str, difference: npt.NDArray[Any], magnitude: npt.NDArray[Any]
    ) -> None:
        # `np.maximum`, unlike `max`, propagates NaN.
        self.largest[name] = float(np.maximum(self.largest.get(name, 0.0), difference.max()))
        self.magnitudes[name] = float(np.maximum(self.magnitudes.get(name, 0.0), magnitude.max()))
        self.means.setdefault(name, []).append(float(difference.mean()))

    @property
    def relative(self) -> dict[str, float]:
        """The largest difference divided by the largest magnitude, by output."""
        return {name: v / max(self.magnitudes[name], 1e-12) for name, v in self.largest.items()}

    @property
    def mean(self) -> dict[str, float]:
        """The mean absolute difference, by output."""
        return {name: float(np.mean(values)) for name, values in self.means.items()}

    @property
    def agreement(self) -> float:
        """The share of equal top-1 classes or pixels."""
        return self.equal / self.answers


def _output(outputs: Outputs, name: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if name not in outputs:
        raise InvalidEntry(f"the graph has no output {name}")
    if outputs[name].shape != shape:
        raise InvalidEntry(f"output {name} has shape {outputs[name].shape}, expected {shape}")
    return outputs[name]


def inputs(
    preprocessing: Preprocessing,
    photos: Sequence[Path],
    batches: Sequence[int],
    sizes: Sequence[tuple[int, int]],
) -> Iterator[RgbArray]:
    """Batches of photos and noise, UINT8 `[B, H, W, 3]`, as `compare` describes."""
    chance = np.random.default_rng(0)
    for index, (height, width) in enumerate(sizes):
        noise = chance.integers(0, 256, (RANDOM_IMAGES, height, width, 3)).astype(np.uint8)
        turns = itertools.cycle(
            [*(_photo(p, preprocessing, height, width) for p in photos), *noise]
        )
        for batch in batches if index == 0 else batches[:2]:
            yield np.stack(list(itertools.islice(turns, batch)))


def _photo(path: Path, preprocessing: Preprocessing, height: int, width: int) -> RgbArray:
    array = preprocessing.read(path)
    if array.shape[:2] == (height, width):
        return array
    return np.asarray(preprocessing.to_rgb(open_image(path)).resize((width, height)))
