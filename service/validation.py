"""What pydantic found wrong, in a few words."""

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """Say where the first problem is and what it is; never what was sent."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, problem["loc"])) or "it"
    return f"{where}: {problem['msg']}"
