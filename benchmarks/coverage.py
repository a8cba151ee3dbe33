"""How often the 95 % intervals hold the truth, by simulation with the product's own functions.

    python benchmarks/coverage.py            # about ten minutes on one core
    python benchmarks/coverage.py --share 0.1

Every seed is a new draw of the models' quality (standard deviation 1 or 4 points, half of its variance shared by
supervisor, student and ceiling), on new test rows, the same test rows for all seeds, or rows of which two seeds share
a quarter. Rows, and groups of five rows, are hard or easy for all three models, for one of them, or once only. The true
accuracies are .65, .65 + gap / 2 and .65 + gap, so the true PGR is 0.5.
"""

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy.special import ndtr, ndtri

from outgrow.data import Floats, Ints
from outgrow.metrics import Interval, Means, Outcomes, ece_floor, ece_interval, per_example, scores

SEEDS, ROWS, GAPS, LAYOUTS, SDS, GROUPS = (
    (3, 5, 10),
    (200, 1000, 2500),
    (0.03, 0.08, 0.2),
    (1.0, 0.25, 0.0),
    (1, 4),
    (1, 5),
)
QUANTITIES = ("accuracy", "gain", "gap", "pgr", "pgr_defined")
REPLICATES = {
    **{(3, 200): 3000, (3, 1000): 2000, (3, 2500): 1500},
    **{(5, 200): 2000, (5, 1000): 1500, (5, 2500): 1000},
    **{(10, 200): 2000, (10, 1000): 1000, (10, 2500): 700},
}
"""By seeds and rows; fewer where they take longer."""
WEAK = 0.65
_NAMES = {1.0: "shared", 0.25: "quarter", 0.0: "disjoint"}
# Variances of what makes a row hard: for all models; for one model; for one model and seed. They sum to 1.
_FOR_ALL, _FOR_ONE, _ONCE = 0.4, 0.2, 0.4


class Setting(NamedTuple):
    """What tests look like."""

    seeds: int
    rows: int
    """Test rows per seed."""
    layout: float
    """The share of its test rows that a seed shares with each other seed, on average."""
    group: int
    """Rows in a group."""


ALL = [Setting(*setting) for setting in product(SEEDS, ROWS, LAYOUTS, GROUPS)]


def tests(setting: Setting, rng: np.random.Generator) -> list[Any]:
    """For each seed the numbers (rows,) of its test rows; the rows of a group are consecutive."""
    groups = setting.rows // setting.group
    if not setting.layout:
        chosen = np.arange(setting.seeds * groups).reshape(setting.seeds, groups)
    else:
        pool = round(groups / setting.layout)
        chosen = np.stack([rng.choice(pool, groups, replace=False) for _ in range(setting.seeds)])
    return [(c[:, None] * setting.group + np.arange(setting.group)).ravel() for c in chosen]


