"""Students without gradients on the student's frozen features: a discriminant of classes as clouds, and `auto`."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any

from outgrow import steps
from outgrow.engine.graph import Step
from outgrow.errors import UserError
from outgrow.registry import ClassShares, Range
from outgrow.strategies.base import Setup, Strategy, strategy
from outgrow.strategies.trainers import FitRequest, Learner, Logistic, TrainingMethod

__all__ = ["Auto", "CloudDiscriminant"]

_Wanted = Step | str | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class _Frozen(Strategy, TrainingMethod):
    """A head that the labels of B give without a trainer; the ceiling's is given by gold."""

    shares: Annotated[str | tuple[float, ...], ClassShares("guarded", "weak", "uniform", "none")] = "guarded"
    """How often the student says each class on the texts of A and B: as the mean weak label of B (``weak``), equally
    often, as the shares given, or as it comes (``none``). ``guarded`` is ``weak`` where that share can be trusted and
    else ``none``, see :func:`outgrow.steps.guard_shares`. A ceiling's labels are trusted. The places of a
    choice carry no information: there is nothing to match."""

    def __call__(self, setup: Setup) -> Step:
        setup.student.check_classifies("this strategy gives")
        request = FitRequest(labels=setup.weak, split=setup.split, part="B", seed=setup.seed)
        return setup.predict(self.head(setup.student, request, self._shares(setup)))

    def fit(self, learner: Learner, request: FitRequest) -> Step:
        return self.head(learner, request, "weak" if self.shares == "guarded" else self.shares)

    @abstractmethod
    def head(self, learner: Learner, request: FitRequest, shares: _Wanted) -> Step:
        """The step that makes the head, with the class shares that are to be matched."""

    def _shares(self, setup: Setup) -> _Wanted:
        if setup.form == "choice":
            if not isinstance(self.shares, str):
                raise UserError("shares are of classes, and a choice has places; leave shares out")
            return "none"
        return setup.guarded_shares() if self.shares == "guarded" else self.shares


def _given(learner: Learner, request: FitRequest, what: str) -> tuple[dict[str, Any], str]:
    """What every step that makes a head takes, and the view it reads."""
    if learner.trainer.probed() != learner.trainer:
        raise UserError(f"{what} is a linear head on frozen features; train with probe or logistic")
    features, view = learner.features
    labels = {"labels": request.labels, "split": request.split, "part": request.part, "rows": request.rows}
    return {"features": features, **labels}, view


@strategy("clouds")
class CloudDiscriminant(_Frozen):
    """A linear discriminant: each class a Gaussian cloud in the student's features, placed by weak labels and texts.

    The clouds of the transform ``AnchoredEM``, used as the student itself instead of their posterior as labels. Zero
    rounds is the ridge linear discriminant of the soft weak labels, without EM and without further texts. For choices
    there are two clouds, of the right candidate and of the others.
    """

    version = 1
    source = "Outgrow; EM for Gaussian mixtures (Dempster et al. 1977) anchored at soft labels"
    cost = "principal components once: n d^2; then little"

    components: Annotated[int, Range(1)] = 256
    """How many principal components are used at most."""
    shrinkage: Annotated[float, Range(1e-6, 1)] = 0.3
    """Share of the spherical covariance."""
    anchor: Annotated[float, Range(0)] = 1.0
    """Weight of the supervisor's log-odds in a row's posterior; a very large one keeps to its classes."""
    rounds: Annotated[int, Range(0)] = 50
    """Of EM at most; it stops once nothing moves by 1e-6."""

    def head(self, learner: Learner, request: FitRequest, shares: _Wanted) -> Step:
        given, _ = _given(learner, request, "clouds")
        return learner.matched(self.clouds(given, learner.features[1], shares), request, shares)

    def clouds(self, given: dict[str, Any], view: str, shares: _Wanted) -> Step:
        """The discriminant, before its class shares are matched."""
        options = {name: getattr(self, name) for name in ("components", "shrinkage", "anchor", "rounds")}
        return Step(steps.fit_cloud_head, view=view, shares=shares, **options, **given)


@strategy("auto")
class Auto(_Frozen):
    """An exact logistic regression of the soft weak labels plus ``weight`` times the anchored ``clouds``.

    Both are linear in the student's features. Their logits are shifted until their class shares are as ``shares`` says,
    and scaled to the same mean size, on all texts but the test's. The regression has strong L2 on standardized
    features. Developed on sentences and topics and then frozen (docs/log.md). Weight 0 is the regression alone.
    """

    version = 1
    source = "Outgrow; exact logistic regression, clouds by anchored EM, class shares matched"
    cost = "one exact logistic regression and principal components: n d^2"

    weight: Annotated[float, Range(0)] = 0.5
    """Of the clouds, beside 1 for the regression."""
    l2: Annotated[float, Range(0, above=True)] = 1.0
    """Of the regression."""

    def head(self, learner: Learner, request: FitRequest, shares: _Wanted) -> Step:
        given, view = _given(learner, request, "auto")
        own = Logistic(view=view, l2=self.l2).settled(learner.model)
        regression = Step(steps.fit_logistic, logistic=own, **given)
        if not self.weight:
            return learner.matched(regression, request, shares)
        clouds = CloudDiscriminant().clouds(given, view, shares)
        weights = (1.0, self.weight)
        return Step(steps.blend_heads, heads=(regression, clouds), weights=weights, shares=shares, **given)
