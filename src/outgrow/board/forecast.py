"""Forecasts of gain beside runs: which steps they are, from the steps of the runs that they are about."""

from collections.abc import Iterable, Sequence
from typing import Any

from outgrow import steps
from outgrow.engine.graph import Step
from outgrow.errors import UserError
from outgrow.models.spec import ModelSpec
from outgrow.strategies import FitRequest, Learner, is_control, parse_trainer
from outgrow.supervisors import SUPERVISORS
from outgrow.tasks import question_of

__all__ = ["forecasts"]

_HELD_OUT = ("A_val",)


def forecasts(targets: Iterable[Step], views: Sequence[str] = ()) -> list[Step]:
    """For each result of :func:`outgrow.experiment.wire_all` but controls, the step that forecasts its student's gain.

    Nothing of it sees gold of B or T. Run the steps beside the targets; the report then shows what they say.

    Args:
        targets: with a model as supervisor, trained on held-out rows too.
        views: models in order. The first two of them that are neither supervisor nor student of a target are trained on
            the gold of A as second and third supervisor, and a student of the third on its labels; where there are not
            two, nothing is estimated by triplets.

    Raises:
        UserError: if a supervisor is no model trained on A, or writes answers.
    """
    return [_forecast(target, views) for target in targets if not is_control(_experiment(target)["strategy"])]


def _experiment(target: Step) -> dict[str, Any]:
    assert target.note is not None
    spelled: dict[str, Any] = target.note["experiment"]
    return spelled


def _forecast(target: Step, views: Sequence[str]) -> Step:
    spelled, given = _experiment(target), target.args
    if spelled["weak"].partition("(")[0] in SUPERVISORS or any("pool" not in t.args for t in given["truth"]):
        raise UserError(
            f"forecasts need a supervisor that is a model trained on gold of A, and {spelled['weak']} is none; name a "
            "model as weak, such as glove"
        )
    texts = given.get("texts")
    if texts is None or not spelled["validation"]:
        raise UserError("forecasts need class probabilities and held-out rows of A; train with probe, validation=0.1")
    trained = parse_trainer(spelled["weak_train"] or spelled["train"])
    of_task: dict[str, Any] = {"texts": texts, "question": question_of(texts.args["pool"].args["task"])}
    student = Learner(model=ModelSpec.parse(spelled["strong"]), trainer=parse_trainer(spelled["train"]), **of_task)
    seeds = zip(given["truth"], given["seeds"], strict=True)
    places = [(truth.args["pool"], truth.args["split"], seed) for truth, seed in seeds]
    of_supervisor = _Supervisors(Learner(model=ModelSpec.parse(spelled["weak"]), trainer=trained, **of_task), places)
    features, view = of_supervisor.learner.features
    shifts = tuple(
        Step(steps.shift, texts=texts, features=features, view=view, split=split, weak_a=weak_a, weak=weak)
        for (_, split, _), weak_a, weak in zip(places, of_supervisor.of_a, given["weak"], strict=True)
    )
    more: dict[str, Any] = {}
    taken = (str(of_supervisor.learner.model), str(student.model))
    others = [model for model in map(ModelSpec.parse, views) if str(model) not in taken][:2]
    if len(others) == 2:
        second, third = (_Supervisors(Learner(model=m, trainer=trained, **of_task), places) for m in others)
        more = {"second": second.of_t, "second_a": second.of_a, "third": third.of_t, "other": third.taught(student)}
    features, view = student.features
    return Step(
        steps.forecast,
        student=given["student"],
        weak=given["weak"],
        weak_a=of_supervisor.of_a,
        gold_a=tuple(Step(steps.gold, pool=pool, split=split, parts=_HELD_OUT) for pool, split, _ in places),
        shifts=shifts,
        features=features,
        view=view,
        **more,
    )


class _Supervisors:
    """A model trained on the gold of A, once for each seed, wired as every run wires it."""

    def __init__(self, learner: Learner, places: Sequence[tuple[Step, Step, int]]) -> None:
        self.learner, self.places = learner, places
        self._fitted = [self._fit(*place) for place in places]

    def _fit(self, pool: Step, split: Step, seed: int) -> Step:
        own = self.learner.gold(pool, split, ("A", "A_val"))
        return self.learner.fit(FitRequest(labels=own, split=split, part="A", seed=seed))

    def _said(self, *parts: str) -> tuple[Step, ...]:
        pairs = zip(self._fitted, self.places, strict=True)
        return tuple(self.learner.predict(fitted, split, parts) for fitted, (_, split, _) in pairs)

    @property
    def of_a(self) -> tuple[Step, ...]:
        """Its labels of A's held-out rows."""
        return self._said(*_HELD_OUT)

    @property
    def of_t(self) -> tuple[Step, ...]:
        """Its labels of B, B_val and T."""
        return self._said("B", "B_val", "T")

    def taught(self, student: Learner) -> tuple[Step, ...]:
        """Labels of T by a student of it."""
        made = []
        for labels, (_, split, seed) in zip(self.of_t, self.places, strict=True):
            fitted = student.fit(FitRequest(labels=labels, split=split, part="B", seed=seed))
            made.append(student.predict(fitted, split, ("T",)))
        return tuple(made)
