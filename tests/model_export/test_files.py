"""Files are replaced atomically and identified by SHA-256."""

import pytest

from model_export import files
from model_export.files import files_in, sha256, write_atomically


def test_writing_replaces_a_file_whole(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_hash_is_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    digest = sha256(path)
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_only_the_files_of_a_folder_are_listed_in_order(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert [path.name for path in files_in(tmp_path)] == ["a", "b"]
    assert files_in(tmp_path / "missing") == []
