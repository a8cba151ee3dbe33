"""Who can tell, without gold of B, how much a student will gain? Twelve predictors against the truth.

    python experiments/predictors.py --accept-license topics-20news

Rated sentences of four domains (1,200 rows each), pairs of them and 20 newsgroups (600 each); a ladder of four, so six
pairs; naive, confidence and one round of relabelling; 3 seeds: 324 students. The second and third supervisor are the
other two models of the ladder. Tasks, pairs, strategies, and every predictor with its direction were fixed before any
number was seen. About 25 minutes on 2 busy cores, most of it features; what is stored is not run again.

Writes forecasts.csv (a row for each predictor), forecast-rows.csv (for each student and seed) and forecasts.png and
.svg into ``--out``. What they say is in docs/predictors.md and docs/log.md; `outgrow report` on the same store shows
both.
"""

import argparse
from pathlib import Path

import polars as pl

from outgrow import Grid, Runtime
from outgrow.board.forecast import forecasts as forecast_steps
from outgrow.engine import runner
from outgrow.engine.progress import Progress
from outgrow.experiment import experiments_of, open_store, wire_all
from outgrow.report.figures import save
from outgrow.report.forecasts import forecast_rows, forecasts, forecasts_figure
from outgrow.results import table_of

LADDER = "glove,minilm-l3,minilm-l6,mpnet-base"
TASKS = (
    "sentiment-movies(limit=1200)",
    "sentiment-news(limit=1200)",
    "sentiment-tweets(limit=1200)",
    "sentiment-reviews(limit=1200)",
    "sentiment-pairs(limit=600)",
    "topics-20news(limit=600)",
)
STRATEGIES = ("naive", "confidence", "refine(rounds=1)")


def table(grid: Grid, store: str | None, runtime: Runtime) -> pl.DataFrame:
    """Run the grid and its forecasts; returns the table of runs."""
    opened = open_store(store)
    targets = wire_all(experiments_of(grid, runtime.accept_license))
    made = forecast_steps(targets, grid.ladder.split(","))
    with Progress() as progress:
        runner.run([*targets, *made], opened, runtime, progress)
    return table_of([opened.record(step) for step in (*targets, *made)])


def main() -> None:
    arguments = argparse.ArgumentParser(description="Predictors of gain against the truth.")
    arguments.add_argument("--accept-license", default="", help="tasks whose licences you accept, separated by commas")
    arguments.add_argument("--task", nargs="+", default=list(TASKS))
    arguments.add_argument("--ladder", default=LADDER, help="four models or more, separated by commas")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--store", default=None)
    arguments.add_argument("--out", type=Path, default=Path("outgrow-predictors"))
    options = arguments.parse_args()
    grid = Grid(
        task=tuple(options.task),
        ladder=options.ladder,
        strategy=STRATEGIES,
        train=("probe(max_tokens=64)",),
        seeds=options.seeds,
        controls=False,
    )
    runs = table(grid, options.store, Runtime(accept_license=frozenset(options.accept_license.split(",")) - {""}))
    options.out.mkdir(parents=True, exist_ok=True)
    found, chart = forecasts(runs), forecasts_figure(runs)
    assert found is not None
    assert chart is not None
    found.write_csv(options.out / "forecasts.csv")
    pl.DataFrame(forecast_rows(runs), infer_schema_length=None).write_csv(options.out / "forecast-rows.csv")
    for kind in ("png", "svg"):
        save(chart, options.out / f"forecasts.{kind}")
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=240, fmt_str_lengths=60, float_precision=3):
        print(found)


if __name__ == "__main__":
    main()
