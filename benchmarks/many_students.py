"""A thousand students at the price of one: fused probes against one at a time, scikit-learn, and the matrix peak.

    python benchmarks/many_students.py [--rounds 5] [--batch-size 400] [--model minilm-l6] [--students 10000]

1,000 students on 4,000 x 768 features, two classes: 100 settings x 10 seeds by 10 epochs of minibatch Adam, and 100
label vectors x 10 strengths of L2 solved exactly. Everything is measured side by side in one run and reported as a
ratio; rounds alternate and the median is shown, because the speed of a shared machine drifts by a third within a
minute. One-at-a-time and scikit-learn are timed on a sample of the students and scaled up. The physical limit of Adam
is the matrix product: forward and backward of the weights need 4 x rows x features x students x epochs operations, and
nothing else is counted, so 1.0 would mean that Adam, the loss, the gather of the batch and early stopping were free.
Exact students are solved on the same independent features, on correlated ones, whose spectrum falls as the power 1.4
of its place, and on a model's features of as many movie snippets, and compared with scikit-learn on the same
standardized rows and hard labels (all it takes): at its default tolerance of 1e-4, and at ours, 1e-6, which is the
comparison at an equal objective. It is timed as it comes, with all threads, and with one, which is often faster.

With ``--students`` nothing is compared: 1,000 and then so many students are trained, each number in a process of its
own, and the peak of resident memory is shown.
"""

import argparse
import math
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from peak import matrix_peak
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from outgrow import Runtime
from outgrow.data import Floats
from outgrow.losses import LogConf, Loss, Xent
from outgrow.models.logistic import TOLERANCE, LogisticJob, fit_logistic
from outgrow.models.probe import ProbeJob, fit_probes
from outgrow.models.settings import LogisticSettings, ProbeSettings
from outgrow.models.spec import ModelSpec
from outgrow.models.transformer import extract
from outgrow.tasks import TaskSpec
from outgrow.tasks import load as load_task

ROWS, HELD_OUT, FEATURES, EPOCHS, SEEDS = 4000, 400, 768, 10, 10
SAMPLE = 6  # students timed one at a time


def main() -> None:
    arguments = argparse.ArgumentParser(description="Fused probe students, as ratios.")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--batch-size", type=int, default=400)
    arguments.add_argument("--model", default="minilm-l6", help="whose features exact students are solved on too")
    arguments.add_argument("--students", type=int, default=None)
    options = arguments.parse_args()

    if options.students is not None:
        memory(options.students, options.batch_size)
        return
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
        share = statistics.median(operations / r[0] / r[1] for r in rounds)
        peak, fused = (statistics.median(r[i] for r in rounds) for i in (0, 1))
        single, every, one = (against([(r[1], r[i]) for r in rounds]) for i in (2, 3, 4))
        print(
            f"{name:8} {len(jobs)} students in {fused:.2f} s: {single} one at a time; scikit-learn in a loop "
            f"{every}, with one thread {one}; {share:.2f} of the matrix peak ({peak / 1e9:.0f} GFLOP/s)"
        )
    exact("exact, independent", features, options.rounds)
    exact("exact, correlated", correlated(), options.rounds)
    exact(f"exact, {options.model}", of_model(options.model), options.rounds)


def exact(name: str, features: Floats, rounds: int) -> None:
    """The same number of exact students, and how far their minimum and its place are from scikit-learn's."""
    jobs, runtime = exact_students(features), Runtime(device="cpu")
    sample = np.linspace(0, len(jobs) - 1, SAMPLE).astype(int)
    fitted = fit_logistic(features, jobs, runtime)
    standard = ((features[:ROWS] - fitted[0].center) / fitted[0].scale).astype(np.float32)

    def sklearn(tolerance: float) -> list[LogisticRegression]:
        strengths = [1 / (jobs[i].settings.l2 * ROWS) for i in sample]
        models = [LogisticRegression(C=c, tol=tolerance, max_iter=20000) for c in strengths]
        return [m.fit(standard, jobs[i].targets.argmax(axis=1)) for i, m in zip(sample, models, strict=True)]

    table = []
    for _ in range(rounds):
        together = seconds(lambda: fit_logistic(features, jobs, runtime))
        single = seconds(lambda: [fit_logistic(features, [jobs[i]], runtime) for i in sample])
        loops = [s for tolerance in (1e-4, TOLERANCE) for s in with_all_and_one(partial(sklearn, tolerance))]
        table.append((together, *(s * len(jobs) / SAMPLE for s in (single, *loops))))
    single_each, *loop = (against([(r[0], r[i]) for r in table]) for i in range(1, 6))
    print(
        f"{name}: {len(jobs)} students in {statistics.median(r[0] for r in table):.2f} s: {single_each} one at a time; "
        f"scikit-learn in a loop at 1e-4 {loop[0]}, with one thread {loop[1]}; at 1e-6 {loop[2]}, with one "
        f"thread {loop[3]}"
    )
    for tolerance in (1e-4, 1e-6, 1e-9):
        standard = standard.astype(np.float64 if tolerance < 1e-6 else np.float32)
        theirs = sklearn(tolerance)
        excess, apart = [], []
        for i, model in zip(sample, theirs, strict=True):
            ours = fitted[i]
            mine = objective(standard, jobs[i], ours.weight[:, 1], float(ours.bias[1]))
            excess.append(objective(standard, jobs[i], model.coef_[0], float(model.intercept_[0])) - mine)
            apart.append(np.abs(model.coef_[0] - ours.weight[:, 1]).max())
        print(
            f"    scikit-learn to {tolerance:.0e}: objective {min(excess):+.0e} to {max(excess):+.0e} above ours, "
            f"coefficients within {max(apart):.0e}"
        )


