"""Does the graph compute what the checkpoint computes? Torch against ONNX Runtime, in numbers."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.comparison.evaluation import Outputs, answers
from model_export.comparison.predictors import CPU, SCORES, reference_predictor, scores_predictor
from model_export.entry.precisions import PRECISIONS, PrecisionName, Tolerance
from model_export.errors import InvalidEntry, VerificationFailed
from model_export.models.served import ServedModel
from model_export.preprocessing import Buckets, Preprocessing, RgbArray, open_image, to_rgb

BATCHES = (1, 2, 7)
RANDOM_IMAGES = 4


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
    precision: PrecisionName = "fp32"

    @property
    def tolerance(self) -> Tolerance:
        """What the precision allows."""
        return PRECISIONS[self.precision].parity

    @property
    def failures(self) -> list[str]:
        """A sentence for each number beyond the tolerance; empty where the graph is equal."""
        limit = self.tolerance
        sentences = [
            f"{name} differs by {value:.2e} of its largest magnitude, more than "
            f"{limit.max_relative_difference:.0e}"
            for name, value in self._judged.items()
            if not value <= limit.max_relative_difference
        ]
        if not self.agreement >= limit.agreement:
            sentences.append(f"only {self.agreement:.4%} of the answers agree")
        return sentences

    @property
    def _judged(self) -> Mapping[str, float]:
        differences = self.max_relative_difference
        if PRECISIONS[self.precision].answers_only:
            return {name: value for name, value in differences.items() if name == SCORES}
        return differences

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data for the certificate."""
        data = asdict(self) | {"tolerance": asdict(self.tolerance)}
        del data["provider"], data["precision"]
        data["sizes"] = [list(size) for size in self.sizes]
        return data


def require_parity(parity: Parity) -> None:
    """Raise `VerificationFailed` with every number that is beyond the tolerance."""
    if parity.failures:
        raise VerificationFailed(
            "the graph does not compute what the checkpoint computes: " + "; ".join(parity.failures)
        )


def verification_sizes(preprocessing: Preprocessing) -> list[tuple[int, int]]:
    """Heights and widths to compare at: the one input size, or several of a dynamic input."""
    resize, common = preprocessing.resize, preprocessing.common_size
    if not isinstance(resize, Buckets):
        return [common]
    photos = ((3, 4), (16, 9), (1, 1))
    sizes = (resize.size(1000 * width, 1000 * height) for width, height in photos)
    return list(dict.fromkeys([common, *((h, w) for w, h in sizes), (32, 64)]))


@dataclass(frozen=True)
class Comparison:
    """What is compared: a model's graph of one precision, on one execution provider."""

    model: ServedModel
    graph: Path
    preprocessing: Preprocessing
    photos: Sequence[Path]
    max_batch_size: int
    precision: PrecisionName = "fp32"
    provider: str = CPU


def compare(comparison: Comparison) -> Parity:
    """Run module and graph on the same images: photos and noise, several batches and sizes.

    Photos and noise take turns to fill the batches; at sizes other than the first, only the two
    smallest are run.
    """
    batches = sorted({*BATCHES, comparison.max_batch_size})
    sizes = verification_sizes(comparison.preprocessing)
    reference = reference_predictor(comparison.model)
    predict = scores_predictor(comparison.graph, comparison.provider)
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
    """Running maxima and means over pairs of outputs by name."""

    largest: dict[str, float] = field(default_factory=dict)
    means: dict[str, list[float]] = field(default_factory=dict)
    magnitudes: dict[str, float] = field(default_factory=dict)
    equal: int = 0
    answers: int = 0

    def add(self, expected: Outputs, actual: Outputs) -> None:
        """Count a batch; raises `InvalidEntry` where an output is missing or of another shape."""
        for name, wanted in expected.items():
            if name not in actual:
                raise InvalidEntry(f"the graph has no output {name}")
            got = actual[name]
            if got.shape != wanted.shape:
                raise InvalidEntry(f"the graph gives {name} {got.shape}, not {wanted.shape}")
            if name != "labels":
                self._add_output(name, np.abs(got.astype(np.float64) - wanted), np.abs(wanted))
        same = answers(expected) == answers(actual)
        self.equal, self.answers = self.equal + int(same.sum()), self.answers + same.size

    def _add_output(
        self, name: str, difference: npt.NDArray[Any], magnitude: npt.NDArray[Any]
    ) -> None:
        """`np.maximum` and not `max`: it keeps what is not a number."""
        self.largest[name] = float(np.maximum(self.largest.get(name, 0.0), difference.max()))
        self.magnitudes[name] = float(np.maximum(self.magnitudes.get(name, 0.0), magnitude.max()))
        self.means.setdefault(name, []).append(float(difference.mean()))

    @property
    def relative(self) -> dict[str, float]:
        """The largest difference over the largest magnitude, by output."""
        return {name: v / max(self.magnitudes[name], 1e-12) for name, v in self.largest.items()}

    @property
    def mean(self) -> dict[str, float]:
        """The mean absolute difference, by output."""
        return {name: float(np.mean(values)) for name, values in self.means.items()}

    @property
    def agreement(self) -> float:
        """The share of equal top-1 classes or pixels."""
        return self.equal / self.answers


def inputs(
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
        for batch in batches if index == 0 else batches[:2]:
            yield np.stack(list(itertools.islice(turns, batch)))


def _photo(path: Path, preprocessing: Preprocessing, height: int, width: int) -> RgbArray:
    image = open_image(path)
    array = preprocessing(image)
    if array.shape[:2] == (height, width):
        return array
    return np.asarray(to_rgb(image, preprocessing.fill).resize((width, height)))
