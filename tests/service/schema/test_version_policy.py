import pytest
from pydantic import ValidationError

from service.schema.version_policy import LATEST, VersionPolicy, parse_version_policy

LISTED = ["2", "10", "9"]


@pytest.mark.parametrize(
    ("policy", "text", "wanted"),
    [
        ({"latest": {}}, "latest:1", ["10"]),
        ({"latest": {"num_versions": 2}}, "latest:2", ["10", "9"]),
        ({"latest": {"num_versions": 7}}, "latest:7", ["10", "9", "2"]),
        ({"all": {}}, "all", ["10", "9", "2"]),
        ({"specific": {"versions": [2, 9, 2]}}, "specific:2,9,2", ["9", "2"]),
        ({"specific": {"versions": [7]}}, "specific:7", ["7"]),
    ],
)
def test_a_policy_chooses_among_the_listed_versions_the_newest_first(
    policy: dict, text: str, wanted: list[str]
) -> None:
    assert VersionPolicy.model_validate(policy).wanted(LISTED) == wanted
    assert parse_version_policy(text).wanted(LISTED) == wanted


def test_the_newest_alone_is_the_default() -> None:
    assert LATEST.wanted(LISTED) == ["10"]


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"newest": {}},
        {"latest": {}, "all": {}},
        {"latest": {"num_versions": 0}},
        {"latest": {"number": 1}},
        {"specific": {"versions": []}},
        {"specific": {"versions": [0]}},
        {"specific": {"versions": [10**18]}},
        {"specific": {"versions": list(range(1, 66))}},
        {"specific": {}},
    ],
)
def test_an_invalid_policy_is_refused(policy: dict) -> None:
    with pytest.raises(ValidationError):
        VersionPolicy.model_validate(policy)


@pytest.mark.parametrize(
    "text", ["", "newest", "latest", "latest:0", "latest:x", "all:1", "specific", "specific:1,,2"]
)
def test_an_invalid_text_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be latest:N, all, or specific:N,N$"):
        parse_version_policy(text)
