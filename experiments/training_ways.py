"""Other ways to train on the same weak labels: a grid of L2 for probes; LP-FT, anchors, the oracle and generative
finetuning for students that are finetuned.

    python experiments/training_ways.py

GloVe supervises on rated movie snippets: MiniLM-L3, finetuned on 800 of them, and SmolLM2-135M on 300, 2 seeds. Nothing
is tuned. Numbers are in docs/log.md.
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
    strong=("minilm-l3",),
    weak_train="probe",
    train=("finetune(epochs=1, max_tokens=32)",),
    strategy=("naive", "lp-ft", "anchored", "anchored(strength=1.0)", "oracle"),
    transfer_rows=800,
    test_rows=1000,
    seeds=2,
    controls=False,
)
WRITERS = Grid(
    weak=("glove",),
    strong=("smollm2-135m",),
    weak_train="probe",
    train=("finetune(epochs=1, max_tokens=32)",),
    strategy=("naive", "generative"),
    transfer_rows=300,
    test_rows=400,
    seeds=2,
    controls=False,
)

if __name__ == "__main__":
    columns = ["train", "strategy", "weak_accuracy", "student_accuracy", "ceiling_accuracy", "pgr"]
    for grid in (PROBES, FINETUNED, WRITERS):
        print(sweep(grid).select(columns))
