"""Every line of ``outgrow methods`` runs on measured data with two and three classes, or is refused with the reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import MakeExperiment
from outgrow.data import Examples
from outgrow.engine.graph import Step
from outgrow.engine.runner import StepsFailed
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import open_store, run_steps, wire
from outgrow.labels import LABEL_MODELS, TRANSFORMS
from outgrow.losses import LOSSES
from outgrow.report.reference import listing
from outgrow.runtime import Runtime
from outgrow.strategies import STRATEGIES, TRAINERS
from outgrow.supervisors import SUPERVISORS
from outgrow.tasks.registry import task

PROBE = "probe(epochs=4, lr=0.03)"
FINETUNE = "finetune(epochs=1, lr=0.01, batch_size=16, checks=1)"
LOGISTIC = "logistic(l2=0.1)"
FINETUNED = {"lp-ft", "anchored", "generative-finetuning"}


def _words(matrix: Any, gold: Any, classes: tuple[str, ...]) -> Examples:
    """Measurements as words the tiny models read: which twentieth of its values each of eight columns is in."""
    order = np.random.default_rng(0).permutation(len(gold))
    ranks = matrix[:, :8].argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    bins = (20 * ranks // len(gold))[order]
    ids = np.array([f"row-{i}" for i in order])
    texts = tuple(" ".join(f"w{b}" for b in row) for row in bins)
    hard = {"difficulty": np.random.default_rng(1).random(len(gold))}
    return Examples(ids=ids, inputs=texts, gold=gold[order].astype(np.int64), classes=classes, groups=ids, meta=hard)


@task(name="tumours", content="scikit-learn", licence="CC BY 4.0", source="scikit-learn", about="Is it benign?")
def tumours() -> Examples:
    """569 samples, 212 of them malignant (Wolberg et al. 1995, breast cancer Wisconsin)."""
    from sklearn.datasets import load_breast_cancer

    data: Any = load_breast_cancer()
    return _words(data.data, data.target, ("bad", "good"))


@task(name="figures", content="scikit-learn", licence="CC BY 4.0", source="scikit-learn", about="Is it 0, 1 or 2?")
def figures() -> Examples:
    """537 handwritten digits (Alpaydin & Kaynak 1998) by their eight most varied pixels."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    chosen = data.target < 3
    pixels = data.data[chosen]
    return _words(pixels[:, pixels.std(axis=0).argsort()[::-1]], data.target[chosen], ("bad", "good", "no"))


TASKS = ("tumours", "figures")
ELSEWHERE = ("labels", "second", "rater", "nested")
"""Supervisors that need columns of a user's table, or pairs: tests/protocols/test_nested.py."""
METHODS = [
    *(("strategies", name) for name in STRATEGIES),
    *(("losses", name) for name in LOSSES),
    *(("transforms", name) for name in TRANSFORMS),
    *(("label models", name) for name in LABEL_MODELS),
    *(("trainers", name) for name in TRAINERS if name != "generate"),  # writes answers: tests/train/test_lm.py
    *(("supervisors", name) for name in SUPERVISORS if name not in ELSEWHERE),
]


def test_every_listed_method_is_run() -> None:
    elsewhere = {("trainers", "generate"), *(("supervisors", name) for name in ELSEWHERE)}
    shown = ("figures", "analyses")  # of a report: tests/report
    listed = {(m.kind, m.spelling.partition("(")[0]) for m in listing() if m.kind not in shown}
    assert listed == set(METHODS) | elsewhere


def spelled(kind: str, name: str, model: Path) -> dict[str, Any]:
    """What an experiment must set for one method."""
    match kind:
        case "losses":
            return {"strategy": f"naive(loss={name})"}
        case "transforms":
            return {"strategy": f"naive(transforms=({name},))"}
        case "label models":  # the supervisor, and another model
            return {"strategy": f"ensemble(size=1, models=({str(model)!r},), by={name})"}
        case "trainers":
            train = {"probe": PROBE, "finetune": FINETUNE, "logistic": LOGISTIC}[name]
            return {"strategy": "naive", "train": train, "weak_train": None}
        case "supervisors":
            judged = name in ("random-evidence", "debate", "consultancy")  # by glove, which is not on every disk
            weak = f"{name}(judge={str(model)!r})" if judged else name
            return {"strategy": "naive", "weak": weak, "weak_train": None}
    return {"strategy": name, **({"train": FINETUNE} if name in FINETUNED else {})}


