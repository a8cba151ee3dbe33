"""The board of seven, apart for the tasks that `auto` was developed on and for those it had never seen.

    python experiments/kept_back.py docs/board-seven/cells.csv

Rated sentences and topics are development tasks. For each method: the mean difference to naive over tasks, in points,
with the interval for tasks like these, the sign-flip test, uncorrected, and cells won, tied and lost.
"""

import sys

import polars as pl

from outgrow.board.statistics import on_tasks_like_these, sign_flip

DEVELOPED_ON = ("sentiment-", "topics-")

if __name__ == "__main__":
    cells = pl.read_csv(sys.argv[1], infer_schema_length=None).filter(pl.col("kind").is_in(["method", "control"]))
    known = pl.any_horizontal(pl.col("task").str.starts_with(name) for name in DEVELOPED_ON)
    for title, kept in (("all", cells), ("developed on", cells.filter(known)), ("kept back", cells.filter(~known))):
        for (method,), own in kept.group_by("shown", maintain_order=True):
            means = own.group_by("task", maintain_order=True).agg(pl.col("difference").mean())["difference"].to_list()
            value, low, high = (100 * end for end in on_tasks_like_these(means))
            won, tied, lost = (int((own["outcome"] == name).sum()) for name in ("win", "tie", "loss"))
            print(
                f"{title:12} {len(means):2} tasks  {method:24} {value:+6.2f} [{low:+.2f}, {high:+.2f}]  "
                f"p {sign_flip(means):.3f}  {won}/{tied}/{lost}"
            )
