"""Progress of a run on the terminal: what runs, how far, at what rate, and when it is done."""

import sys
import time
from types import TracebackType
from typing import Self

from outgrow.engine.graph import Step
from outgrow.engine.runner import Monitor, Plan
from outgrow.errors import counted, printable, without_secrets

__all__ = ["Progress"]

_SECONDS_BETWEEN_LINES = 15.0  # where the output is no terminal, such as a log file
_TRUST = 5.0  # seconds that estimates are taken to have been right for before any step is done
_SLOW_STEP = 2.0  # seconds; faster ones get no line of their own


class Progress(Monitor):
    """Shows a run on standard error: moving bars on a terminal, a line now and then elsewhere.

    Use as a context manager. ``plan`` is what the run will do, from which it tells the time that is left.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        """Nothing is shown before the run starts."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self.console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
        self.plan = plan
        self.left = dict(plan.by_key) if plan else {}
        """Estimated seconds of each step that is not done."""
        self.estimated = self.spent = 0.0
        """Seconds of finished steps, as estimated and as they were."""
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=max(6, min(24, self.console.width - 84))),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.whole = self.bars.add_task("all steps", total=None, rate="", left="", visible=False)
        self.inner = self.bars.add_task("", total=None, rate="", left="", visible=False)
        self.done = self.to_run = 0
        self.began = self.step_began = self.last_line = time.monotonic()
        self.name = ""
        self.first: tuple[int, float] | None = None
        """How far the step under way was at its first report, and when: what a killed run left took no time now."""

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
        self.bars.update(self.whole, total=to_run, completed=0, visible=to_run > 0)
        if to_run:
            self.say(f"{counted(to_run, 'step')} to run, {reused:,} reused{self._about()}")
        self._tell_left()

    def begin(self, steps: list[Step]) -> None:
        """Show the step under way."""
        self.name = described(steps)
        self.step_began = self.last_line = time.monotonic()
        self.first = None
        self.bars.reset(self.inner, description=self.name, total=None, visible=True, rate="", left="")

    def report(self, done: int, total: int, unit: str) -> None:
        """Move the inner bar; where there is no terminal, print a line now and then. Rate and time left count from the
        first report on."""
        now = time.monotonic()
        kept, began = self.first = self.first or (done, now)
        made, spent = done - kept, max(now - began, 1e-9)
        rate = f"{made / spent:,.{0 if made >= 10 * spent else 1}f} {unit}/s" if made else f"? {unit}/s"
        left = clock(spent / made * (total - done)) if made else "?"
        self.bars.update(self.inner, completed=done, total=total, rate=rate, left=f"{left} left")
        if not self.console.is_terminal and now - self.last_line > _SECONDS_BETWEEN_LINES:
            self.last_line = now
            self.say(f"{self.name}: {done:,} of {total:,} {unit}, {rate}, {left} left")

    def end(self, steps: list[Step], seconds: float) -> None:
        """Count the steps; slow ones leave a line."""
        self.done += len(steps)
        per_second = self.done / max(time.monotonic() - self.began, 1e-9)
        self.bars.update(self.whole, completed=self.done, rate=f"{per_second:,.1f}/s")
        self.bars.update(self.inner, visible=False)
        known = [self.left.pop(s.key) for s in steps if s.key in self.left]
        if known and len(known) == len(steps):
            self.estimated, self.spent = self.estimated + sum(known), self.spent + seconds
        self._tell_left()
        if seconds >= _SLOW_STEP:
            self.say(f"{described(steps)}: {clock(seconds)} ({self.done:,} of {counted(self.to_run, 'step')})")

    def _about(self) -> str:
        """How long it may take, and by what that is known."""
        if self.plan is None or not self.left:
            return ""
        by = f"a guess for {counted(self.plan.guessed, 'step')}" if self.plan.guessed else "by earlier runs"
        more = f", without {counted(self.plan.unknown, 'step')} never timed" if self.plan.unknown else ""
        return f", about {clock(sum(self.left.values()))} ({by}{more})"

    def _tell_left(self) -> None:
        """Show the time left of the whole run, estimated step by step, at the pace of the steps so far."""
        if self.plan is None or not self.plan.by_key:
            return
        pace = (self.spent + _TRUST) / (self.estimated + _TRUST)
        least = "over " if self.plan.unknown else "about "
        self.bars.update(self.whole, left=f"{least}{clock(pace * sum(self.left.values()))} left")

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(printable(without_secrets(line)), markup=False)


def described(steps: list[Step]) -> str:
    """What these steps do, in a few words: the work, the model it is done with, how many go together."""
    first = steps[0]
    model = next((f": {v}" for k, v in first.args.items() if k == "model"), "")
    together = f" ×{len(steps)}" if len(steps) > 1 else ""
    return f"{first.function.doing}{together}{model}"


def clock(seconds: float) -> str:
    """Seconds as people say them: 8 s, 2 min 05 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
