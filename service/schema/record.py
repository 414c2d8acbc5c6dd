"""Values read from files of the model repository, and the types of their fields."""

import json
import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints


def _unless_nan(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


Byte = Annotated[int, Field(ge=0, le=255)]
Side = Annotated[int, Field(ge=1, le=8192)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,17}$")]
GraphFile = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.onnx$")]
ArrayFile = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*\.npz$")]
ExternalFile = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
Share = Annotated[float, Field(ge=0, le=1)]
Measured = Annotated[Share | None, BeforeValidator(_unless_nan)]
Color = tuple[Byte, Byte, Byte]


class Record(BaseModel):
    """A value read from a file; unknown keys are kept but ignored."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def as_read(self) -> dict[str, Any]:
        """Return the value as JSON data, without defaults; NaN becomes null."""
        values: dict[str, Any] = json.loads(self.model_dump_json(exclude_unset=True))
        return values