Results = tuple[Store, dict[tuple[str, str, str], Step], str]


@pytest.fixture(scope="module")
def results(lawful: MakeExperiment, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Every method on every task, in one run, as what they share runs once."""
    store = open_store(str(tmp_path_factory.mktemp("every") / "store"))
    experiments = {
        (kind, name, on): lawful(
            **{"task": on, "train": PROBE, "weak_train": PROBE, "seeds": (0,), "ceiling": False}
            | spelled(kind, name, model)
        )
        for kind, name in METHODS
        for on in TASKS
    }
    said = ""
    try:
        targets, _ = run_steps(experiments.values(), store, Runtime(device="cpu", offline=True, say=lambda line: None))
    except StepsFailed as failed:
        said = "\n".join(failed.lines)
        targets = [wire(e) for e in experiments.values()]
    return store, dict(zip(experiments, targets, strict=True)), said


@pytest.mark.parametrize("on", TASKS)
@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_it_runs(results: Results, kind: str, name: str, on: str) -> None:
    store, targets, said = results
    target = targets[kind, name, on]
    assert store.is_done(target), said
    found = store.read(target)
    assert found["num_classes"] == {"tumours": 2, "figures": 3}[on]
    assert found["test_rows"] >= 100
    value, low, high = found["student"]["accuracy"]
    assert 0 <= low <= value <= high <= 1
    (predicted,) = target.args["student"]
    probs = store.read(predicted).probs
    assert np.isfinite(probs).all()
    assert np.allclose(probs.sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("on", TASKS)
def test_there_is_something_to_learn(results: Results, on: str) -> None:
    store, targets, _ = results
    assert store.read(targets["strategies", "naive", on])["student"]["accuracy"][0] > 0.55


# --- what goes together and what does not -----------------------------------------------------------------------------

MODELS = ("bert", "llama", "glove", "pixels")
ON = ("words", "chosen-words", "fashion-mnist", "chess-puzzles(form='move')")


@pytest.mark.parametrize("on", ON)
@pytest.mark.parametrize("train", TRAINERS)
def test_every_combination_is_planned_or_refused_in_one_line(
    make: MakeExperiment, model: Path, writer: Path, train: str, on: str
) -> None:
    places = {"bert": str(model), "llama": str(writer)}
    methods = [
        *STRATEGIES,
        *(f"naive(loss={name})" for name in LOSSES),
        *(f"naive(transforms=({name},))" for name in TRANSFORMS),
    ]
    planned, refused = 0, []
    for strong in MODELS:
        for strategy in methods:
            place = places.get(strong, strong)
            experiment = make(task=on, weak=place, strong=place, strategy=strategy, train=train, weak_train=None)
            try:
                wire(experiment)
                planned += 1
            except UserError as error:
                refused.append(str(error))
    assert all("\n" not in line and len(line) > 40 for line in refused)  # what, and what instead
    images_only_probed = train == "finetune" and on == "fashion-mnist"
    assert bool(planned) == ((train == "generate") == (on == ON[-1]) and not images_only_probed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "chosen-words", "strategy": "naive(transforms=(KNN,))"}, "has one for each candidate"),
        ({"task": "chosen-words", "strategy": "zero-shot"}, "reads texts, and the task's rows are choices"),
        ({"task": "chosen-words", "strategy": "few-shot"}, "reads texts, and the task's rows are choices"),
        ({"train": LOGISTIC, "strategy": "naive(loss=ELR)"}, "logistic"),
        ({"train": FINETUNE, "strategy": "regularised"}, "a probe's L2"),
    ],
)
def test_refused_with_the_reason(make: MakeExperiment, writer: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        wire(make(**{"strong": str(writer), **change}))


def test_statements_are_embedded_once_for_all_methods_and_seeds(make: MakeExperiment) -> None:
    """One pass over C statements of each text serves ccs and crc, every view and every seed."""
    from outgrow import steps
    from outgrow.engine.graph import in_order
    from outgrow.strategies.prompts import state

    spellings = ("ccs", "crc", "ccs(view='mean', restarts=2)", "crc(view='mid_mean')")
    targets = [wire(make(strategy=s, seeds=(0, 1, 2))) for s in spellings]
    stated = [s for s in in_order(targets) if s.fn is steps.embed and s.args["texts"].fn is state]
    assert len(stated) == 1
