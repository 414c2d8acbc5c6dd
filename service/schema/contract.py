"""`config.json`: the contract of a model repository entry."""

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, StringConstraints, model_validator

from service.schema.preprocessing import Preprocessing
from service.schema.record import Color, Record, Sha256, Version
from service.schema.tasks import ATTENTION, SCORES, TASKS, TOKENS, TaskRow
from service.schema.version_policy import LATEST, VersionPolicy
from service.schema.vocabulary import Datatype, MetadataTensor, Task


class DynamicBatching(Record):
    """Defaults of the queue."""

    max_queue_size: PositiveInt
    max_queue_delay_microseconds: Annotated[int, Field(ge=0)] = 0


class VersionRecord(Record):
    """The contract's entry for one version."""

    certificate_sha256: Sha256
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """What the logits of a classifier are divided by before the softmax."""


class Contract(Record):
    """`config.json`: everything that clients of a model need to know."""

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
        """Return the contract as read, without the versions of the export tools."""
        values = self.as_read()
        for version in values["versions"].values():
            if isinstance(version.get("provenance"), dict):
                version["provenance"].pop("tools", None)
        return values

    def says_the_same_of(self, version: str, other: "Contract") -> bool:
        """Return whether both contracts describe this version alike, so it can stay loaded."""
        return self._of(version) == other._of(version)

    def decoding_in_full(self) -> "Contract":
        """Return the contract without the rule that decodes JPEGs at a reduced scale."""
        preprocessing = self.preprocessing.model_copy(update={"jpeg_reducing_gap": None})
        return self.model_copy(update={"preprocessing": preprocessing})

    def _of(self, version: str) -> "Contract":
        versions = {version: self.versions.get(version)}
        return self.model_copy(update={"versions": versions, "version_policy": LATEST})

    @cached_property
    def prediction(self) -> str:
        """Name of the output that holds the prediction."""
        return self._task_row.output

    @cached_property
    def token_modules(self) -> dict[str, int]:
        """The modules whose attention is an output, and their numbers of tokens."""
        modules: dict[str, int] = {}
        for output in self.outputs:
            if output.name == ATTENTION and len(output.shape) == 5:
                names = (f"module_{number}" for number in range(1, output.shape[1] + 1))
                modules |= dict.fromkeys(names, output.shape[2])
            elif output.name.startswith(f"{ATTENTION}_") and len(output.shape) == 4:
                modules[output.name.removeprefix(f"{ATTENTION}_")] = output.shape[1]
        return modules

    @cached_property
    def attention_outputs(self) -> list[str]:
        """Names of the outputs that hold the attention of tokens."""
        return [each.name for each in self.outputs if each.name.startswith(ATTENTION)]

    @cached_property
    def has_tokens(self) -> bool:
        """Whether the tokens are an output."""
        return any(each.name == TOKENS and len(each.shape) == 3 for each in self.outputs)

    @cached_property
    def has_scores(self) -> bool:
        """Whether the scores [classes, height / 4, width / 4] of a segmentation are an output."""
        return any(
            each.name == SCORES and len(each.shape) == 4 and each.shape[1] == len(self.labels)
            for each in self.outputs
        )

    @property
    def _task_row(self) -> TaskRow:
        return TASKS[self.task]

    @property
    def colors(self) -> list[Color]:
        """The palette; empty if the task has none."""
        return self.palette or []

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        self._check_input()
        self._check_outputs()
        self._check_prediction()
        if self._task_row.has_palette:
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
                raise ValueError(
                    f"the output {output.name} must hold numbers and have the shape [-1, ...]"
                )

    def _check_prediction(self) -> None:
        output = next((each for each in self.outputs if each.name == self.prediction), None)
        if output is None:
            raise ValueError(f"a {self.task} model needs the output {self.prediction}")
        row = self._task_row
        is_right = output.datatype is row.datatype and len(output.shape) == row.rank
        if not is_right or (row.has_scores and output.shape[-1] != len(self.labels)):
            raise ValueError(f"the output {self.prediction} has the wrong datatype or shape")

    def _check_palette(self) -> None:
        if self.palette is None or len(self.palette) != len(self.labels):
            raise ValueError("the palette must hold one colour per label")
        if len(self.labels) > 256:
            raise ValueError("a mask can hold at most 256 classes")
