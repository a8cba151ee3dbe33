"""What SmolLM2-135M tells of rated movie snippets without being trained on weak labels: prompts, CCS, CRC-TPC.

    python experiments/elicitation.py

300 test rows, 300 of B, 2 seeds, so intervals are wide. Expected numbers stand in docs/log.md.
"""

from outgrow import Grid, sweep

PROMPT = "prompt='{text}\\nThe sentiment of this review is {label}', max_tokens=48"
STATEMENT = "prompt='The sentiment is {label}: {text}', max_tokens=64"
GRID = Grid(
    weak=("glove",),
    strong=("smollm2-135m",),
    train=("probe(max_tokens=48)",),
    weak_train="probe",
    strategy=(
        "naive",
        f"zero-shot({PROMPT}, calibrated=False)",
        f"zero-shot({PROMPT})",
        f"few-shot({PROMPT})",
        f"few-shot({PROMPT}, labels='gold')",
        f"ccs({STATEMENT})",
        f"crc({STATEMENT})",
    ),
    supervisor_rows=1000,
    transfer_rows=300,
    test_rows=300,
    seeds=2,
    ceiling=False,
    controls=False,
)

if __name__ == "__main__":
    print(sweep(GRID).select(["strategy", "weak_accuracy", "student_accuracy", "student_accuracy_low"]))
