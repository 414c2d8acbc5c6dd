"""Validation errors of pydantic in a few words."""

from pydantic import ValidationError

MAX_PLACE_LETTERS = 100
"""A location may contain text from the client: the name of an unexpected key."""


def first_problem(error: ValidationError) -> str:
    """Describe the first problem and its location, without the value that was sent."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, problem["loc"]))
    where = where if len(where) <= MAX_PLACE_LETTERS else f"{where[:MAX_PLACE_LETTERS]}..."
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])