def simulated(setting: Setting, rng: np.random.Generator) -> Means:
    """One run: is the supervisor right, and student and ceiling of every gap, at either deviation between seeds."""
    rows = tests(setting, rng)
    num = max(int(r.max()) for r in rows) + 1
    shared = _grouped(1, num, setting.group, rng) * math.sqrt(_FOR_ALL)
    hard = shared + _grouped(3, num, setting.group, rng) * math.sqrt(_FOR_ONE)
    outcomes = []
    for own in rows:
        latent = hard[:, own] + math.sqrt(_ONCE) * rng.standard_normal((3, len(own)), dtype=np.float32)
        luck = (rng.standard_normal() + rng.standard_normal(3)) / math.sqrt(2)
        luck = luck.clip(-3.5, 3.5)  # so that no accuracy leaves [0, 1]
        values = {}
        for sd in SDS:
            shift = luck * sd / 100
            values[f"weak {sd}"] = latent[0] < ndtri(WEAK + shift[0])
            for gap in GAPS:
                values[f"student {sd} {gap}"] = latent[1] < ndtri(WEAK + gap / 2 + shift[1])
                values[f"ceiling {sd} {gap}"] = latent[2] < ndtri(WEAK + gap + shift[2])
        outcomes.append(Outcomes(groups=own // setting.group, values=values))
    return Means(outcomes)


def _grouped(kinds: int, rows: int, group: int, rng: np.random.Generator) -> Floats:
    """Standard normal values (kinds, rows), half of whose variance the rows of a group share."""
    own = rng.standard_normal((kinds, rows), dtype=np.float32)
    if group == 1:
        return own
    common = np.repeat(rng.standard_normal((kinds, -(-rows // group)), dtype=np.float32), group, axis=1)[:, :rows]
    mixed: Floats = (own + common) * np.float32(math.sqrt(0.5))
    return mixed


def holds(found: Interval, truth: float) -> bool:
    """Whether an interval holds the truth."""
    return found.low <= truth <= found.high


def covered(means: Means, sd: int, gap: float) -> dict[str, bool | None]:
    """Which intervals hold the truth: ``pgr`` is whether 0.5 lies in Fieller's set, bounded or not; ``pgr_defined`` the
    same where PGR is printed, and None where it is undefined."""
    weak, student, ceiling = f"weak {sd}", f"student {sd} {gap}", f"ceiling {sd} {gap}"
    of_gap = means.difference(ceiling, weak).interval(-1, 1)
    # Fieller's interval holds 0.5 where gain - 0.5 * gap is not told from zero, and costs forty times as much.
    pgr = holds(means.spread({student: 1.0, weak: -0.5, ceiling: -0.5}).interval(), 0.0)
    return {
        "accuracy": holds(means.rate(student), WEAK + gap / 2),
        "gain": holds(means.difference(student, weak).interval(-1, 1), gap / 2),
        "gap": holds(of_gap, gap),
        "pgr": pgr,
        "pgr_defined": pgr if of_gap.low > 0 else None,
    }


def cells(share: float = 1.0, settings: Sequence[Setting] = ALL) -> Iterator[dict[str, Any]]:
    """One row per setting, deviation between seeds and gap: the share of replicates whose intervals hold the truth."""
    for setting in settings:
        rng = np.random.default_rng([int(100 * x) for x in setting])
        found: dict[tuple[int, float], list[dict[str, bool | None]]] = {key: [] for key in product(SDS, GAPS)}
        for _ in range(round(share * REPLICATES[setting.seeds, setting.rows])):
            means = simulated(setting, rng)
            for key, seen in found.items():
                seen.append(covered(means, *key))
        for (sd, gap), seen in found.items():
            known = {name: [held for s in seen if (held := s[name]) is not None] for name in seen[0]}
            shares = {name: float(np.mean(values)) if values else None for name, values in known.items()}
            about = setting._asdict() | {"layout": _NAMES[setting.layout], "sd": sd, "true_gap": gap}
            yield about | shares | {"defined": len(known["pgr_defined"]) / len(seen), "replicates": len(seen)}


def near_the_ends(replicates: int) -> Iterator[dict[str, Any]]:
    """Accuracies near 1, and differences between two models that seldom differ, where a plain t interval collapses."""
    for seeds, rows, wrong in product((1, 5), (20, 100, 1000), (0.05, 0.01, 0.002)):
        rng = np.random.default_rng([seeds, rows, int(wrong * 1000)])
        found = []
        for _ in range(replicates):
            hard = rng.random(rows) < wrong / 2
            outcomes = []
            for _ in range(seeds):  # two models err on the same hard rows, and each on as many of its own
                a, b = ((hard | (rng.random(rows) < wrong / (2 - wrong))) for _ in range(2))
                values: dict[str, Any] = {"a": ~a, "b": ~b}
                outcomes.append(Outcomes(groups=np.arange(rows), values=values))
            means = Means(outcomes)
            accuracy, difference = means.rate("a"), means.difference("a", "b").interval(-1, 1)
            found.append((holds(accuracy, 1 - wrong), holds(difference, 0.0), accuracy.high == accuracy.low))
        shares = dict(zip(("accuracy", "difference", "collapsed"), np.mean(found, axis=0).tolist(), strict=True))
        yield {"seeds": seeds, "rows": rows, "wrong": wrong, **shares, "replicates": replicates}


def ranked(replicates: int) -> Iterator[dict[str, Any]]:
    """AUROC of scores that are normal in both classes, a distance apart; ECE of calibrated probabilities, whose truth
    is 0, and of probabilities with log odds twice too large."""
    for seeds, rows, apart, positive in product((1, 5), (100, 1000), (0.5, 1.5, 3.0), (0.5, 0.1)):
        rng = np.random.default_rng([seeds, rows, int(10 * apart), int(10 * positive)])
        area = float(ndtr(apart / math.sqrt(2)))
        error = {pull: scores(*_scored(1, 400_000, apart, positive, pull, rng)[0])["ece"] for pull in (1, 2)}
        found = []
        for _ in range(replicates):
            held = {}
            for pull in (1, 2):
                drawn = _scored(seeds, rows, apart, positive, pull, rng)
                values = [per_example(*one) for one in drawn]
                kept = [{k: v[k] for k in ("auroc", "ece")} for v in values]
                means = Means([Outcomes(groups=np.arange(rows), values=v) for v in kept])
                floor = float(np.mean([ece_floor(probs) for probs, _ in drawn]))
                held[f"ece {pull}"] = holds(ece_interval(means.spread({"ece": 1.0}), floor), error[pull])
            found.append({"auroc": holds(means.area("auroc", min(positive, 1 - positive)), area), **held})
        shares = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
        about = {"seeds": seeds, "rows": rows, "area": area, "positive": positive}
        yield about | shares | {"replicates": replicates}


def _scored(
    seeds: int, rows: int, apart: float, positive: float, pull: float, rng: np.random.Generator
) -> list[tuple[Floats, Ints]]:
    """For each seed probabilities (rows, 2), right where ``pull`` is 1, and gold; half of a score is the row's own."""
    gold = (np.arange(rows) < positive * rows).astype(np.int64)
    own = rng.standard_normal(rows)
    made: list[tuple[Floats, Ints]] = []
    for _ in range(seeds):
        score = apart * gold + math.sqrt(0.5) * (own + rng.standard_normal(rows))
        odds = pull * (apart * score - apart**2 / 2 + math.log(positive / (1 - positive)))
        p = 1 / (1 + np.exp(-odds))
        made.append((np.stack([1 - p, p], axis=1), gold))
    return made


def main() -> None:
    """Print the least, mean and greatest coverage by each factor, and every cell below 93 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the replicates")
    parser.add_argument("--out", type=Path, help="a CSV file for all cells")
    options = parser.parse_args()
    pl.Config.set_tbl_rows(400).set_tbl_cols(30).set_tbl_width_chars(200).set_fmt_float("mixed")
    pl.Config.set_tbl_hide_dataframe_shape(True).set_tbl_hide_column_data_types(True).set_float_precision(3)
    start = time.monotonic()
    table = pl.DataFrame(list(cells(options.share)))
    if options.out:
        table.write_csv(options.out)
    for factor in ("seeds", "rows", "true_gap", "layout", "sd", "group"):
        spread = [_range(name).alias(name) for name in QUANTITIES]
        print(table.group_by(factor, maintain_order=True).agg(pl.len().alias("cells"), *spread))
    for name in QUANTITIES:
        low, high = ((side * (pl.col(name) - bound) > 0).sum() for side, bound in ((-1, 0.93), (1, 0.97)))
        below, above = table.select(low.alias("low"), high.alias("high")).row(0)
        print(f"{name}: {below} cells below 93 %, {above} above 97 %, of {table[name].count()}")
    print(table.filter(pl.min_horizontal(QUANTITIES) < 0.92))
    print(pl.DataFrame(list(near_the_ends(round(2000 * options.share)))))
    print(pl.DataFrame(list(ranked(round(1000 * options.share)))))
    print(f"{time.monotonic() - start:.0f} s")


def _range(name: str) -> pl.Expr:
    """Least, mean and greatest coverage, in percent."""
    column = (100 * pl.col(name)).drop_nulls()
    return pl.format("{} ({} to {})", *(x.round(1) for x in (column.mean(), column.min(), column.max())))


if __name__ == "__main__":
    main()
