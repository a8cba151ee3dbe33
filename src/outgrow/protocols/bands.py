"""Easy to hard: gold of A's easy rows only, and a strong model that labels ever harder rows for itself.

Rows of A are sorted by the task's column ``difficulty`` and cut into bands of equal size. Gold is read of one band
alone (or of as many rows of all), so that arms differ in whose labels teach, not in how many gold rows they had. No row
of B or T teaches anybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from outgrow.data import Examples, Labels, Split, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.labels.base import confidence, highest_of_each
from outgrow.protocols.base import LABELLED, Dealt, with_no_rows_held_out
from outgrow.registry import Range
from outgrow.supervisors import Supervisor, SupervisorSetup, supervisor

__all__ = ["Climb", "OneBand", "add_sure", "cut_bands", "difficulty"]


@dataclass(frozen=True, kw_only=True)
class _Banded(Supervisor):
    bands: Annotated[int, Range(2, 20)] = 3
    """How many bands of difficulty A is cut into, equal in size; 1 is the easiest."""
    model: str | None = None
    """The model that is taught; by default the student's."""

    def _cut(self, setup: SupervisorSetup, *, mixed: bool = False) -> Dealt:
        known = Step(difficulty, pool=setup.pool)
        cut = Step(cut_bands, difficulty=known, split=setup.split, bands=self.bands, mixed=mixed)
        return Dealt(setup=setup, split=cut)


@supervisor("climb")
class Climb(_Banded):
    """A strong model taught by gold of the easy band labels the next band, keeps what it is sure of, and so on up.

    What it keeps, it keeps as certain labels; after each band a head is fitted anew to the gold and all that was kept.
    """

    version = 1
    source = "Hase et al. 2024 (arXiv 2401.06751) and Sun et al. 2024 (arXiv 2403.09472), recursively"
    cost = "one head for each band"

    keep: Annotated[float, Range(0, 1)] = 0.5
    """Share of each band kept, the surest of each predicted class; 1 keeps all."""
    by: str | None = None
    """Another model, taught by the same gold, that labels the harder bands instead: ``glove`` is the control in which
    the supervisor is weak."""

    def __call__(self, setup: SupervisorSetup) -> Step:
        cut = self._cut(setup)
        learner = cut.learner(self.model)
        other = cut.learner(self.by) if self.by is not None else None
        fitted = cut.taught(learner, "band1")
        labeller = None if other is None else cut.taught(other, "band1")
        labels = cut.gold("band1")
        for band in range(2, self.bands + 1):
            asked, knows = (learner, fitted) if other is None or labeller is None else (other, labeller)
            said = asked.predict(knows, cut.split, (f"band{band}",))
            labels = Step(add_sure, labels=labels, said=said, keep=self.keep)
            fitted = cut.taught(learner, "band1", rows=labels)
        return learner.predict(fitted, cut.split, LABELLED)


@supervisor("one-band")
class OneBand(_Banded):
    """A model taught by gold of one band of difficulty alone: one jump from easy to hard, or hard gold to compare."""

    version = 1
    source = "Hase et al. 2024 (arXiv 2401.06751)"
    cost = "one head"

    band: Annotated[int | None, Range(1, 20)] = 1
    """Counted from 1, the easiest; None for as many rows of all bands alike."""

    def __post_init__(self) -> None:
        if self.band is not None and self.band > self.bands:
            raise UserError(f"band is {self.band}, and there are {self.bands}; take one from 1 to {self.bands}")

    def __call__(self, setup: SupervisorSetup) -> Step:
        cut = self._cut(setup, mixed=self.band is None)
        learner = cut.learner(self.model)
        fitted = cut.taught(learner, "mixed" if self.band is None else f"band{self.band}")
        return learner.predict(fitted, cut.split, LABELLED)


# --- their steps ------------------------------------------------------------------------------------------------------


@step(version=1, said="take difficulty")
def difficulty(pool: Examples) -> Mapping[str, NDArray[Any]]:
    """How hard every row is, by the task's column ``difficulty``: ``ids`` and ``difficulty`` (n,). Gold is not read."""
    if "difficulty" not in pool.meta:
        raise UserError(
            "bands of difficulty need a task that rates its rows, and this one has no column difficulty; take a "
            "sentiment task, such as sentiment-movies"
        )
    return {"ids": pool.ids, "difficulty": np.asarray(pool.meta["difficulty"], dtype=np.float64)}


@step(version=1, said="cut bands")
def cut_bands(difficulty: Mapping[str, NDArray[Any]], split: Split, bands: int, mixed: bool = False) -> Split:
    """A split whose parts are ``band1`` (easiest) to ``band<n>`` of A and A_val, equal in size but for a row, or only
    ``mixed``, one row of every n in order of difficulty; beside B, B_val and T. Rows of equal difficulty stand by id.

    Raises:
        UserError: if a row of A has no difficulty, or there are too few.
    """
    ids = split.ids(("A", "A_val"))
    values = difficulty["difficulty"][positions(ids, difficulty["ids"])]
    if missing := int(np.isnan(values).sum()):
        raise UserError(
            f"{missing} of {len(ids)} rows of A have no difficulty, the first is {str(ids[np.isnan(values)][0])!r}; "
            "take a task that rates every row"
        )
    if len(ids) < 2 * bands:
        raise UserError(f"{bands} bands need {2 * bands} rows of A, and there are {len(ids)}; take fewer bands")
    order = ids[np.lexsort((ids, values))]
    parts = {f"band{i}": kept for i, kept in enumerate(np.array_split(order, bands), start=1)}
    if mixed:
        parts = {"mixed": order[bands // 2 :: bands]}
    return Split(parts=with_no_rows_held_out(parts) | {name: split.parts[name] for name in LABELLED})


@step(version=1, said="keep sure labels")
def add_sure(labels: Labels, said: Labels, keep: float) -> Labels:
    """``labels``, and the surest ``keep`` of what was ``said`` of further rows, of each class said, made certain."""
    chosen = highest_of_each(confidence(said.probs), keep, said.hard, said.ids)
    sure = Labels.from_classes(said.ids[chosen], said.hard[chosen], said.probs.shape[1], "sure")
    probs = np.concatenate([labels.probs, sure.probs]).astype(np.float32)
    return replace(labels, ids=np.concatenate([labels.ids, sure.ids]), probs=probs, source="sure")
