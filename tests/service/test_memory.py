import ctypes

import pytest

from service.memory import trim_memory


@pytest.mark.parametrize("library", [ctypes.CDLL(None), object()], ids=["this one", "another"])
def test_memory_is_trimmed_where_the_c_library_can(
    library: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    trim_memory()
