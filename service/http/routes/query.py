"""Query parameters; unknown ones are rejected."""

from pydantic import BaseModel, ConfigDict, Field


class NoQuery(BaseModel):
    """A query without parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VersionQuery(NoQuery):
    """The version of a model."""

    version: str | None = Field(
        None,
        min_length=1,
        description="Version of the model; by default, the newest that is ready.",
    )
