"""What the machine's matrix product gives: the limit that the other benchmarks state their share of."""

import time

import torch


def matrix_peak(size: int = 2048, lasting: float = 1.0) -> float:
    """Operations per second of a large square float32 matrix product with all threads, sustained for a second."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < lasting:
        a @ b
        count += 1
    return 2 * size**3 * count / (time.perf_counter() - began)
