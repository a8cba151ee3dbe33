"""The ways EleutherAI tried (blog.eleuther.ai/weak-to-strong, code EleutherAI/w2s), on the paper's sets.

    python experiments/eleuther_blog.py --data-dir FOLDER
    python experiments/eleuther_blog.py --full --weak hf:Qwen/Qwen1.5-0.5B@COMMIT --strong hf:ORG/Meta-Llama-3-8B@COMMIT

Cross-entropy, log-confidence, entropy and window losses; labels mended or dropped by nearest neighbours, logistic
regression and TopoFilter on the student's features (a tenth of the rows); two rounds of the student's own labels. What
was found there with 21 sets: weak-to-strong gains throughout, and of these ways only log-confidence with possible signs
of more. Ours is scored as ``outgrow board`` scores everything: accuracy, each way against naive on the same rows, with
tasks as the unit. Without ``--full``: GloVe and MiniLM-L6, probes, 2,000 rows a set, on a laptop. With it LoRA of rank
8 on a GPU, which has not been run by us; Llama's licence has to be accepted at the hub. Numbers are in docs/log.md.
"""

import argparse
import os
import sys

from paper_sets import SETS, there

from outgrow.cli import main

WAYS = (
    "confidence",
    "naive(loss=Entropy)",
    "naive(loss=Window)",
    "naive(transforms=(KNN(k=50),))",
    "naive(transforms=(KNNFilter(k=50, drop=0.1),))",
    "naive(transforms=(LogisticRelabel,))",
    "naive(transforms=(LogisticFilter(drop=0.1),))",
    "naive(transforms=(TopoFilter,))",
    "refine(rounds=2)",
)
OURS = tuple(name for name in SETS if name != "hh-rlhf")
"""A choice between two replies has no one vector that could be a neighbour's."""
LORA = "finetune(epochs=3, lora=8, lr=5e-4, precision='bf16', max_tokens=512)"
"""Rank 8 is theirs; epochs, rate and length are ours."""


def arguments_of(full: bool, folder: str | None) -> list[str]:
    """What ``outgrow board`` is given."""
    limit = 10_000 if full else 2_000
    if full:
        tasks = tuple(f"{name}(limit={limit})" for name in OURS)
        models = ["--train", LORA]
    else:
        tasks = tuple(t for t in there(limit) if t.partition("(")[0] in OURS)
        models = ["--weak", "glove", "--strong", "minilm-l6", "--train", "probe(max_tokens=64)"]
    place = ["--data-dir", folder] if folder else []
    return ["board", "--task", *tasks, "--methods", *WAYS, "--seeds", "3", *models, *place]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="The ways of EleutherAI's blog, on the paper's sets.")
    arguments.add_argument("--full", action="store_true")
    arguments.add_argument("--data-dir", default=os.environ.get("OUTGROW_DATA_DIR"))
    options, rest = arguments.parse_known_args()
    if options.data_dir:
        os.environ["OUTGROW_DATA_DIR"] = options.data_dir
    if options.full and not {"--weak", "--strong"} <= set(rest):
        sys.exit(
            "--full needs the two models: --weak hf:Qwen/Qwen1.5-0.5B@COMMIT --strong hf:ORG/Meta-Llama-3-8B@COMMIT"
        )
    main([*arguments_of(options.full, options.data_dir), *rest])
