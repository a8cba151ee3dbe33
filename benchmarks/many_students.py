"""A thousand students at the price of one: fused probes against one at a time, scikit-learn, and the matrix peak.

    python benchmarks/many_students.py [--rounds 5] [--batch-size 400]

1,000 students (100 settings x 10 seeds) on 4,000 x 768 features, two classes, 10 epochs of minibatch Adam. Everything
is measured side by side in one run and reported as a ratio; rounds alternate and the median is shown, because the
speed of a shared machine drifts by a third within a minute. One-at-a-time and scikit-learn are timed on a sample of the
students and scaled up. The physical limit is the matrix product: forward and backward of the weights need
4 x rows x features x students x epochs operations, nothing else is counted, so 1.0 would mean that Adam, the loss, the
gather of the batch and early stopping were free.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from outgrow.data import Floats
from outgrow.losses import LogConf, Loss, Xent
from outgrow.models.probe import ProbeJob, fit_probes
from outgrow.models.settings import Probe
from outgrow.runtime import Runtime

ROWS, HELD_OUT, FEATURES, EPOCHS, SEEDS = 4000, 400, 768, 10, 10
SAMPLE = 6  # students timed one at a time


def main() -> None:
    arguments = argparse.ArgumentParser(description="Fused probe students, as ratios.")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--batch-size", type=int, default=400)
    options = arguments.parse_args()

    features, targets = data()
    losses: dict[str, list[tuple[Loss, float, float]]] = {
        "Xent": [(Xent(), lr, l2) for lr in np.geomspace(3e-4, 3e-3, 10).tolist() for l2 in powers(10)],
        "LogConf": [(LogConf(alpha=a), 1e-3, l2) for a in np.linspace(0.1, 0.9, 10).tolist() for l2 in powers(10)],
    }
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, batch size {options.batch_size}")
    operations = 4 * ROWS * FEATURES * 100 * SEEDS * EPOCHS
    for name, settings in losses.items():
        jobs = students(targets, settings, options.batch_size)
        fit_probes(features, jobs[:1], Runtime(device="cpu"))  # torch's own imports at first use are not the product
        rounds = [measure(features, targets, jobs) for _ in range(options.rounds)]
        peak, fused, single, sklearn = (statistics.median(column) for column in zip(*rounds, strict=True))
        share = statistics.median(operations / r[0] / r[1] for r in rounds)
        print(
            f"{name:8} {len(jobs)} students in {fused:.2f} s: "
            f"{statistics.median(r[2] / r[1] for r in rounds):.0f}x one at a time ({single:.0f} s), "
            f"{statistics.median(r[3] / r[1] for r in rounds):.0f}x scikit-learn in a loop ({sklearn:.0f} s), "
            f"{share:.2f} of the matrix peak ({peak / 1e9:.0f} GFLOP/s)"
        )


def measure(features: Floats, targets: Floats, jobs: Sequence[ProbeJob]) -> tuple[float, float, float, float]:
    """Peak in operations per second; seconds for all students fused, one at a time, and by scikit-learn."""
    sample = [jobs[i] for i in np.linspace(0, len(jobs) - 1, SAMPLE).astype(int)]
    runtime = Runtime(device="cpu")
    before = matrix_peak()
    fused = seconds(lambda: fit_probes(features, jobs, runtime))
    peak = (before + matrix_peak()) / 2
    single = seconds(lambda: [fit_probes(features, [job], runtime) for job in sample]) * len(jobs) / SAMPLE
    hard = targets[:ROWS].argmax(axis=1)

    def sklearn() -> None:
        for job in sample:
            strength = 1 / (max(job.settings.l2, 1e-6) * ROWS)  # the same objective: mean loss + l2/2 |w|^2
            LogisticRegression(C=strength, max_iter=1000).fit(features[:ROWS], hard)

    return peak, fused, single, seconds(sklearn) * len(jobs) / SAMPLE


def matrix_peak(size: int = 2048, lasting: float = 1.0) -> float:
    """Operations per second of a large square matrix product, sustained as long as the students train."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < lasting:
        a @ b
        count += 1
    return 2 * size**3 * count / (time.perf_counter() - began)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def data() -> tuple[Floats, Floats]:
    """Gaussian features and the soft labels of a noisy linear teacher."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS + HELD_OUT, FEATURES)).astype(np.float32)
    margin = 2 * features @ rng.normal(size=FEATURES) / math.sqrt(FEATURES) + rng.normal(size=len(features))
    second = 1 / (1 + np.exp(-margin))
    return features, np.stack([1 - second, second], axis=1).astype(np.float32)


def powers(count: int) -> list[float]:
    return [float(v) for v in np.geomspace(1e-4, 1e-1, count)]


def students(targets: Floats, settings: Sequence[tuple[Loss, float, float]], batch_size: int) -> list[ProbeJob]:
    train, held_out = np.arange(ROWS), np.arange(ROWS, ROWS + HELD_OUT)
    return [
        ProbeJob(
            train,
            targets[train],
            held_out,
            targets[held_out],
            loss,
            Probe(lr=lr, l2=l2, epochs=EPOCHS, batch_size=batch_size),
            seed,
        )
        for seed in range(SEEDS)
        for loss, lr, l2 in settings
    ]


if __name__ == "__main__":
    main()
