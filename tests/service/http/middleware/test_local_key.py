import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.http.middleware.local_key import LocalKey


def test_the_file_holds_the_key_for_its_owner_only_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "local.key"
    key = LocalKey(path, 8000)
    with key.written():
        assert path.read_text() == key.token
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()


def test_by_default_the_file_is_in_the_cache_under_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    key = LocalKey(None, 8123)
    with capture_logs() as lines, key.written():
        path = tmp_path / ".cache" / "vt-serve" / "8123.key"
        assert path.read_text() == key.token
    assert lines == [{"event": "local_key", "path": str(path), "log_level": "info"}]


def test_a_leftover_link_is_replaced_and_its_target_not_overwritten(tmp_path: Path) -> None:
    path, target = tmp_path / "local.key", tmp_path / "another file"
    target.write_text("kept")
    path.symlink_to(target)
    key = LocalKey(path, 8000)
    with key.written():
        assert not path.is_symlink()
        assert path.read_text() == key.token
    assert target.read_text() == "kept"


def test_the_file_of_a_later_server_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "local.key"
    with LocalKey(path, 8000).written():
        path.write_text("another's")
    assert path.read_text() == "another's"


@pytest.mark.parametrize("name", [".", "file/below"])
def test_a_key_file_that_cannot_be_written_is_only_logged(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with capture_logs() as lines, LocalKey(tmp_path / name, 8000).written():
        pass
    assert [line["event"] for line in lines] == ["local_key_not_written"]


def test_only_the_servers_own_key_matches() -> None:
    key = LocalKey(None, 8000)
    assert key.matches(key.token.encode())
    assert not key.matches(None)
    assert not key.matches(b"")
    assert not key.matches(LocalKey(None, 8000).token.encode())
