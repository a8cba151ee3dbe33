"""Memory freed in training stays for the next update, and goes back to the system at the end."""

import platform
import subprocess
import sys

import pytest

from outgrow.train.heap import freed_memory_kept

BLOCK = 64 << 20

# In a process of its own: what other tests have left free in this one's heap would serve the block as well.
MEASURE = f"""
import os
from pathlib import Path
import torch
from outgrow.train.heap import freed_memory_kept

def held_after_a_block():
    torch.zeros({BLOCK // 4})
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

print(held_after_a_block())
with freed_memory_kept():
    print(held_after_a_block())
print(held_after_a_block())
try:
    with freed_memory_kept():
        torch.zeros({BLOCK // 4}) + torch.zeros(7)
except RuntimeError:
    print(held_after_a_block())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory their own way")
def test_within_it_a_freed_block_stays_and_afterwards_or_after_an_error_it_goes_back() -> None:
    printed = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True).stdout
    outside, within, afterwards, after_an_error = map(int, printed.split())
    assert within > outside + BLOCK / 2
    assert afterwards < outside + BLOCK / 2
    assert after_an_error < outside + BLOCK / 2


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("no C library is asked"))
    with freed_memory_kept():
        pass
