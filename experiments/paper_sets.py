"""The paper's NLP sets and two preference sets from a local folder in the hub's schema: GloVe supervises MiniLM-L6.

    python experiments/paper_sets.py --data-dir FOLDER

At most 2,000 rows a set, texts cut to 64 tokens, naive and confidence, 3 seeds; one table, also of the sets where PGR
is undefined because the interval of the gap does not lie above zero. ``--strong mpnet-base`` puts a larger student on
top. Sets that are not in the folder are named and left out. Nothing is tuned.
"""

import argparse
import os
import time

import polars as pl

from outgrow import Grid, Runtime, UserError, sweep
from outgrow.tasks import TaskSpec, load

SETS = (
    "boolq", "cosmos-qa", "dream", "ethics-justice", "ethics-deontology", "ethics-virtue", "ethics-utilitarianism",
    "anli-r2", "cola", "sst2", "hellaswag", "mc-taco", "openbookqa", "paws", "quail", "piqa", "quartz", "sciq",
    "social-i-qa", "multirc", "wic", "twitter-sentiment", "amazon-polarity", "hh-rlhf",
)  # fmt: skip


def there(limit: int) -> tuple[str, ...]:
    """The sets that can be had, with their limit."""
    found = []
    for name in SETS:
        text = f"{name}(limit={limit})"
        try:
            load(TaskSpec.parse(text), Runtime(offline=True))
        except UserError as error:
            print(f"left out: {name}: {error}")
        else:
            found.append(text)
    return tuple(found)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="The paper's sets, from a local folder.")
    arguments.add_argument("--data-dir", default=os.environ.get("OUTGROW_DATA_DIR"))
    arguments.add_argument("--weak", default="glove")
    arguments.add_argument("--strong", default="minilm-l6")
    arguments.add_argument("--limit", type=int, default=2000)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--only", default="", help="sets, separated by commas")
    arguments.add_argument("--store", default=None)
    options = arguments.parse_args()
    if options.data_dir:
        os.environ["OUTGROW_DATA_DIR"] = options.data_dir
    began = time.monotonic()
    tasks = tuple(t for t in there(options.limit) if not options.only or t.partition("(")[0] in options.only.split(","))
    grid = Grid(
        task=tasks, weak=(options.weak,), strong=(options.strong,), train=("probe(max_tokens=64)",), seeds=options.seeds
    )
    table = sweep(grid, options.store, Runtime(offline=True))
    kept = ["task", "strategy", "weak_accuracy", "student_accuracy", "ceiling_accuracy", "pgr", "pgr_low", "pgr_high"]
    with pl.Config(tbl_rows=-1, fmt_str_lengths=60, tbl_width_chars=160):
        print(table.select(kept))
    print(f"{len(tasks)} sets, {time.monotonic() - began:.0f} s")
