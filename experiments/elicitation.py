"""What models tell of rated movie snippets without being trained on weak labels: prompts, ICM, CCS, CRC-TPC.

    python experiments/elicitation.py

Prompts to SmolLM2-135M on 200 test rows and one seed, so intervals are wide; statements to MiniLM-L6 on all, 2 seeds.
10 minutes on 2 cores. Expected: 0.730 zero-shot, 0.820 calibrated, 0.755 and 0.625 few-shot with weak and gold labels,
0.522 CCS, 0.550 CRC, 0.535 ICM (docs/log.md).
"""

from dataclasses import replace

from outgrow import Grid, sweep

PROMPT = "prompt='{text}\\nThe sentiment of this review is {label}', max_tokens=48"
STATEMENT = "prompt='The sentiment is {label}: {text}', view='mean', max_tokens=64"
PROMPTS = Grid(
    weak=("glove",),
    strong=("smollm2-135m",),
    strategy=(
        f"zero-shot({PROMPT}, calibrated=False)",
        f"zero-shot({PROMPT})",
        f"few-shot({PROMPT})",
        f"few-shot({PROMPT}, labels='gold')",
    ),
    test_rows=200,
    seeds=1,
    ceiling=False,
    controls=False,
)
STATEMENTS = Grid(
    weak=("glove",),
    strong=("minilm-l6",),
    strategy=("naive", f"ccs({STATEMENT})", f"crc({STATEMENT})"),
    seeds=2,
    ceiling=False,
    controls=False,
)
COHERENCE = replace(PROMPTS, strategy=(f"icm({PROMPT})",))

if __name__ == "__main__":
    for grid in (PROMPTS, STATEMENTS, COHERENCE):
        columns = ["strategy", "weak_accuracy", "student_accuracy", "student_accuracy_low", "student_accuracy_high"]
        print(sweep(grid).select(columns))
