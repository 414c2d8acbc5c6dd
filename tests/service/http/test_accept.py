import pytest

from service.http.accept import preferred, prefers


@pytest.mark.parametrize(
    ("accept", "png"),
    [
        ("", False),
        ("*/*", False),
        ("image/*", False),
        ("application/json", False),
        ("image/png", True),
        ("IMAGE/PNG ; q=0.5", True),
        ("image/png;q=0", False),
        ("image/png;q=x", False),
        ("image/png, application/json", True),
        ("application/json, image/png", False),
        ("application/json;q=0.5, image/png", True),
        ("image/png;q=0.8, application/json;q=0.9", False),
        ("image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", True),
    ],
)
def test_a_png_is_preferred_if_accept_names_it_and_does_not_prefer_json(
    accept: str, png: bool
) -> None:
    assert prefers(accept, "image/png") is png


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", None),
        ("*/*", None),
        ("image/avif,image/webp,image/png", "image/webp"),
        ("image/png,image/webp", "image/png"),
        ("image/png;q=0.1, image/webp;q=0.2", "image/webp"),
        ("image/webp;q=0", None),
    ],
)
def test_the_preferred_of_several_types_is_the_first_of_the_best_quality(
    accept: str, wanted: str | None
) -> None:
    assert preferred(accept, ["image/png", "image/webp"]) == wanted
