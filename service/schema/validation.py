"""What pydantic found wrong, in a few words."""

from pydantic import ValidationError

MAX_PLACE_LETTERS = 100
"""A place may have a name that was sent: that of a key which should not be there."""


def first_problem(error: ValidationError) -> str:
    """Say where the first problem is and what it is; never what was sent."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, problem["loc"])) or "it"
    where = where if len(where) <= MAX_PLACE_LETTERS else f"{where[:MAX_PLACE_LETTERS]}..."
    return f"{where}: {problem['msg']}"
