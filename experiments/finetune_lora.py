"""Finetuning a language model on a CPU: LoRA adapters of SmolLM2-135M learn GloVe's labels, naive against confidence.

    python experiments/finetune_lora.py --data-dir FOLDER

Two tasks, 800 rows each, 300 of them labeled for the student, three seeds. Fixed in advance, nothing tuned: rank 8, two
epochs, lr 5e-4, batches of 16, 64 tokens, a linear schedule; the supervisor is an exact logistic regression. The same
students as probes on frozen features stand beside. About 40 minutes on 2 cores; see docs/log.md.
"""

import argparse
import os

import polars as pl

from outgrow import Grid, sweep

LORA = "finetune(lora=8, epochs=2, lr=5e-4, batch_size=16, max_tokens=64)"
GRID = Grid(
    task=("sentiment-movies(limit=800)", "sst2(limit=800)"),
    weak=("glove",),
    strong=("smollm2-135m",),
    train=(LORA, "probe(l2=0.1, max_tokens=64)"),
    weak_train="logistic(l2=0.1)",
    strategy=("naive", "confidence"),
    supervisor_rows=300,
    transfer_rows=300,
    test_rows=200,
    seeds=3,
    controls=False,
)

if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="LoRA on a CPU.")
    arguments.add_argument("--data-dir", default=os.environ.get("OUTGROW_DATA_DIR"))
    arguments.add_argument("--store", default=None)
    options = arguments.parse_args()
    if options.data_dir:
        os.environ["OUTGROW_DATA_DIR"] = options.data_dir
    table = sweep(GRID, options.store)
    kept = [f"{name}{end}" for name in ("student_accuracy", "gain", "pgr") for end in ("", "_low", "_high")]
    with pl.Config(tbl_rows=-1, tbl_cols=-1, fmt_str_lengths=40, tbl_width_chars=220):
        print(table.select("task", "train", "strategy", "weak_accuracy", "ceiling_accuracy", *kept))
