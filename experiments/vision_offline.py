"""Images without a hub: probes on few pixels supervise probes on EfficientNet-Lite, on Fashion-MNIST, 5 seeds.

    python experiments/vision_offline.py

Fixed before the first run: the plain linear probe of vision (mean over the last layer), 96 pixels for the nets (the
pictures have 28), and two ways to make the task harder for the weak: fewer pixels on ten classes, and a pair of classes
known to be confused. Nothing was picked by its result, and pairs without a gap stay in.

About 25 minutes on 2 cores that are busy with other work. Expected: gaps up to 0.20 (4 x 4 pixels 0.635, ceiling
0.833) of which no student recovers a part whose interval excludes zero, with either strategy; all of it in docs/log.md.
"""

from outgrow import Experiment, Grid, sweep
from outgrow.experiment import experiments_of

WEAK = ("pixels(size=4)", "pixels(size=7)", "pixels(size=28)")
STRONG = ("efficientnet-lite0(size=96)", "efficientnet-lite2(size=96)")
FEW = 200
TRAIN = ("probe(view='mean')",)
TASKS = ("fashion-mnist(limit=4000)", "fashion-mnist(limit=2000, classes=('T-shirt/top', 'Shirt'))")


def experiments() -> list[Experiment]:
    """Every supervisor with every student on both tasks; the smaller net as the larger one's supervisor; few labels."""
    return [
        *experiments_of(Grid(task=TASKS, weak=WEAK, strong=STRONG, train=TRAIN)),
        *experiments_of(Grid(task=TASKS, weak=STRONG[:1], strong=STRONG[1:], train=TRAIN)),
        # Added once the above had shown no recovery: a supervisor that is weak for want of labels, not of pixels.
        *experiments_of(Grid(task=TASKS[:1], weak=("pixels",), strong=STRONG, supervisor_rows=FEW, train=TRAIN)),
        *experiments_of(Grid(task=TASKS[:1], weak=STRONG[:1], strong=STRONG[1:], supervisor_rows=FEW, train=TRAIN)),
    ]


if __name__ == "__main__":
    columns = ["task", "weak", "strong", "strategy", "weak_accuracy", "student_accuracy", "ceiling_accuracy", "pgr"]
    print(sweep(experiments()).select(columns))
