"""Progress of a run on the terminal: what runs, how far, at what rate, and when it is done."""

import sys
import time
from types import TracebackType
from typing import Self

from outgrow.engine.graph import Step
from outgrow.engine.runner import Monitor
from outgrow.errors import printable, without_secrets

__all__ = ["Progress"]

_SECONDS_BETWEEN_LINES = 15.0  # where the output is no terminal, such as a log file
_SLOW_STEP = 2.0  # seconds; faster ones get no line of their own


class Progress(Monitor):
    """Shows a run on standard error: moving bars on a terminal, a line now and then elsewhere.

    Use as a context manager. ``estimate`` is the expected time of the whole run in seconds, 0 if unknown.
    """

    def __init__(self, estimate: float = 0.0) -> None:
        """Nothing is shown before the run starts."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
        self.estimate = estimate
        self.bars = Bars(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.whole = self.bars.add_task("steps", total=None, rate="")
        self.inner = self.bars.add_task("", total=None, rate="", visible=False)
        self.done = self.to_run = 0
        self.began = self.step_began = self.last_line = time.monotonic()
        self.name = ""

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def start(self, to_run: int, reused: int) -> None:
        """Say what the plan is."""
        self.done, self.to_run, self.began = 0, to_run, time.monotonic()
        self.bars.update(self.whole, total=to_run, completed=0)
        if to_run:
            about = f", about {clock(self.estimate)} by earlier runs" if self.estimate else ""
            self.say(f"{to_run} steps to run, {reused} reused{about}")

    def begin(self, steps: list[Step]) -> None:
        """Show the step under way."""
        self.name = described(steps)
        self.step_began = self.last_line = time.monotonic()
        self.bars.reset(self.inner, description=self.name, total=None, visible=True, rate="")

    def report(self, done: int, total: int, unit: str) -> None:
        """Move the inner bar; where there is no terminal, print a line now and then."""
        now = time.monotonic()
        spent = max(now - self.step_began, 1e-9)
        rate = f"{done / spent:,.{0 if done >= 10 * spent else 1}f} {unit}/s"
        self.bars.update(self.inner, completed=done, total=total, rate=rate)
        if not self.console.is_terminal and now - self.last_line > _SECONDS_BETWEEN_LINES:
            self.last_line = now
            left = clock(spent / max(done, 1) * (total - done))
            self.say(f"{self.name}: {done:,} of {total:,} {unit}, {rate}, {left} left")

    def end(self, steps: list[Step], seconds: float) -> None:
        """Count the steps; slow ones leave a line."""
        self.done += len(steps)
        per_second = self.done / max(time.monotonic() - self.began, 1e-9)
        self.bars.update(self.whole, completed=self.done, rate=f"{per_second:,.1f} steps/s")
        self.bars.update(self.inner, visible=False)
        if seconds >= _SLOW_STEP:
            self.say(f"{described(steps)}: {clock(seconds)} ({self.done} of {self.to_run} steps)")

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(printable(without_secrets(line)), markup=False)


def described(steps: list[Step]) -> str:
    """What these steps do, in a few words: the function, the model it works on, how many go together."""
    first = steps[0]
    model = next((str(v) for k, v in first.args.items() if k == "model"), "")
    together = f" ×{len(steps)}" if len(steps) > 1 else ""
    return " ".join(filter(None, (first.function.name, model))) + together


def clock(seconds: float) -> str:
    """Seconds as people say them: 8 s, 2 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
