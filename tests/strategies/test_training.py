"""Other ways of training: neutral settings are naive, ceilings follow, starts and anchors do what they say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import MakeExperiment
from outgrow import steps
from outgrow.data import hardened
from outgrow.engine.graph import Step, in_order
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import Experiment, open_store, run_steps, wire
from outgrow.losses import Xent
from outgrow.models.packaged import PACKAGED
from outgrow.models.spec import LANGUAGE_MODELS, ModelSpec
from outgrow.runtime import Runtime
from outgrow.steps import judged_by
from outgrow.strategies.training import best_probe, linear_head
from outgrow.train.loop import finetune
from outgrow.train.settings import FinetuneSettings
from tiny_models import make_model, make_task

CPU = Runtime(device="cpu", offline=True, say=lambda line: None)
PROBE = "probe(epochs=6, lr=0.03)"
FINETUNE = "finetune(epochs=1, lr=0.01, batch_size=16, checks=1)"


def role(experiment: Experiment, name: str) -> Step:
    return wire(experiment).args[name][0]  # type: ignore[no-any-return]


def run(store: Store, *experiments: Experiment) -> list[Any]:
    targets, _ = run_steps(experiments, store, CPU)
    return [store.read(t) for t in targets]


# --- neutral settings, and ceilings -----------------------------------------------------------------------------------

NEUTRAL = [
    ("regularised(l2=(0.01,))", PROBE),
    ("anchored(strength=0.0)", FINETUNE),
    ("generative-finetuning(epochs=0)", FINETUNE),
]


@pytest.mark.parametrize(("spelled", "train"), NEUTRAL)
def test_a_neutral_setting_is_naive(make: MakeExperiment, writer: Path, spelled: str, train: str) -> None:
    assert wire(make(strategy=spelled, train=train, strong=str(writer))).args["student"][0].key == (
        role(make(train=train, strong=str(writer)), "student").key
    )


CHANGED = [("regularised", PROBE), ("anchored", FINETUNE), ("lp-ft", FINETUNE), ("generative-finetuning", FINETUNE)]


@pytest.mark.parametrize(("spelled", "train"), CHANGED)
def test_the_ceiling_is_trained_as_its_student(make: MakeExperiment, writer: Path, spelled: str, train: str) -> None:
    """Design law 4: taking gold for the weak labels turns the student into its ceiling."""
    experiment = make(strategy=spelled, train=train, strong=str(writer))
    student, ceiling = (role(experiment, name) for name in ("student", "ceiling"))
    weak = role(experiment, "weak").key
    gold = next(s for s in in_order([ceiling]) if s.fn is steps.gold and "B" in s.args["parts"])

    def with_gold(made: Step) -> Step:
        def swapped(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(swapped, value))
            return value if not isinstance(value, Step) else gold if value.key == weak else with_gold(value)

        return Step(made.fn, **{k: swapped(v) for k, v in made.args.items()})

    assert with_gold(student).key == ceiling.key
    assert ceiling.key != role(make(train=train, strong=str(writer)), "ceiling").key


@pytest.mark.parametrize("classes", [2, 3])
def test_all_run_and_twice_the_same(make: MakeExperiment, writer: Path, tmp_path: Path, classes: int) -> None:
    shared = {"task": f"words(rows=120, classes={classes})", "seeds": (0,), "strong": str(writer)}
    experiments = [make(strategy=s, train=t, **shared) for s, t in (*CHANGED, ("oracle", PROBE), ("oracle", FINETUNE))]
    first, second = (run(open_store(str(tmp_path / name)), *experiments) for name in ("a", "b"))
    assert first == second
    assert all(found["num_classes"] == classes for found in first)


# --- L2 of a probe ----------------------------------------------------------------------------------------------------


def test_the_probe_that_agrees_best_with_held_out_weak_labels_is_taken(make: MakeExperiment, store: Store) -> None:
    experiment = make(strategy="regularised(l2=(0.001, 0.1, 30.0))", seeds=(0,))
    run(store, experiment)
    chosen = role(experiment, "student").args["fitted"]
    probes = [store.read(f) for f in chosen.args["fitted"]]
    merits = [(h["agreement"], -h["xent"]) for h in (p.history[p.best_epoch] for p in probes)]
    best = probes[merits.index(max(merits))]
    assert np.array_equal(store.read(chosen).weight, best.weight)
    assert best_probe(tuple(reversed(probes))) is best
    sizes = [np.linalg.norm(p.weight) for p in probes]
    assert sizes[2] < sizes[0]


# --- starts and anchors -----------------------------------------------------------------------------------------------


def test_a_linear_head_is_the_minimum() -> None:
    """At a minimum the gradient is zero; for choices and for classes."""
    rng = np.random.default_rng(0)
    targets = rng.dirichlet((1, 1, 1), size=40)
    for features in (rng.normal(2, 3, size=(40, 7)), rng.normal(size=(40, 3, 7))):
        head = linear_head(features, targets, 0.1).astype(np.float64)
        scale = np.sqrt(np.mean(features**2))
        x, w = features / scale, head * scale
        logits = (x @ w.T).reshape(40, 3)
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        slope = probs - targets
        gradient = slope.T @ x if x.ndim == 2 else np.einsum("nc,ncd->d", slope, x)[None]
        assert np.abs(gradient / 40 + 0.1 * w).max() < 1e-5


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_before_its_first_step_lp_ft_is_a_probe(
    make: MakeExperiment, store: Store, writer: Path, model: Path, kind: str
) -> None:
    """With next to no learning rate what is left is the probe."""
    strong = str(writer) if kind == "decoder" else str(model)
    train = "finetune(epochs=1, lr=1e-9, early_stopping=False)"
    experiment = make(task="words(rows=400)", strategy="lp-ft(l2=0.001)", train=train, strong=strong, seeds=(0,))
    run(store, experiment)
    fitted = role(experiment, "student").args["fitted"]
    features = store.read(fitted.args["start"].args["features"])
    split, predicted = (store.read(role(experiment, "student").args["split"]), store.read(role(experiment, "student")))
    weak = store.read(role(experiment, "weak")).take(split.parts["B"])
    at = {str(i): n for n, i in enumerate(features.ids)}
    view = features.views["last_token" if kind == "decoder" else "mean"]
    train_rows, test_rows = (view[[at[str(i)] for i in split.parts[p]]] for p in ("B", "T"))
    head = linear_head(train_rows, weak.probs, 0.001)
    logits = test_rows @ head.T
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(predicted.probs, odds / odds.sum(axis=1, keepdims=True), atol=1e-3)
    assert predicted.probs[:, 0].std() > 0.01  # a head of zeros would say 1/2 of all


def test_an_anchor_holds_weights_near_their_start(tmp_path: Path) -> None:
    """Farther away without; a strong one leaves them all but where they were; zero is no anchor, to the bit."""
    folder = make_model(tmp_path / "gpt2", "gpt2")
    texts, labels = make_task(48, seed=0)
    settings = FinetuneSettings(epochs=2, lr=0.01, batch_size=8, optimizer="adamw", early_stopping=False, clip=0.0)
    still = FinetuneSettings(epochs=1, lr=1e-12, early_stopping=False)
    start = finetune(folder, texts, labels, [], labels[:0], Xent(), still, 0, CPU)
    distances = []
    for anchor in (None, 0.0, 0.1, 10.0):
        extra: dict[str, Any] = {} if anchor is None else {"anchor": anchor}
        made = finetune(folder, texts, labels, [], labels[:0], Xent(), settings, 0, CPU, **extra)
        distances.append(sum(float((made.state[k] - start.state[k]).square().sum()) for k in made.state))
        if anchor == 0.0:
            assert distances[0] == distances[1]
    assert distances[1] > distances[2] > distances[3]


def test_the_first_update_of_an_anchored_model_is_the_plain_one(tmp_path: Path) -> None:
    """At the start the penalty has no slope."""
    folder = make_model(tmp_path / "gpt2", "gpt2")
    texts, labels = make_task(8, seed=0)
    settings = FinetuneSettings(epochs=1, lr=0.01, batch_size=8, early_stopping=False)
    plain, held = (
        finetune(folder, texts, labels, [], labels[:0], Xent(), settings, 0, CPU, anchor=a) for a in (0.0, 5.0)
    )
    assert all(torch.equal(plain.state[k], held.state[k]) for k in plain.state)


def test_a_reader_begins_as_the_language_model(make: MakeExperiment, writer: Path, store: Store) -> None:
    train = "finetune(epochs=1, lr=1e-9, early_stopping=False)"
    experiment = make(
        strategy="generative-finetuning(lr=0.01)", train=train, strong=str(writer), seeds=(0,), ceiling=False
    )
    run(store, experiment)
    fitted = role(experiment, "student").args["fitted"]
    read, tuned = store.read(fitted.args["start"]), store.read(fitted)
    losses = [h["loss"] for h in read.history]
    assert losses[-1] < losses[0]
    for name, weights in tuned.state.items():
        if name.startswith("body."):
            assert torch.allclose(weights, read.state["model." + name.removeprefix("body.")], atol=1e-6)
    split = store.read(fitted.args["split"])
    parts = fitted.args["start"].args
    assert parts["part"] == "B"
    assert parts["answers"] is None
    assert "labels" not in parts
    assert len(split.parts["B"])


# --- the gold rows alone ----------------------------------------------------------------------------------------------


def test_gold_only_is_the_student_that_learned_what_the_supervisor_did(make: MakeExperiment) -> None:
    own = make(strategy="gold-only")
    alone = role(own, "student").args["fitted"]
    taught = role(make(weak=own.strong, weak_train=own.train), "weak").args["fitted"]
    assert alone.key == taught.key
    behind = in_order([alone], lambda step: False)
    assert {p for s in behind if s.fn is steps.gold for p in s.args["parts"]} == {"A", "A_val"}
    with pytest.raises(UserError, match="the supervisor is no model"):
        wire(make(strategy="gold-only", weak="errors(accuracy=0.8)", weak_train=None))


# --- the oracle -------------------------------------------------------------------------------------------------------


def test_the_oracle_is_stopped_by_gold_and_trained_on_weak_labels(make: MakeExperiment, store: Store) -> None:
    experiment = make(strategy="oracle", seeds=(0,))
    run(store, experiment)
    made = role(experiment, "student").args["fitted"].args["labels"]
    assert made.fn is judged_by
    labels, weak, split = store.read(made), store.read(role(experiment, "weak")), store.read(made.args["split"])
    assert np.array_equal(labels.take(split.parts["B"]).probs, weak.take(split.parts["B"]).probs)
    gold = store.read(made.args["validation"])
    assert np.array_equal(hardened(labels.take(split.parts["B_val"]).probs), gold.take(split.parts["B_val"]).hard)
    assert set(gold.ids) == set(split.parts["B_val"])


# --- what cannot be ---------------------------------------------------------------------------------------------------

WRONG = [
    ({"strategy": "regularised", "train": FINETUNE}, "take anchored"),
    ({"strategy": "regularised(l2=())"}, "at least one number"),
    ({"strategy": "regularised", "train": "probe(early_stopping=False)"}, "chooses by held-out labels"),
    ({"strategy": "lp-ft"}, "train with finetune"),
    ({"strategy": "lp-ft", "train": "finetune(pooling='first')"}, "leave head and pooling"),
    ({"strategy": "anchored"}, "train with finetune"),
    ({"strategy": "anchored", "train": "finetune(lora=2)"}, "set lora=0"),
    ({"strategy": "generative-finetuning"}, "train with finetune"),
    ({"strategy": "generative-finetuning", "train": FINETUNE}, "is no language model"),
    ({"strategy": "generative-finetuning", "train": FINETUNE, "strong": "minilm-l6"}, "such as smollm2-135m"),
    ({"strategy": "generative-finetuning", "train": "finetune(lora=2)", "strong": "smollm2-135m"}, "set lora=0"),
    ({"strategy": "oracle", "train": "probe(early_stopping=False)"}, "does not stop early"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_what_cannot_be_is_said_at_once(make: MakeExperiment, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        wire(make(**change))
    assert "\n" not in str(error.value)


def test_the_language_models_are_those_that_say_so() -> None:
    assert set(LANGUAGE_MODELS) == {name for name, model in PACKAGED.items() if "language model" in model.description}
    ModelSpec.parse("smollm2-135m").check_language_model("this writes")
