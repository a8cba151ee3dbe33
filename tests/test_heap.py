"""Memory freed in training stays for the next update, and goes back to the system at the end."""

import os
import platform
from pathlib import Path

import pytest
import torch

from outgrow.train.heap import freed_memory_kept

BLOCK = 64 << 20

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory their own way")


def held_after_a_block() -> int:
    """Bytes of the process once a block has been filled and freed."""
    torch.zeros(BLOCK // 4)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@glibc
def test_within_it_a_freed_block_stays_and_afterwards_it_goes_back() -> None:
    outside = held_after_a_block()
    with freed_memory_kept():
        assert held_after_a_block() > outside + BLOCK / 2
    assert held_after_a_block() < outside + BLOCK / 2


@glibc
def test_it_ends_after_an_error_too() -> None:
    outside = held_after_a_block()
    with pytest.raises(RuntimeError, match="size"), freed_memory_kept():
        torch.zeros(BLOCK // 4) + torch.zeros(7)
    assert held_after_a_block() < outside + BLOCK / 2


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("no C library is asked"))
    with freed_memory_kept():
        pass
