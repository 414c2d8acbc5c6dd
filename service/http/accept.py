"""Preferences in `Accept` headers."""

from collections.abc import Sequence


def prefers(accept: str, wanted: str) -> bool:
    """Return whether a media type is named and not preceded by `application/json`."""
    rank, json = preference(accept, wanted), preference(accept, "application/json")
    return rank is not None and (json is None or rank > json)


def preferred(accept: str, wanted: Sequence[str]) -> str | None:
    """Return the media type that is preferred among those that are named; None if none is."""
    ranks = {each: rank for each in wanted if (rank := preference(accept, each)) is not None}
    return max(ranks, key=ranks.__getitem__, default=None)


def preference(accept: str, wanted: str) -> tuple[float, int] | None:
    """Return the rank of a media type in an `Accept` header; None if it is not named.

    A greater rank is preferred: by quality, then by place in the list.
    """
    for place, item in enumerate(accept.split(",")):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        if name == wanted and (quality := _quality(parameters)) > 0:
            return quality, -place
    return None


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
