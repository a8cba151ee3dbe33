"""Several weak supervisors on rated movie snippets: bagging, Dawid-Skene, boosting, specialists, learned trust.

    python experiments/many_supervisors.py

About 4 minutes on 2 cores the first time, nearly all of it features. Expected: nothing from copies of GloVe (0.729 to
0.734, naive 0.731), 0.791 from trust in MiniLM-L3 beside it; all of it in docs/log.md.
"""

from outgrow import Grid, sweep

GRID = Grid(
    weak=("glove",),
    strong=("minilm-l6",),
    strategy=(
        "naive",
        "ensemble(kind='seeds')",
        "ensemble",
        "ensemble(by=DawidSkene)",
        "ensemble(size=1, models=('minilm-l3',))",
        "boosted",
        "co-supervised",
        "raven",
        "raven(size=1, models=('minilm-l3',))",
    ),
    controls=False,
)

if __name__ == "__main__":
    columns = ["strategy", "weak_accuracy", "student_accuracy", "ceiling_accuracy", "pgr", "pgr_low", "pgr_high"]
    print(sweep(GRID).select(columns))
