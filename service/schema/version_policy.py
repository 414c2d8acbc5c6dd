"""Version policies: the versions to load, as in Triton's model configuration."""

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

MAX_VERSIONS = 64
"""Limit on the length of a list of versions."""

VersionNumber = Annotated[int, Field(ge=1, lt=10**18)]


class _Choice(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Latest(_Choice):
    """The versions with the highest numbers."""

    num_versions: PositiveInt = 1


class All(_Choice):
    """Every version."""


class Specific(_Choice):
    """The listed versions only; a missing one cannot be loaded."""

    versions: Annotated[list[VersionNumber], Field(min_length=1, max_length=MAX_VERSIONS)]


class VersionPolicy(_Choice):
    """Exactly one of `latest`, `all` and `specific`."""

    latest: Latest | None = None
    all: All | None = None
    specific: Specific | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if sum(choice is not None for choice in (self.latest, self.all, self.specific)) != 1:
            raise ValueError("exactly one of latest, all and specific must be given")
        return self

    def wanted(self, listed: Iterable[str]) -> list[str]:
        """Return the versions to load among those of a contract, newest first."""
        if self.specific is not None:
            return [str(each) for each in sorted(set(self.specific.versions), reverse=True)]
        newest_first = sorted(listed, key=int, reverse=True)
        return newest_first if self.latest is None else newest_first[: self.latest.num_versions]


LATEST = VersionPolicy(latest=Latest())


def parse_version_policy(text: str) -> VersionPolicy:
    """Parse `latest:2`, `all` or `specific:1,3`; raises `ValueError` with one sentence."""
    kind, _, rest = text.partition(":")
    values = {
        "latest": {"num_versions": rest},
        "all": {"": rest} if rest else {},
        "specific": {"versions": rest.split(",")},
    }
    try:
        return VersionPolicy.model_validate({kind: values.get(kind)})
    except ValidationError:
        raise ValueError("must be latest:N, all, or specific:N,N") from None
