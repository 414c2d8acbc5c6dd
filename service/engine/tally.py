"""A counter whose total may include what other processes count."""

from typing import Protocol


class Tally(Protocol):
    """Counts something that is limited."""

    @property
    def own(self) -> int:
        """What this process counts."""

    @property
    def total(self) -> int:
        """What all processes count; the limits apply to it."""

    def add(self, number: int) -> None:
        """Count; a negative number counts down."""


class LocalTally:
    """A counter of the only process."""

    __slots__ = ("own", "total")

    def __init__(self) -> None:
        self.own = self.total = 0

    def add(self, number: int) -> None:
        """Count."""
        self.own = self.total = self.own + number
