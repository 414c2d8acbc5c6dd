"""The contract of a repository entry: `config.json` and `certificate.json` as typed values."""

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from service.errors import InvalidEntry
from service.schema.protocol import Datatype, MetadataTensor, Task
from service.schema.validation import first_problem
from service.schema.version_policy import LATEST, VersionPolicy

NOT_LISTED = "config.json does not list it"


def _unless_nan(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


Byte = Annotated[int, Field(ge=0, le=255)]
Side = Annotated[int, Field(ge=1, le=8192)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,17}$")]
GraphFile = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.onnx$")]
GoldenFile = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.npz$")]
ExternalFile = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
Share = Annotated[float, Field(ge=0, le=1)]
Measured = Annotated[Share | None, BeforeValidator(_unless_nan)]
Color = tuple[Byte, Byte, Byte]


class Record(BaseModel):
    """A value read from a file; keys that this service does not know are kept and not read."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def as_read(self) -> dict[str, Any]:
        """Return it as JSON again, without defaults; what is no number is null."""
        values: dict[str, Any] = json.loads(self.model_dump_json(exclude_unset=True))
        return values


class Squash(Record):
    """Straight to the size, whatever the aspect ratio."""

    mode: Literal["squash"]
    height: Side
    width: Side


class Crop(Record):
    """The short side to `short_side`, then the centre."""

    mode: Literal["crop"]
    short_side: Side
    height: Side
    width: Side

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.short_side < max(self.height, self.width):
            raise ValueError("short_side is smaller than the crop")
        return self


class Buckets(Record):
    """To whichever of `sizes` (height, width) is nearest in aspect ratio; the first of equals."""

    mode: Literal["buckets"]
    sizes: Annotated[list[tuple[Side, Side]], Field(min_length=1)]


Resize = Annotated[Squash | Crop | Buckets, Field(discriminator="mode")]


class Preprocessing(Record):
    """How a photo becomes the graph's input."""

    color_space: Literal["RGB"]
    exif_orientation: bool
    fill: Color
    filter: Literal["bilinear", "bicubic"]
    resize: Resize

    @property
    def common_size(self) -> tuple[int, int]:
        """The width and height at which the graph sees a photo of aspect ratio 4:3."""
        return self.input_size(4, 3)

    @property
    def input_sizes(self) -> list[tuple[int, int]]:
        """Every width and height at which the graph sees photos."""
        match self.resize:
            case Squash() | Crop() as fixed:
                return [(fixed.width, fixed.height)]
            case Buckets(sizes=sizes):
                return [(width, height) for height, width in sizes]

    def input_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height at which the graph sees a photo of this size."""
        match self.resize:
            case Squash() | Crop() as fixed:
                return fixed.width, fixed.height
            case Buckets(sizes=sizes):
                nearest = min(sizes, key=lambda size: _distortion(width, height, size))
                return nearest[1], nearest[0]


def _distortion(width: int, height: int, size: tuple[int, int]) -> float:
    """How far the aspect ratio is changed, either way."""
    return abs(math.log(width * size[0] / (height * size[1])))


class DynamicBatching(Record):
    """Defaults of the queue."""

    max_queue_size: PositiveInt
    max_queue_delay_microseconds: Annotated[int, Field(ge=0)] = 0


class VersionRecord(Record):
    """What the contract says of one version."""

    certificate_sha256: Sha256


class Contract(Record):
    """`config.json`: what clients of the model must know, typed nowhere else."""

    format_version: Literal[1]
    name: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    task: Task
    platform: Literal["onnxruntime_onnx"]
    max_batch_size: PositiveInt
    inputs: Annotated[list[MetadataTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[MetadataTensor], Field(min_length=1)]
    labels: Annotated[list[str], Field(min_length=1)]
    palette: list[Color] | None = None
    preprocessing: Preprocessing
    dynamic_batching: DynamicBatching
    version_policy: VersionPolicy = LATEST
    versions: Annotated[dict[Version, VersionRecord], Field(min_length=1)]

    def as_told(self) -> dict[str, Any]:
        """Return it as read, but for the versions of the libraries that made the graphs."""
        values = self.as_read()
        for version in values["versions"].values():
            if isinstance(version.get("provenance"), dict):
                version["provenance"].pop("tools", None)
        return values

    def says_the_same_of(self, version: str, other: "Contract") -> bool:
        """Whether an instance of this version, loaded by the other contract, may stay."""
        return self._of(version) == other._of(version)

    def _of(self, version: str) -> "Contract":
        versions = {version: self.versions.get(version)}
        return self.model_copy(update={"versions": versions, "version_policy": LATEST})

    @property
    def prediction(self) -> str:
        """The output that answers the task."""
        return "logits" if self.task is Task.CLASSIFICATION else "labels"

    @property
    def colors(self) -> list[Color]:
        """The palette; empty where the task has none."""
        return self.palette or []

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        self._check_input()
        self._check_outputs()
        self._check_prediction()
        if self.task is Task.SEGMENTATION:
            self._check_palette()
        return self

    def _check_input(self) -> None:
        images = self.inputs[0]
        if images.name != "images" or images.datatype is not Datatype.UINT8:
            raise ValueError("the input must be images UINT8")
        if len(images.shape) != 4 or images.shape[0] != -1 or images.shape[3] != 3:
            raise ValueError("the input's shape must be [-1, height, width, 3]")
        for size in self.preprocessing.input_sizes:
            for side, wanted in zip(images.shape[2:0:-1], size, strict=True):
                if side not in (-1, wanted):
                    raise ValueError("the input's shape differs from the preprocessing's size")

    def _check_outputs(self) -> None:
        for output in self.outputs:
            if output.datatype in (Datatype.BF16, Datatype.BYTES) or output.shape[:1] != [-1]:
                raise ValueError(f"the output {output.name} must be numbers of shape [-1, ...]")

    def _check_prediction(self) -> None:
        output = next((each for each in self.outputs if each.name == self.prediction), None)
        if output is None:
            raise ValueError(f"a {self.task} model needs the output {self.prediction}")
        if self.task is Task.CLASSIFICATION:
            expected = (Datatype.FP32, [-1, len(self.labels)])
            found = (output.datatype, output.shape)
        else:
            expected, found = (Datatype.UINT8, [3]), (output.datatype, [len(output.shape)])
        if found != expected:
            raise ValueError(f"the output {self.prediction} has the wrong datatype or shape")

    def _check_palette(self) -> None:
        if self.palette is None or len(self.palette) != len(self.labels):
            raise ValueError("the palette must hold one colour a label")
        if len(self.labels) > 256:
            raise ValueError("a mask holds at most 256 classes")


class FileRecord(Record):
    """A file's hash."""

    sha256: Sha256


class SelfTestTolerance(Record):
    """How far the golden outputs may be off on this machine."""

    max_relative_difference: Annotated[float, Field(ge=0)]
    agreement: Share


class AccuracyRecord(Record):
    """Shares of right answers on a data set, None where not measured; equal data, equal SHA-256."""

    data: str
    sha256: Sha256 | None = None
    images: PositiveInt
    top1: Measured = None
    top5: Measured = None
    miou: Measured = None
    pixel_accuracy: Measured = None
    agreement_with_fp32: Measured = None

    def metric(self, task: Task) -> float | None:
        """Return the figure by which models of a task are compared: top1 or miou."""
        return self.top1 if task is Task.CLASSIFICATION else self.miou


class ProviderRecord(Record):
    """What was measured on one execution provider."""

    accuracy: AccuracyRecord | None = None


class Limits(Record):
    """How far a precision may be from fp32 to be chosen unasked, as shares; None is no limit."""

    accuracy_loss: float | None = None
    agreement_with_fp32: float | None = None


class PrecisionRecord(Record):
    """The graph of one precision: its files, and what was measured of it."""

    file: GraphFile
    external_data: list[ExternalFile] = []
    golden_outputs: GoldenFile | None = None
    limits: Limits = Limits()
    self_test: SelfTestTolerance
    execution_providers: dict[str, ProviderRecord] = {}

    def accuracies(self, provider: str) -> list[AccuracyRecord]:
        """List what was measured, first on this execution provider, then on the CPU's."""
        order = dict.fromkeys((provider, "CPUExecutionProvider", *self.execution_providers))
        records = [self.execution_providers.get(name, ProviderRecord()) for name in order]
        return [record.accuracy for record in records if record.accuracy is not None]


class Certificate(Record):
    """`certificate.json`: what was measured before the graph got its name."""

    format_version: Literal[1]
    model: str
    version: Version
    files: dict[str, FileRecord]
    golden: GoldenFile
    precisions: dict[str, PrecisionRecord]

    def precision(self, name: str) -> PrecisionRecord:
        """Return what is stated of a precision."""
        if name not in self.precisions:
            raise InvalidEntry(f"certificate.json states no {name} graph")
        return self.precisions[name]

    def golden_outputs(self, precision: str) -> str:
        """Name the file that holds what a precision made of the golden inputs."""
        return self.precision(precision).golden_outputs or self.golden

    def sha256(self, file: str) -> str:
        """Return a file's SHA-256."""
        if file not in self.files:
            raise InvalidEntry(f"certificate.json states no SHA-256 of {file}")
        return self.files[file].sha256


R = TypeVar("R", bound=Record)


def read_contract(folder: Path) -> Contract:
    """Read and check `config.json`; the folder's name is the model's."""
    data = _read(folder / "config.json")
    contract = _parse(Contract, data, "config.json")
    if contract.name != folder.name:
        raise InvalidEntry(f"config.json names the model {contract.name}, its folder {folder.name}")
    _check_preprocessing_hash(json.loads(data))
    return contract


def read_certificate(folder: Path, contract: Contract, version: str) -> Certificate:
    """Read the version's certificate; its SHA-256 must be the one in the contract."""
    if version not in contract.versions:
        raise InvalidEntry(NOT_LISTED)
    data = _read(folder / version / "certificate.json")
    if hashlib.sha256(data).hexdigest() != contract.versions[version].certificate_sha256:
        raise InvalidEntry("certificate.json does not have the SHA-256 that config.json states")
    certificate = _parse(Certificate, data, "certificate.json")
    if (certificate.model, certificate.version) != (contract.name, version):
        raise InvalidEntry("certificate.json is of another model or version")
    return certificate


def read_certified(folder: Path, certificate: Certificate, file: str) -> bytes:
    """Read a file of the version; its SHA-256 must be the one in the certificate."""
    sha256 = certificate.sha256(file)
    data = _read(folder / certificate.version / file)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InvalidEntry(f"{file} does not have the SHA-256 that certificate.json states")
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidEntry(f"{path.name} cannot be read: {error.strerror}") from error


def _parse(record: type[R], data: bytes, name: str) -> R:
    try:
        return record.model_validate_json(data)
    except ValidationError as error:
        raise InvalidEntry(f"{name} is not valid: {first_problem(error)}") from error


def _check_preprocessing_hash(config: dict[str, object]) -> None:
    canonical = json.dumps(config["preprocessing"], sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(canonical.encode()).hexdigest() != config.get("preprocessing_sha256"):
        raise InvalidEntry("config.json's preprocessing does not have the SHA-256 that it states")
