"""The released code's choices beside our defaults: openai/weak-to-strong's preset on one task, one pair of decoders.

    python experiments/released_code.py                        # packaged decoders; needs Gemma's licence accepted
    python experiments/released_code.py --ladder hf:gpt2@REVISION,hf:gpt2-medium@REVISION --task boolq

What the preset sets and what stays different is in docs/differences.md. It finetunes every weight of every model and
wants a GPU; on 2 cores take few rows, as the default below does, and expect most of an hour. It has not been run to its
end, so no numbers are expected here.
"""

import argparse

from outgrow import Grid, Runtime, preset, sweep


def grids(task: str, ladder: str, rows: int | None) -> list[Grid]:
    """The same task and models as released, and finetuned by our defaults."""
    shared = {"task": (task,), "ladder": ladder, "supervisor_rows": rows, "transfer_rows": rows}
    ours = Grid(**shared, strategy=("naive", "confidence"), train=("finetune",), seeds=1, controls=False)  # type: ignore[arg-type]
    return [preset("released_code", **shared), ours]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="sentiment-movies")
    parser.add_argument("--ladder", default="smollm2-135m,gemma-3-270m")
    parser.add_argument("--rows", type=int, default=500, help="of A and of B; 0 for all")
    parser.add_argument("--accept-license", nargs="*", default=[])
    given = parser.parse_args()
    columns = [
        "strategy",
        "train",
        "weak_accuracy",
        "student_accuracy",
        "ceiling_accuracy",
        "pgr",
        "pgr_low",
        "pgr_high",
    ]
    runtime = Runtime(accept_license=frozenset(given.accept_license))
    for grid in grids(given.task, given.ladder, given.rows or None):
        print(sweep(grid, runtime=runtime).select(columns))
