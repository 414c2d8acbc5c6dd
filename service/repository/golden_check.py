"""The golden inputs of the self-test, and the comparison of their outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import InvalidEntry
from service.images.photo import ImageArray
from service.runtime.arrays import Array
from service.schema.certificate import Certificate, SelfTestTolerance
from service.schema.contract import Contract
from service.schema.files import read_arrays
from service.schema.tasks import TASKS
from service.schema.vocabulary import Task


@dataclass(frozen=True)
class GoldenInput:
    """An input of the graph, UINT8 [height, width, 3], and its certified output."""

    image: ImageArray
    expected: Array


@dataclass(frozen=True)
class Comparison:
    """The difference between the outputs of a graph and the certified ones.

    `agreement` is the share of equal top-1 classes, or of equal pixels.
    """

    max_absolute_error: float
    max_relative_error: float
    agreement: float

    def failure(self, tolerance: SelfTestTolerance) -> str | None:
        """Return a sentence on the exceeded tolerance; None if the test passed."""
        if not self.max_relative_error <= tolerance.max_relative_difference:
            return (
                f"the self-test failed: an output differs by {self.max_relative_error:.1e} of the "
                f"largest value; at most {tolerance.max_relative_difference:.1e} is allowed"
            )
        if not self.agreement >= tolerance.agreement:
            return (
                f"the self-test failed: {self.agreement:.2%} of the answers match the certificate; "
                f"at least {tolerance.agreement:.2%} is required"
            )
        return None


def read_golden(
    folder: Path, contract: Contract, certificate: Certificate, precision: str
) -> list[GoldenInput]:
    """Read a version's golden inputs and a precision's outputs; raises `InvalidEntry`."""
    images = _read_arrays(folder, certificate, certificate.golden, "image")
    if not images:
        raise InvalidEntry(f"{certificate.golden} contains no golden inputs")
    file = certificate.golden_outputs(precision)
    outputs = _read_arrays(folder, certificate, file, contract.prediction)
    if images.keys() != outputs.keys():
        raise InvalidEntry(f"{file} does not contain one output per golden input")
    return [GoldenInput(images[index], outputs[index]) for index in images]


def _read_arrays(
    folder: Path, certificate: Certificate, file: str, name: str
) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays `<name>_<n>` of a file, by n."""
    arrays = read_arrays(folder, certificate, file)
    return {
        each.removeprefix(f"{name}_"): array
        for each, array in arrays.items()
        if each.startswith(f"{name}_")
    }


def compare(task: Task, golden: Sequence[GoldenInput], actual: Sequence[Array]) -> Comparison:
    """Compare the outputs of a graph with the certified ones, in the order of the inputs."""
    for each, result in zip(golden, actual, strict=True):
        if each.expected.shape != result.shape:
            raise InvalidEntry(
                f"the self-test failed: an output is {list(result.shape)}, "
                f"not {list(each.expected.shape)}"
            )
    row = TASKS[task]
    agreement = row.agreement(
        (each.expected, result) for each, result in zip(golden, actual, strict=True)
    )
    if not row.has_scores:  # a difference between class indices has no meaning
        return Comparison(0.0, 0.0, agreement)
    expected = np.concatenate([each.expected.reshape(-1) for each in golden]).astype(np.float64)
    found = np.concatenate([result.reshape(-1) for result in actual]).astype(np.float64)
    error = float(np.abs(expected - found).max())
    return Comparison(error, error / max(float(np.abs(expected).max()), 1e-12), agreement)
