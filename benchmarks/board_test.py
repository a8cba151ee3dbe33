"""How often the board's test errs, and what it finds: simulated boards whose true differences are known.

    python benchmarks/board_test.py             (some minutes on one core)

A board has 39 methods over 8, 12 or 20 tasks. What a method does to a task is its true mean difference plus a draw of
1.5 points standard deviation, correlated by 0.5 between methods (in the published board, docs/board: median 1.2 points,
median correlation 0.6), plus 0.5 points of noise from rows and seeds. Draws are normal; or skewed to one side, from an
exponential distribution (skewness 2) or a lognormal one (sigma 1, skewness 6), with mean zero.
"""

import argparse

import numpy as np
from scipy.stats import norm

from outgrow.board.statistics import _flips, holm, max_t, on_tasks_like_these, sign_flip
from outgrow.board.summary import LEVEL
from outgrow.data import Floats

METHODS, OF_TASK, NOISE, CORRELATION = 39, 0.015, 0.005, 0.5
TASKS, POINTS, PRIMARY = (8, 12, 20), (1, 2, 3), 3
SHAPES = ("normal", "exponential", "lognormal")


def heterogeneity(shape: str, tasks: int, rng: np.random.Generator) -> Floats:
    """(tasks, METHODS) draws with mean 0 and standard deviation 1, correlated between methods."""
    shared = rng.normal(size=(tasks, 1))
    normal = np.sqrt(CORRELATION) * shared + np.sqrt(1 - CORRELATION) * rng.normal(size=(tasks, METHODS))
    if shape == "exponential":
        return np.asarray(-norm.logsf(normal) - 1)
    if shape == "lognormal":
        return np.asarray((np.exp(normal) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e))
    return np.asarray(normal)


def board(shape: str, tasks: int, rng: np.random.Generator) -> Floats:
    """(tasks, METHODS) differences to naive of methods that differ by nothing in the mean."""
    return OF_TASK * heterogeneity(shape, tasks, rng) + NOISE * rng.normal(size=(tasks, METHODS))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=1000, help="boards per cell of the tables")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{given.boards} boards a row; standard error at most {100 * np.sqrt(0.25 / given.boards):.1f} points\n")
    print("No method differs: % of boards with a false verdict, % of t intervals that miss\n")
    print("| differences | tasks | one method, p | 3 primary, Holm | 36 others, max-T | all 39, Holm | t interval |")
    print("|---|---|---|---|---|---|---|")
    for shape in SHAPES:
        for tasks in TASKS:
            print(
                f"| {shape} | {tasks} | "
                + " | ".join(f"{100 * x:.1f}" for x in null(shape, tasks, given.boards, rng))
                + " |",
                flush=True,
            )
    print("\nOne method differs: % of boards where it is called better\n")
    print(
        "| true difference | tasks | the only primary | one of 3 primary, Holm | one of 39, max-T | one of 39, Holm |"
    )
    print("|---|---|---|---|---|---|")
    for points in POINTS:
        for tasks in TASKS:
            found = power(points / 100, tasks, given.boards, rng)
            print(f"| +{points} | {tasks} | " + " | ".join(f"{100 * x:.0f}" for x in found) + " |", flush=True)


def null(shape: str, tasks: int, boards: int, rng: np.random.Generator) -> Floats:
    """Shares of boards with a false verdict by each rule, and of t intervals that miss zero."""
    wrong = np.zeros(5)
    for _ in range(boards):
        table = board(shape, tasks, rng)
        alone = p_values(table)
        interval = on_tasks_like_these(table[:, 0].tolist())
        wrong += [
            alone[0] <= LEVEL,
            min(holm(alone[:PRIMARY])) <= LEVEL,
            min(max_t(table[:, PRIMARY:])) <= LEVEL,
            min(holm(alone)) <= LEVEL,
            not interval.low <= 0 <= interval.high,
        ]
    return wrong / boards


def power(difference: float, tasks: int, boards: int, rng: np.random.Generator) -> Floats:
    """Shares of boards where a method with this true mean difference is called better; all others differ by nothing."""
    found = np.zeros(4)
    for _ in range(boards):
        table = board("normal", tasks, rng)
        table[:, 0] += difference
        if table[:, 0].mean() > 0:
            alone = p_values(table)
            tested = (alone[0], holm(alone[:PRIMARY])[0], max_t(table)[0], holm(alone)[0])
            found += [p <= LEVEL for p in tested]
    return found / boards


def p_values(table: Floats) -> list[float]:
    """Of each method alone."""
    sums = np.abs(_flips(len(table), 0) @ table)
    found: list[float] = (sums >= sums[0] - 1e-12).mean(axis=0).tolist()
    assert found[0] == sign_flip(table[:, 0].tolist())  # what the product says of one method
    return found


if __name__ == "__main__":
    main()
