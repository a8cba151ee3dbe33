"""Memory that one update frees serves the next, and does not go back to the system in between.

The C library gives large blocks back as soon as they are freed and asks for them anew, and the system clears every page
it hands out. Training frees and asks for the same hundreds of megabytes in each update: on a CPU a tenth of the time.
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
    """Within it freed memory stays with the process; at the end what is free goes back. Without glibc nothing happens.

    It holds for all threads of the process, so where two overlap the first to end ends both; no result depends on it.
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