def objective(rows: Floats, job: LogisticJob, weight: Floats, bias: float) -> float:
    """Mean loss + l2/2 |w|^2 in double precision."""
    z = rows.astype(np.float64) @ weight + bias
    return float(np.mean(np.logaddexp(0, z) - job.targets[:, 1] * z) + job.settings.l2 / 2 * np.square(weight).sum())


def memory(count: int, batch_size: int) -> None:
    """Train 1,000 and then ``count`` students, both ways, and show the peak of resident memory of each."""
    for name in ("Xent", "exact"):
        for number in (1000, count):
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                before, after, took = alone.apply(trained, (name, number, batch_size))
            print(f"{name:8} {number} students in {took:.1f} s: peak {after:.0f} MB, {before:.0f} MB before training")


def trained(name: str, number: int, batch_size: int) -> tuple[float, float, float]:
    """Peak of resident memory in MB before and after, and seconds."""
    (features, targets), runtime = data(), Runtime(device="cpu")
    if name == "exact":
        some: list[Any] = exact_students(features)
    else:
        some = students(targets, [(Xent(), lr, l2) for lr in (3e-4, 1e-3) for l2 in powers(50)], batch_size)
    fit = fit_logistic if name == "exact" else fit_probes
    jobs = [some[i % len(some)] for i in range(number)]
    before = resident()
    took = seconds(lambda: fit(features, jobs, runtime))
    return before, resident(), took


def resident() -> float:
    """Peak of resident memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(features: Floats, targets: Floats, jobs: Sequence[ProbeJob]) -> tuple[float, float, float, float, float]:
    """Peak in operations per second; seconds for all students fused, one at a time, and by scikit-learn with all
    threads and with one."""
    sample = [jobs[i] for i in np.linspace(0, len(jobs) - 1, SAMPLE).astype(int)]
    runtime = Runtime(device="cpu")
    before = matrix_peak()
    fused = seconds(lambda: fit_probes(features, jobs, runtime))
    peak = (before + matrix_peak()) / 2
    single = seconds(lambda: [fit_probes(features, [job], runtime) for job in sample])
    hard = targets[:ROWS].argmax(axis=1)

    def sklearn() -> None:
        for job in sample:
            strength = 1 / (max(job.settings.l2, 1e-6) * ROWS)  # the same objective: mean loss + l2/2 |w|^2
            LogisticRegression(C=strength, max_iter=1000).fit(features[:ROWS], hard)

    every, one = with_all_and_one(sklearn)
    scale = len(jobs) / SAMPLE
    return peak, fused, scale * single, scale * every, scale * one


def with_all_and_one(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds with all threads and with one, which is often faster in small products."""
    with threadpool_limits(1):
        one = seconds(work)
    return seconds(work), one


def against(rounds: Sequence[tuple[float, float]]) -> str:
    """How many times our seconds theirs are, and theirs; medians over the rounds of (ours, theirs)."""
    ratio = statistics.median(theirs / ours for ours, theirs in rounds)
    return f"{ratio:.0f}x ({statistics.median(theirs for _, theirs in rounds):.0f} s)"


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


def correlated() -> Floats:
    """Gaussian features of a falling spectrum, turned at random."""
    rng = np.random.default_rng(5)
    axes = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0]
    scales = np.arange(1, FEATURES + 1) ** -0.7
    features: Floats = ((rng.normal(size=(ROWS + HELD_OUT, FEATURES)) * scales) @ axes).astype(np.float32)
    return features


def of_model(name: str) -> Floats:
    """A model's features of movie snippets, (rows, d), by the default view."""
    texts = load_task(TaskSpec.parse("sentiment-movies"), Runtime()).texts[: ROWS + HELD_OUT]
    return extract(ModelSpec.parse(name).folder(Runtime()), texts, max_tokens=64, runtime=Runtime(device="cpu"))[
        ProbeSettings().view
    ]


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
            ProbeSettings(lr=lr, l2=l2, epochs=EPOCHS, batch_size=batch_size),
            seed,
        )
        for seed in range(SEEDS)
        for loss, lr, l2 in settings
    ]


def exact_students(features: Floats) -> list[LogisticJob]:
    """100 vectors of hard labels, each with 10 strengths of L2."""
    rng, train, held_out = np.random.default_rng(1), np.arange(ROWS), np.arange(ROWS, ROWS + HELD_OUT)
    jobs = []
    for _ in range(100):
        clean = features @ rng.normal(size=features.shape[1])
        margin = 2 * clean / clean.std() + rng.normal(size=len(features))
        hard = np.eye(2, dtype=np.float32)[(margin > 0).astype(int)]
        jobs += [
            LogisticJob(train, hard[train], held_out, hard[held_out], LogisticSettings(l2=l2)) for l2 in powers(10)
        ]
    return jobs


if __name__ == "__main__":
    main()
