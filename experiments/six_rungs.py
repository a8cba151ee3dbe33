"""Five freely licensed models, every weaker one supervises every stronger one, rated movie snippets, 5 seeds.

    python experiments/six_rungs.py        (the same as: outgrow run --ladder six)

About 25 minutes on 2 cores the first time, nearly all of it features of SmolLM2 and MPNet. Expected: GloVe → MPNet
PGR 0.14 naive, 0.35 confidence; SmolLM2 → MPNet 0.51, 0.60; all of it in docs/log.md.
"""

from outgrow import Grid, sweep

GRID = Grid(ladder="six")

if __name__ == "__main__":
    columns = ["weak", "strong", "strategy", "weak_accuracy", "student_accuracy", "ceiling_accuracy", "pgr"]
    print(sweep(GRID).select(columns))
