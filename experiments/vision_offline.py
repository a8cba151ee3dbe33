"""Images without a hub: probes on few pixels supervise probes on EfficientNet-Lite, on Fashion-MNIST, 5 seeds.

    python experiments/vision_offline.py

What was fixed before the first run: the plain linear probe of vision (mean over the last layer), 96 pixels for the nets
(the pictures have 28), and two ways to make the task harder for the weak: fewer pixels on ten classes, and one pair of
classes known to be confused. Nothing was picked by its result; pairs without a gap stay in.
"""

from outgrow import Experiment, Grid, sweep
from outgrow.experiment import experiments_of

WEAK = ("pixels(size=4)", "pixels(size=7)", "pixels(size=28)")
STRONG = ("efficientnet-lite0(size=96)", "efficientnet-lite2(size=96)")
TASKS = ("fashion-mnist(limit=4000)", "fashion-mnist(limit=2000, classes=('T-shirt/top', 'Shirt'))")


def experiments() -> list[Experiment]:
    """Every supervisor with every student on both tasks, and the smaller net as the larger one's supervisor."""
    shared = {"task": TASKS, "train": ("probe(view='mean')",)}
    return [
        *experiments_of(Grid(weak=WEAK, strong=STRONG, **shared)),
        *experiments_of(Grid(weak=STRONG[:1], strong=STRONG[1:], **shared)),
    ]


if __name__ == "__main__":
    columns = ["task", "weak", "strong", "strategy", "weak_accuracy", "student_accuracy", "ceiling_accuracy", "pgr"]
    print(sweep(experiments()).select(columns))
