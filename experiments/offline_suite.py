"""Every kind of task that needs no hub, from packaged data and models: supervisor, student, ceiling, with intervals.

    python experiments/offline_suite.py --accept-license topics-20news,topics-r8,topics-bbc

Sentiment in four domains, topics (20 Newsgroups, Reuters R8, BBC), pairs of rated sentences, chess puzzles, small
pictures and a synthetic test-bed; naive and confidence with the controls, 3 seeds, at most about 2,400 rows a task and
64 tokens a text, so that it fits 2 cores. Writes one table and one report (outgrow-report/). Nothing is tuned: probes
at their defaults, the pairs fixed before the first run. About 7 minutes; numbers are in docs/log.md.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import polars as pl
from methods_board import OFFLINE

from outgrow import Experiment, Grid, Runtime, sweep
from outgrow.experiment import experiments_of
from outgrow.report.run import write_report

TEXTS = ("glove", "minilm-l3", "minilm-l6")
SEEDS = 3
READINGS = (*OFFLINE, "sentiment-pairs(pairs=1000)", "chess-puzzles(limit=1000)")


def experiments() -> list[Experiment]:
    """A ladder of three for texts, pixels and a small net for pictures, few and many features for numbers."""
    shared: dict[str, Any] = {"seeds": SEEDS}
    ladder = ",".join(TEXTS)
    return [
        *experiments_of(Grid(task=READINGS, ladder=ladder, train=("probe(max_tokens=64)",), **shared)),
        *experiments_of(
            Grid(
                task=("fashion-mnist(limit=2000)",),
                weak=("pixels(size=4)",),
                strong=("efficientnet-lite0(size=96)",),
                train=("probe(view='mean')",),
                **shared,
            )
        ),
        *experiments_of(
            Grid(task=("synthetic-gaussian",), weak=("vectors(dims=8)",), strong=("vectors",), controls=False, **shared)
        ),
    ]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Every kind of offline task, in one report.")
    arguments.add_argument("--accept-license", default="", help="tasks whose licences you accept, separated by commas")
    arguments.add_argument("--store", default=None)
    arguments.add_argument("--out", type=Path, default=Path("outgrow-report"))
    options = arguments.parse_args()
    accepted = frozenset(options.accept_license.split(",")) - {""}
    began = time.monotonic()
    table = sweep(experiments(), options.store, Runtime(accept_license=accepted))
    columns = ["task", "weak", "strong", "strategy", "weak_accuracy", "student_accuracy", "ceiling_accuracy"]
    students = table.filter(pl.col("strategy").is_in(["naive", "confidence"])).sort(
        "task", "weak", "strong", "strategy"
    )
    with pl.Config(tbl_rows=-1, tbl_cols=-1, fmt_str_lengths=40, tbl_width_chars=200, float_precision=3):
        print(students.select(*columns, "pgr", "pgr_low", "pgr_high"))
    command = f"python experiments/offline_suite.py --accept-license {options.accept_license}"
    page = write_report(table, options.out, title="Every kind of offline task", provenance={"command": command})
    print(f"{time.monotonic() - began:.0f} s, report: {page}")
