"""How much the probe's settings matter: three views of the text, four strengths of L2, on the default pairs.

    python experiments/probe_settings.py

A sensitivity table, not a search: the default (mid_mean, l2 0.01) was fixed before and stays. About a minute after the
default experiment has run. Expected: GloVe → MiniLM-L6 PGR 0.23 at the
default, 0.28 at L2 0.1, 0 or below on the last token; all of it in docs/log.md.
"""

from outgrow import Grid, sweep

GRID = Grid(
    train=tuple(
        f"probe(view='{view}', l2={l2})"
        for view in ("last_token", "mean", "mid_mean")
        for l2 in (0.001, 0.01, 0.1, 1.0)
    ),
    strategy=("naive",),
    controls=False,
)

if __name__ == "__main__":
    columns = ["train", "weak", "strong", "weak_accuracy", "student_accuracy", "ceiling_accuracy", "pgr"]
    table = sweep(GRID).select(columns)
    print(table.sort("weak", "strong", "train"))
