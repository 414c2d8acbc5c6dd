import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from service.runtime.allocator import return_large_blocks, trim_memory


def test_memory_is_trimmed_by_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    library = SimpleNamespace(malloc_trim=kept.append)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    trim_memory()
    assert kept == [0]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_glibc_accepts_the_call() -> None:
    trim_memory()


# Large blocks between small ones that live on: only separately mapped blocks can be returned.
FREED = """
import ctypes
from service.runtime.allocator import return_large_blocks
{call}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

libc.free(libc.malloc(30 << 20))  # glibc keeps blocks of up to this size from now on
before = resident()
blocks = []
for _ in range(10):
    blocks.append(libc.malloc(20 << 20))
    ctypes.memset(blocks[-1], 1, 20 << 20)
    libc.malloc(100 << 10)
for block in blocks:
    libc.free(block)
print(resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_large_blocks_are_returned_when_they_are_freed() -> None:
    def kept(call: str) -> int:
        script = [sys.executable, "-c", FREED.format(call=call)]
        return int(subprocess.run(script, check=True, capture_output=True, text=True).stdout)

    assert kept("") > 100 << 20
    assert kept("return_large_blocks()") < 20 << 20


def test_a_c_library_without_these_functions_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: asked.append(name) or SimpleNamespace())
    trim_memory()
    return_large_blocks()
    assert asked == [None, None]
