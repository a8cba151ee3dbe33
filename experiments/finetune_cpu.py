"""Full finetuning on a CPU: MiniLM-L3 supervises MiniLM-L6, 1,000 examples each, 2 epochs, 3 seeds.

    python experiments/finetune_cpu.py

Fixed in advance, nothing tuned: lr 1e-4 (as in an earlier trial on this data), batch 32, linear schedule with 10 %
warm-up, early stopping on weak validation labels. About 10 minutes on 2 cores. Expected: weak 0.726, student 0.732
(naive) and 0.617 (confidence, which hurts so short a training), ceiling 0.806; see docs/log.md.
"""

from outgrow import Grid, sweep

GRID = Grid(
    weak=("minilm-l3",),
    strong=("minilm-l6",),
    train=("finetune(epochs=2, lr=1e-4, batch_size=32, max_tokens=64)",),
    strategy=("naive", "confidence"),
    supervisor_rows=1000,
    transfer_rows=1000,
    test_rows=1000,
    seeds=3,
    controls=False,
)

if __name__ == "__main__":
    columns = ["weak", "strong", "strategy", "weak_accuracy", "student_accuracy", "ceiling_accuracy", "pgr", "gain"]
    print(sweep(GRID).select(columns))
