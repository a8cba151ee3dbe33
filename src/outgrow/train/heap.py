"""Keeps the memory that one update frees for the next one, instead of returning it to the system in between.

The C library returns large blocks as soon as they are freed and asks for them again, and the system clears every page
it hands out. Training frees and needs the same hundreds of megabytes in each update: on a CPU, a tenth of the time.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["freed_memory_kept"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of mallopt(3)
_BLOCKS = 65536  # that may be mapped one by one: glibc's default
_LARGE = 32 << 20  # what glibc's own threshold for this grows to


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory in the process, and return it at the end. Does nothing without glibc.

    This affects all threads of the process: if two overlap, the first to end also ends the other. No result changes.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _BLOCKS)
        libc.mallopt(_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGE)
        libc.malloc_trim(0)
