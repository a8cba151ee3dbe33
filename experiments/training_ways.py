"""Other ways to train on the same weak labels: a grid of L2 for probes; LP-FT, anchors, the oracle and generative
finetuning for students that are finetuned.

    python experiments/training_ways.py

GloVe supervises on rated movie snippets: a probe on MiniLM-L3, MiniLM-L6 finetuned on 2,000 of them (3 seeds; learning
rate and epochs of finetune_cpu.py), and SmolLM2-135M on 300 (2 seeds). Nothing is tuned. About 75 minutes
on 2 cores. Expected: 0.713 naive, 0.725 anchored, 0.711 LP-FT on MiniLM-L6; 0.669 naive, 0.664 generative
(docs/log.md).
"""

from outgrow import Grid, sweep

PROBES = Grid(
    weak=("glove",),
    strong=("minilm-l3",),
    strategy=("naive", "regularised", "regularised(l2=(1.0,))", "oracle"),
    controls=False,
)
FINETUNED = Grid(
    weak=("glove",),
    strong=("minilm-l6",),
    weak_train="probe",
    train=("finetune(epochs=2, lr=1e-4, max_tokens=64)",),
    strategy=("naive", "lp-ft", "anchored", "anchored(strength=1.0)", "oracle"),
    transfer_rows=2000,
    test_rows=1000,
    seeds=3,
    controls=False,
)
WRITERS = Grid(
    weak=("glove",),
    strong=("smollm2-135m",),
    weak_train="probe",
    train=("finetune(epochs=1, max_tokens=32)",),
    strategy=("naive", "generative-finetuning"),
    transfer_rows=300,
    test_rows=400,
    seeds=2,
    controls=False,
)

if __name__ == "__main__":
    columns = ["train", "strategy", "weak_accuracy", "student_accuracy", "ceiling_accuracy", "pgr"]
    for grid in (PROBES, FINETUNED, WRITERS):
        print(sweep(grid).select(columns))
