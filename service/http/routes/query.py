"""What a query may say; an option that is not known is refused."""

from pydantic import BaseModel, ConfigDict, Field


class NoQuery(BaseModel):
    """A query without options."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VersionQuery(NoQuery):
    """Which version of a model is meant."""

    version: str | None = Field(
        None, min_length=1, description="by default the newest that is ready"
    )
