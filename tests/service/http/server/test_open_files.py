"""The limit of open files, and the connections that it has room for."""

import resource

import pytest
from structlog.testing import capture_logs

from service.http.server.open_files import connections_within

Limits = tuple[int, int]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> list[Limits]:
    """The limits that were set; the last one applies."""
    limits: list[Limits] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    return limits


def test_a_sufficient_limit_is_not_changed(limit: list[Limits]) -> None:
    limit.append((1024, 4096))
    assert connections_within(512, 1) == 512
    limit.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert connections_within(512, 2) == 512
    assert len(limit) == 2


@pytest.mark.parametrize("hard", [4096, resource.RLIM_INFINITY])
def test_the_limit_is_raised_as_far_as_needed(limit: list[Limits], hard: int) -> None:
    limit.append((200, hard))
    with capture_logs() as lines:
        assert connections_within(512, 2) == 512
    assert limit[-1] == (1152, hard)  # 2 * (512 + 16) connections and 96 other files
    assert lines == []


def test_a_limit_that_cannot_be_raised_lowers_the_connections_of_each_port(
    limit: list[Limits],
) -> None:
    limit.append((200, 300))
    with capture_logs() as lines:
        fit = connections_within(512, 2)
    assert limit[-1] == (300, 300)
    assert fit == 86
    (line,) = lines
    assert (line["event"], line["max_connections"], line["wanted"], line["open_files"]) == (
        *("connections_lowered", 86, 512, 300),
    )


def test_at_least_one_connection_is_allowed(limit: list[Limits]) -> None:
    limit.append((20, 20))
    assert connections_within(512, 1) == 1


def test_without_permission_the_limit_is_not_changed(
    limit: list[Limits], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(resource, "setrlimit", refuse)
    limit.append((200, 4096))
    assert connections_within(512, 1) == 88
