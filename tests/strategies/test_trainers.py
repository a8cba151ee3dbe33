"""Trainers are objects: one from outside the package does all that ours do, and no code asks which one it has."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import outgrow
from conftest import MakeExperiment, chosen_words, words
from outgrow import steps
from outgrow.data import Examples, Features, Labels, Split, positions
from outgrow.engine.graph import Step, step
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import Experiment, run_steps, wire
from outgrow.losses import LogConf, Xent
from outgrow.models.spec import ModelSpec
from outgrow.runtime import Runtime
from outgrow.strategies import TRAINERS, FitRequest, Learner, Setup, Trainer, parse_trainer, trainer
from outgrow.strategies.ensembles import draw
from outgrow.strategies.trainers import Finetune, Generate, Logistic, Probe
from outgrow.train import loop

CPU = Runtime(device="cpu", offline=True, say=lambda line: None)


# --- a trainer from outside -------------------------------------------------------------------------------------------


@step(version=1)
def centroids_of(features: Features, labels: Labels, split: Split, part: str, rows: Labels | None) -> dict[str, Any]:
    taught = labels.take(split.parts[part]) if rows is None else rows
    x, weights = features.views["mean"][positions(taught.ids, features.ids)], taught.probs.T
    return {"centers": (weights @ x / weights.sum(axis=1, keepdims=True)).tolist()}


@step(version=1)
def nearest(
    fitted: dict[str, Any], features: Features, split: Split, parts: tuple[str, ...], softness: float
) -> Labels:
    ids = split.ids(parts)
    x = features.views["mean"][positions(ids, features.ids)]
    distances = ((x[:, None] - np.array(fitted["centers"])) ** 2).sum(axis=2) / softness
    odds = np.exp(distances.min(axis=1, keepdims=True) - distances)
    return Labels(ids=ids, probs=(odds / odds.sum(axis=1, keepdims=True)).astype(np.float32), source="centroids")


@pytest.fixture
def centroids() -> Iterator[None]:
    """A trainer as a user writes one."""

    @trainer("centroids")
    class Centroids(Trainer):
        """The nearest class mean of frozen features."""

        version = 1
        seeded = False
        softness: float = 1.0

        def fit(self, learner: Learner, request: FitRequest) -> Step:
            if request.loss != Xent():
                raise UserError("centroids are means and have no loss; take the strategy naive")
            given = {"labels": request.labels, "split": request.split, "part": request.part, "rows": request.rows}
            return Step(centroids_of, features=learner.features[0], **given)

        def predict(self, learner: Learner, fitted: Step, split: Step, parts: tuple[str, ...]) -> Step:
            given = {"fitted": fitted, "split": split, "parts": parts, "softness": self.softness}
            return Step(nearest, features=learner.features[0], **given)

    yield
    del TRAINERS._values["centroids"]


def centroid_experiment(make: MakeExperiment, strategy: str = "naive", **changed: Any) -> Experiment:
    fields: dict[str, Any] = {"strategy": strategy, "train": "centroids(softness=0.5)", "seeds": (0,)}
    return make(**fields | changed)


@pytest.mark.usefixtures("centroids")
@pytest.mark.parametrize(
    "strategy", ["naive", "naive(transforms=(KNN,))", "shuffled", "clusters", "refine", "ensemble(size=3)", "boosted"]
)
def test_a_trainer_from_outside_runs_in_a_whole_experiment(make: MakeExperiment, store: Store, strategy: str) -> None:
    experiment = centroid_experiment(make, strategy, weak_train=None)
    targets, _ = run_steps([experiment], store, CPU)
    found = store.read(targets[0])
    for role in ("weak", "student", "ceiling"):
        assert 0 <= found[role]["accuracy"][0] <= 1
    (ceiling,) = targets[0].args["ceiling"]
    assert ceiling.fn is nearest
    assert ceiling.args["softness"] == 0.5
    assert found["ceiling"]["accuracy"][0] > 0.55


@pytest.mark.usefixtures("centroids")
def test_its_student_and_ceiling_differ_in_the_labels_alone(make: MakeExperiment) -> None:
    target = wire(centroid_experiment(make))
    (student,), (ceiling,) = (
        [made.args["fitted"].args for made in target.args[role]] for role in ("student", "ceiling")
    )
    assert {k for k in student if str(student[k]) != str(ceiling[k])} == {"labels"}


@pytest.mark.usefixtures("centroids")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategy": "confidence"}, "centroids are means and have no loss; take the strategy naive"),
        ({"strategy": "naive(loss=GCE)"}, "have no loss"),
        ({"strategy": "regularised"}, "a probe's L2"),
        ({"strategy": "oracle"}, "does not stop early"),
        ({"strategy": "lp-ft"}, "which centroids does not do; train with finetune"),
        ({"strategy": "anchored"}, "which centroids does not do; train with finetune"),
        ({"strategy": "ensemble(kind='seeds')", "weak_train": None}, "centroids has one solution whatever the seed"),
        ({"task": "chess-puzzles(form='move')"}, "which centroids.* cannot"),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_line(make: MakeExperiment, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        wire(centroid_experiment(make, **change))
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("centroids")
def test_its_fields_are_spelled_as_those_of_any_other(make: MakeExperiment) -> None:
    assert TRAINERS.spell(parse_trainer("centroids( softness = 0.5 )")) == "centroids(softness=0.5)"
    assert wire(centroid_experiment(make)).key != wire(centroid_experiment(make, train="centroids")).key
    with pytest.raises(UserError, match="did you mean softness"):
        parse_trainer("centroids(softnes=1.0)")


@pytest.mark.usefixtures("centroids")
def test_simulatable_errors_are_those_of_a_probe_of_its_model(make: MakeExperiment) -> None:
    target = wire(centroid_experiment(make, weak="errors(kind='simulatable', accuracy=0.6)", weak_train=None))
    assert target.args["weak"][0].args["fitted"].args["probe"] == Probe(precision="fp32")


# --- no type switches -------------------------------------------------------------------------------------------------


def test_no_code_asks_which_trainer_it_has() -> None:
    ours = (Probe, Logistic, Finetune, Generate)
    classes = {base.__name__ for cls in ours for base in cls.__mro__ if base.__module__.startswith("outgrow.")}
    asked = []
    for path in sorted(Path(outgrow.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="isinstance" | "issubclass" | "type"), args=args):
                    tested = args
                case ast.MatchClass(cls=cls):
                    tested = [cls]
                case _:
                    continue
            named = {n.id for a in tested for n in ast.walk(a) if isinstance(n, ast.Name)}
            named |= {n.attr for a in tested for n in ast.walk(a) if isinstance(n, ast.Attribute)}
            if any("trainer" in name.lower() for name in named) or named & classes:
                asked.append(f"{path.name}:{node.lineno}: {sorted(named)}")
    assert not asked


# --- requests ---------------------------------------------------------------------------------------------------------


ASKED: dict[str, dict[str, Any]] = {
    "anchor": {"anchor": 0.5}, "start": {"start": True}, "rows": {"rows": True}, "loss": {"loss": LogConf()},
}  # fmt: skip
REFUSED = {
    "probe": {"anchor", "start"},
    "logistic": {"anchor", "start", "loss"},
    "finetune": set[str](),
    "generate": set(ASKED),
}


@pytest.mark.parametrize("spelled", REFUSED)
@pytest.mark.parametrize("asked", ASKED)
def test_what_is_requested_changes_the_step_or_is_refused(
    make: MakeExperiment, writer: Path, spelled: str, asked: str
) -> None:
    setup = a_setup(make)
    learner = Learner(model=ModelSpec.parse(str(writer)), trainer=parse_trainer(spelled), texts=setup.student.texts)
    plain = FitRequest(labels=setup.weak, split=setup.split, part="B", seed=0)
    added: Any = {k: setup.weak if v is True else v for k, v in ASKED[asked].items()}
    more = replace(plain, **added)
    if asked in REFUSED[spelled]:
        with pytest.raises(UserError) as error:
            learner.fit(more)
        assert "\n" not in str(error.value)
    else:
        assert learner.fit(more).key != learner.fit(plain).key


def a_setup(make: MakeExperiment) -> Setup:
    target = wire(make(seeds=(0,)))
    (student,), (weak,) = target.args["student"], target.args["weak"]
    texts = target.args["texts"]
    learner = Learner(model=ModelSpec.parse(make().strong), trainer=Probe(), texts=texts)
    return Setup(split=student.args["split"], weak=weak, student=learner, seed=0)


# --- drawn rows -------------------------------------------------------------------------------------------------------


def parts_of(task: Examples) -> tuple[Features, Labels, Split]:
    ids, rng = task.ids, np.random.default_rng(0)
    shape = (len(ids), 24) if task.form == "text" else (len(ids), task.num_classes, 24)
    features = Features(ids=ids, views={"mid_mean": rng.normal(size=shape).astype(np.float32)})
    probs = rng.dirichlet(np.ones(task.num_classes), size=len(ids)).astype(np.float32)
    split = Split(parts={"A": ids[:150], "A_val": ids[150:180], "T": ids[180:]})
    return features, Labels(ids=ids, probs=probs, source="made up"), split


TASKS = [words(rows=240), words(rows=240, classes=3), chosen_words(rows=240, candidates=3)]


@pytest.mark.parametrize("task", TASKS, ids=["two", "three", "choice"])
@pytest.mark.parametrize("kind", [steps.fit_probe, steps.fit_logistic])
def test_a_head_on_drawn_rows_is_the_same_alone_and_among_many(task: Examples, kind: Any) -> None:
    features, labels, split = parts_of(task)
    shared = {"features": features, "labels": labels, "split": split, "part": "A"}
    own: list[dict[str, Any]] = []
    for seed in range(7):
        rows = draw(labels, split, seed) if seed else None
        if kind is steps.fit_probe:
            own.append({"probe": Probe(epochs=3, lr=0.01 * (1 + seed % 2)), "loss": Xent(), "seed": seed, "rows": rows})
        else:
            own.append({"logistic": Logistic(l2=0.1 * (1 + seed % 2)), "rows": rows})
    given = [shared | arguments for arguments in own]
    together = Step(kind, **dict.fromkeys(given[0], 0)).function.many
    assert together is not None
    for alone, among in zip([kind(**g, runtime=CPU) for g in given], together(given, CPU), strict=True):
        assert np.array_equal(alone.weight, among.weight)
        assert np.array_equal(alone.bias, among.bias)
        assert alone.history == among.history


@pytest.mark.parametrize("kind", [steps.fit_probe, steps.fit_logistic])
def test_all_rows_of_a_part_drawn_once_are_the_part(kind: Any) -> None:
    features, labels, split = parts_of(words(rows=240))
    given: dict[str, Any] = {"features": features, "labels": labels, "split": split, "part": "A"}
    given |= (
        {"probe": Probe(epochs=3), "loss": Xent(), "seed": 0} if kind is steps.fit_probe else {"logistic": Logistic()}
    )
    plain, drawn, other = (
        kind(**given, runtime=CPU, rows=rows)
        for rows in (None, labels.take(split.parts["A"]), labels.take(split.parts["A"][:50]))
    )
    assert np.array_equal(plain.weight, drawn.weight)
    assert not np.array_equal(plain.weight, other.weight)


def test_a_row_drawn_twice_counts_twice() -> None:
    """By the exact solution: each row twice is each once, and one row many times pulls."""
    features, labels, split = parts_of(words(rows=240))
    ids = split.parts["A"]
    given: Any = {"features": features, "labels": labels, "split": split, "part": "A", "logistic": Logistic(l2=0.1)}
    once, twice, pulled = (
        steps.fit_logistic(**given, runtime=CPU, rows=labels.take(np.concatenate(drawn)))
        for drawn in ([ids], [ids, ids], [ids, np.repeat(ids[:1], 60)])
    )
    np.testing.assert_allclose(once.weight, twice.weight, atol=1e-4)
    first = features.views["mid_mean"][:1]
    distances = [np.abs(f.predict(first) - labels.probs[:1]).max() for f in (once, pulled)]
    assert distances[1] < distances[0]


# --- a short way to the gradient --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [Xent(), LogConf()])
def test_from_the_step_to_the_backward_pass_there_are_four_frames(
    model: Path, monkeypatch: pytest.MonkeyPatch, loss: Any
) -> None:
    seen: list[list[str]] = []
    backward = torch.autograd.backward

    def counted(*args: Any, **named: Any) -> None:
        frame, names = sys._getframe(1), []
        while frame is not None:
            if str(frame.f_globals["__name__"]).startswith("outgrow."):
                names.append(f"{frame.f_globals['__name__']}.{frame.f_code.co_name}")
            frame = frame.f_back  # type: ignore[assignment]
        seen.append(names)
        backward(*args, **named)

    monkeypatch.setattr(torch.autograd, "backward", counted)
    task = words(rows=60)
    _, labels, _ = parts_of(task)
    split = Split(parts={"A": task.ids[:30], "A_val": task.ids[30:40]})
    settings = Finetune(epochs=1, batch_size=16)
    runtime = Runtime(device="cpu", microbatch=5, say=lambda line: None)
    steps.finetune(ModelSpec.parse(str(model)), task, labels, split, "A", loss, settings, 0, runtime)
    assert seen
    assert {len(names) for names in seen} == {4}
    assert seen[0][-1] == "outgrow.steps.fit.finetune"
    assert loop.finetune.__name__ in seen[0][-2]
