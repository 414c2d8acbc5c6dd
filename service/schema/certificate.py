"""`certificate.json`: the measurements of a version before its publication."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from service.errors import InvalidEntry
from service.schema.record import (
    ArrayFile,
    ExternalFile,
    GraphFile,
    Measured,
    Record,
    Sha256,
    Share,
    Version,
)
from service.schema.tasks import TASKS
from service.schema.vocabulary import Task


class FileRecord(Record):
    """A file's hash."""

    sha256: Sha256


class SelfTestTolerance(Record):
    """Limits on the difference between this machine's outputs and the golden outputs."""

    max_relative_difference: Annotated[float, Field(ge=0)]
    agreement: Share


class Distribution(Record):
    """The shares of values in bins that are separated by `bounds`."""

    bounds: list[float]
    shares: list[Share]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.shares) != len(self.bounds) + 1 or self.bounds != sorted(self.bounds):
            raise ValueError("there must be one share more than bounds, which are in order")
        return self


class AccuracyRecord(Record):
    """Accuracy on a data set, which its SHA-256 identifies; None means not measured."""

    data: str
    sha256: Sha256 | None = None
    images: PositiveInt
    top1: Measured = None
    top5: Measured = None
    miou: Measured = None
    pixel_accuracy: Measured = None
    agreement_with_fp32: Measured = None
    token_statistics: dict[str, Distribution] = {}

    def metric(self, task: Task) -> float | None:
        """Return the metric that compares models of a task."""
        value: float | None = getattr(self, TASKS[task].metric)
        return value


class ProviderRecord(Record):
    """Measurements on one execution provider."""

    accuracy: AccuracyRecord | None = None


class Limits(Record):
    """Largest loss against fp32, as shares, that a precision may have; None means no limit."""

    accuracy_loss: float | None = None
    agreement_with_fp32: float | None = None


class PrecisionRecord(Record):
    """The graph of one precision: its files and measurements."""

    file: GraphFile
    external_data: list[ExternalFile] = []
    golden_outputs: ArrayFile | None = None
    limits: Limits = Limits()
    self_test: SelfTestTolerance
    execution_providers: dict[str, ProviderRecord] = {}

    def accuracies(self, provider: str) -> list[AccuracyRecord]:
        """List the accuracies on this execution provider, then on the CPU, then on others."""
        order = dict.fromkeys((provider, "CPUExecutionProvider", *self.execution_providers))
        records = [self.execution_providers.get(name, ProviderRecord()) for name in order]
        return [record.accuracy for record in records if record.accuracy is not None]


class ScaledDecoding(Record):
    """How often photos decoded at a reduced scale get the answers of photos decoded in full."""

    data: str
    sha256: Sha256
    images: PositiveInt
    agreement: Share
    limit: Share

    @property
    def objection(self) -> str | None:
        """The reason against decoding at a reduced scale; None if there is none."""
        if self.agreement >= self.limit:
            return None
        return (
            f"{100 * self.agreement:.2f} % of the answers stay the same; "
            f"at least {100 * self.limit:.2f} % is required"
        )


class Certificate(Record):
    """`certificate.json`: measurements and hashes of a version's files."""

    format_version: Literal[1]
    model: str
    version: Version
    files: dict[str, FileRecord]
    golden: ArrayFile
    head: ArrayFile | None = None
    precisions: dict[str, PrecisionRecord]
    scaled_decoding: ScaledDecoding | None = None

    def precision(self, name: str) -> PrecisionRecord:
        """Return the record of a precision."""
        if name not in self.precisions:
            raise InvalidEntry(f"certificate.json lists no {name} graph")
        return self.precisions[name]

    def golden_outputs(self, precision: str) -> str:
        """Return the name of the file with a precision's outputs for the golden inputs."""
        return self.precision(precision).golden_outputs or self.golden

    def sha256(self, file: str) -> str:
        """Return a file's SHA-256."""
        if file not in self.files:
            raise InvalidEntry(f"certificate.json lists no SHA-256 for {file}")
        return self.files[file].sha256
