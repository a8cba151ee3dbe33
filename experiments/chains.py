"""A chain from GloVe through two MiniLMs to MPNet on rated movie snippets, and its controls; refinement beside it.

    python experiments/chains.py

About 15 minutes on 2 cores the first time, nearly all of it features of MPNet. Expected: students 0.736 naive, 0.746
through the chain, 0.757 for the gold-matched control; all of it in docs/log.md.
"""

from outgrow import Grid, sweep

THROUGH = "through=('minilm-l3', 'minilm-l6')"
GRID = Grid(
    weak=("glove",),
    strong=("mpnet-base",),
    strategy=(
        "naive",
        f"bootstrap({THROUGH})",
        f"gold-matched({THROUGH})",
        f"bootstrap({THROUGH}, fresh=True)",
        "direct(shares=3)",
        "refine(rounds=2)",
        "refine(rounds=2, keep=0.5)",
    ),
    controls=False,
)

if __name__ == "__main__":
    columns = ["strategy", "weak_accuracy", "student_accuracy", "ceiling_accuracy", "pgr", "pgr_low", "pgr_high"]
    print(sweep(GRID).select(columns))
