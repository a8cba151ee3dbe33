"""What protocols share: the gold of A dealt out, so that no row serves twice, and linear heads taught on a share of it.

A protocol is a supervisor (:func:`outgrow.supervisors.supervisor`): several parties, each with gold of its own rows of
A, make one set of labels of B, B_val and T. Every strategy, sweep and figure then applies to what they label. Gold of B
or T reaches none of them.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from outgrow import steps
from outgrow.data import Examples, Ids, Ints, Split, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.strategies import FitRequest, Learner
from outgrow.strategies.trainers import Logistic
from outgrow.supervisors import SupervisorSetup

__all__ = ["L2", "LABELLED", "Dealt", "deal", "share_out"]

LABELLED = ("B", "B_val", "T")
"""The parts that a supervisor labels."""
L2 = 0.1
"""Of every head in a protocol. Shares of A are small, and logistic's own .01 overfits a few hundred rows; fixed before
the first run."""


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """A dealt into shares; every share is a part of ``split``, beside B, B_val and T."""

    setup: SupervisorSetup
    split: Step

    def gold(self, share: str) -> Step:
        """The truth on a share of A."""
        return Step(steps.gold, pool=self.setup.pool, split=self.split, parts=(share,))

    def learner(self, model: str | None) -> Learner:
        """An exact logistic head on the frozen features of a model, which reads as much of each text as the student's
        probe does; None for the student's own model."""
        own = self.setup.student
        probe: Any = own.trainer.probed()
        read = {name: getattr(probe, name) for name in ("view", "max_tokens", "precision")}
        headed = replace(own, trainer=Logistic(l2=L2, **read), training=None)
        return headed if model is None else headed.for_model(model)

    def taught(self, learner: Learner, share: str, rows: Step | None = None) -> Step:
        """The learner fitted to the gold of a share, or to ``rows``, labels of the protocol's own making."""
        request = FitRequest(labels=self.gold(share), split=self.split, part=share, rows=rows, seed=self.setup.seed)
        return learner.fit(request)

    def head(self, features: Step, share: str) -> Step:
        """An exact logistic head on features of the protocol's own making (view ``mean``), fitted to the gold of a
        share."""
        logistic = Logistic(view="mean", l2=L2)
        given = {"labels": self.gold(share), "split": self.split, "part": share}
        return Step(steps.fit_logistic, features=features, logistic=logistic, **given)

    def heard(self, fitted: Step, features: Step, parts: tuple[str, ...] = LABELLED) -> Step:
        """What such a head says of some parts."""
        return Step(steps.predict_probe, fitted=fitted, features=features, split=self.split, parts=parts)


def deal(setup: SupervisorSetup, *shares: str) -> Dealt:
    """A and A_val dealt into as many shares of equal size as there are names."""
    dealt = Step(share_out, texts=setup.student.texts, split=setup.split, shares=shares, seed=setup.seed)
    return Dealt(setup=setup, split=dealt)


@step(version=1, said="deal out A")
def share_out(texts: Examples, split: Split, shares: tuple[str, ...], seed: int) -> Split:
    """A split whose parts are shares of A and A_val, and B, B_val and T; related rows stay in one share.

    Groups are ordered by the sha256 of seed and name, and that order is cut into shares with numbers of rows as equal
    as groups allow. Each share has an empty ``<share>_val``: heads solved exactly need no rows held out.
    """
    ids = split.ids(("A", "A_val"))
    number = _numbers(texts.groups[positions(ids, texts.ids)], len(shares), seed)
    parts = {name: ids[number == i] for i, name in enumerate(shares)}
    if empty := [name for name, kept in parts.items() if not len(kept)]:
        raise UserError(
            f"part A has too few groups of rows to deal out {len(shares)} shares ({', '.join(shares)}): none is left "
            f"for {empty[0]}; give it more rows with supervisor_rows=..., or a larger table"
        )
    return Split(parts=with_no_rows_held_out(parts) | {name: split.parts[name] for name in LABELLED})


def with_no_rows_held_out(parts: dict[str, Ids]) -> dict[str, Ids]:
    """The parts, each with an empty ``<part>_val``."""
    return parts | {f"{name}_val": ids[:0] for name, ids in parts.items()}


def _numbers(groups: Ids, count: int, seed: int) -> Ints:
    """(n,) The share of each row: the one that the middle of its group's rows falls into."""
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    hashed = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names]
    order = sorted(range(len(names)), key=lambda i: hashed[i])
    middle = np.empty(len(names))
    middle[order] = np.cumsum(sizes[order]) - sizes[order] / 2
    return np.asarray((middle * count / max(1, len(groups))).astype(np.int64)[group])
