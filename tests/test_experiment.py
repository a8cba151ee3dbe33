"""Whole experiments on tiny models: no gold of B reaches a student, ceilings match, and nothing is run twice."""

import gc
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from conftest import MakeExperiment
from outgrow import archives as packages
from outgrow import steps
from outgrow.data import Examples, Labels, Split
from outgrow.engine.graph import Step, in_order, step
from outgrow.engine.runner import StepsFailed
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import (
    Experiment,
    Grid,
    experiments_of,
    grid_of,
    open_store,
    pairs,
    plan,
    run_steps,
    sweep,
    wire,
    wire_all,
)
from outgrow.models.spec import LADDERS, ModelSpec
from outgrow.report.run import headline, write_report
from outgrow.results import finished, predictions, table_of
from outgrow.runtime import Runtime
from outgrow.strategies import CONTROLS, STRATEGIES
from outgrow.supervisors import KINDS, SIMULATED, SUPERVISORS, one_rating
from tiny_models import WORDS

CPU = Runtime(device="cpu", offline=True)
PROBE = "probe(epochs=6, lr=0.03)"
FINETUNE = "finetune(epochs=1, lr=0.01, batch_size=16, checks=1)"

# --- every strategy, as it can be -------------------------------------------------------------------------------------

ORACLE = "oracle"
"""The one strategy that law 1 does not hold for: an analysis, and it says so."""
REFUSED = {
    *((s, FINETUNE) for s in ("regularised", "auto", "clouds")),
    *((s, PROBE) for s in ("lp-ft", "anchored", "generative-finetuning")),
}
"""What cannot be trained so."""
MORE_SUPERVISORS = {"gold-matched", "ensemble", "boosted", "co-supervised", "raven", "trusted", "gold-only"}
"""They train further models on the supervisor's own gold of A, and need a supervisor that is a model."""
READS_SUPERVISOR = {"projected"}
"""They read the features of a supervisor that is a model."""
CHECKED = {"auto", "clouds"}
"""Where the supervisor is a model, they check its class shares on gold of A."""
NO_LABELS = {"zero-shot", "icm"}
"""They take nothing of any label, weak or gold."""
LAWFUL = [(s, t) for s in STRATEGIES for t in (PROBE, FINETUNE) if s != ORACLE and (s, t) not in REFUSED]


@pytest.mark.parametrize(("strategy", "train"), sorted(REFUSED))
def test_what_cannot_be_trained_so_is_refused(lawful: MakeExperiment, strategy: str, train: str) -> None:
    with pytest.raises(UserError, match=r"train with finetune|a probe's L2|train with probe"):
        wire(lawful(strategy, train=train))


def test_the_oracle_breaks_the_law_and_nothing_else_does(lawful: MakeExperiment) -> None:
    behind = everything_behind(wire(lawful(ORACLE)).args["student"][0])
    assert {p for s in behind if s.fn is steps.gold for p in s.args["parts"]} == {"A", "A_val", "B_val"}
    assert {s for s, _ in LAWFUL} == STRATEGIES.keys() - {ORACLE}


def run(store: Store, *experiments: Experiment, runtime: Runtime = CPU) -> list[dict[str, Any]]:
    targets, _ = run_steps(experiments, store, runtime)
    return [store.read(t) for t in targets]


def files(store: Store) -> dict[str, dict[str, str]]:
    """Key to the checksums of its files, or to its plain result."""
    return {r["key"]: r["files"] or {"result": repr(r["result"])} for r in store.records()}


def everything_behind(target: Step) -> list[Step]:
    return in_order([target])


def behind_but_not_beyond(target: Step, boundary: Step) -> list[Step]:
    """The steps behind ``target`` that are reached without passing through ``boundary``."""
    seen: dict[str, Step] = {}
    waiting = [target]
    while waiting:
        here = waiting.pop()
        if here.key not in seen and here.key != boundary.key:
            seen[here.key] = here
            waiting.extend(here.inputs)
    return list(seen.values())


def paths_to_load(steps_behind: Iterable[Step]) -> Iterator[tuple[str, ...]]:
    """The last step before ``load`` on every way down (each edge once)."""
    for below in steps_behind:
        for needed in below.inputs:
            if needed.fn is steps.load:
                yield (below.function.name, *below.args.get("parts", ()))


# --- law 1: gold of B never reaches a student -------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "train"), LAWFUL)
def test_behind_a_student_there_is_no_gold_but_the_supervisors(
    lawful: MakeExperiment, strategy: str, train: str
) -> None:
    target = wire(lawful(strategy, train=train))
    for made in (*target.args["student"], *target.args["weak"]):
        behind = everything_behind(made)
        unlabelled = made in target.args["student"] and strategy in NO_LABELS
        supervised = set() if unlabelled else {("gold", "A", "A_val")}
        assert {p for s in behind if s.fn is steps.gold for p in s.args["parts"]} == {
            p for g in supervised for p in g[1:]
        }
        assert set(paths_to_load(behind)) == {("texts",), ("split",)} | supervised


@pytest.mark.parametrize(("strategy", "train"), LAWFUL)
def test_with_own_labels_there_is_no_gold_behind_a_student_at_all(
    tmp_path: Path, lawful: MakeExperiment, strategy: str, train: str
) -> None:
    task = f"table(path={str(write_table(tmp_path))!r}, weak='guess')"
    experiment = lawful(strategy, train=train, task=task, weak="labels", weak_train=None)
    if strategy in MORE_SUPERVISORS | READS_SUPERVISOR:
        with pytest.raises(UserError, match="the supervisor is no model"):
            wire(experiment)
        return
    target = wire(experiment)
    for made in (*target.args["student"], *target.args["weak"]):
        assert {name for name, *_ in paths_to_load(everything_behind(made))} <= {"texts", "split", "weak_column"}


PROTOCOLS = ("random-evidence", "random-evidence(k=None)", "random-evidence(masks=3, trained=False)", "debate",
             "debate(k=4, strength=8)", "debate(trained=False)", "consultancy", "consultancy(side='honest')",
             "consultancy(side='lying', taught='honest')", "climb", "climb(by='glove')", "one-band",
             "one-band(band=None, model='glove')")  # fmt: skip
NESTED = ("nested", "nested(levels=0)", "nested(levels=2)", "nested(levels=2, taught='verdicts')",
          "nested(frozen=True)", "nested(critiques='lying')", "nested(critic='glove')")  # fmt: skip
"""They read pairs: run in tests/protocols/test_nested.py."""
NOT_MODELS = (*PROTOCOLS, *NESTED, "labels", "rater", "errors", *(f"errors(kind={k!r})" for k in KINDS if k != "class"),
              "errors(kind='class', of_class=0)", "errors(kind='simulatable', share=0.5)")  # fmt: skip


def test_every_supervisor_is_walked() -> None:
    assert {text.partition("(")[0] for text in NOT_MODELS} == set(SUPERVISORS) - {"second"}  # which does not teach


@pytest.mark.parametrize("weak", [None, *NOT_MODELS])
@pytest.mark.parametrize(("strategy", "train"), LAWFUL)
def test_nothing_but_its_supervisor_tells_a_student_the_truth(
    lawful: MakeExperiment, strategy: str, weak: str | None, train: str
) -> None:
    """Gold flows into a supervisor; what it flows on in are its labels, and there is no way around them.

    Unless a strategy trains further supervisors: then gold of A flows into those too, and no other gold.
    """
    experiment = lawful(strategy, train=train, **({"weak": weak} if weak else {}))
    allowed: set[tuple[str, ...]] = {("texts",), ("split",)}
    if weak and strategy in MORE_SUPERVISORS | READS_SUPERVISOR:
        with pytest.raises(UserError, match="the supervisor is no model"):
            wire(experiment)
        return
    if strategy in MORE_SUPERVISORS or (strategy in CHECKED and not weak):
        allowed.add(("gold", "A", "A_val"))
    target = wire(experiment)
    for student, labels in zip(target.args["student"], target.args["weak"], strict=True):
        assert set(paths_to_load(behind_but_not_beyond(student, labels))) <= allowed


@pytest.mark.parametrize("weak", NOT_MODELS)
def test_gold_of_b_and_t_flows_into_simulated_supervisors_and_into_no_other_step(
    make: MakeExperiment, weak: str
) -> None:
    for labels in wire(make(weak=weak)).args["weak"]:
        if weak in (*PROTOCOLS, *NESTED):  # gold of shares of A, and how hard rows are
            reached = {path for path in paths_to_load(everything_behind(labels)) if path[0] != "gold"}
            assert reached <= {("texts",), ("split",), ("difficulty",)}
            read = {p for s in everything_behind(labels) if s.fn is steps.gold for p in s.args["parts"]}
            assert read
            assert read.isdisjoint(("B", "B_val", "T"))
            continue
        own = {("texts",), ("split",), ("gold", "A", "A_val")}
        assert set(paths_to_load(everything_behind(labels))) <= own | {(labels.function.name, "B", "B_val", "T")}
        assert labels.fn in (*SIMULATED, one_rating, steps.weak_column)
        inside = {s.key for s in everything_behind(labels)} - {labels.key}
        assert not any(s.fn in SIMULATED for s in everything_behind(labels) if s.key in inside)


def test_the_walk_sees_a_leak(make: MakeExperiment) -> None:
    """The ceiling is a student with a leak: the same walk finds B's gold behind it."""
    target = wire(make())
    (ceiling, _), (labels, _) = target.args["ceiling"], target.args["weak"]
    assert ("gold", "B", "B_val") in set(paths_to_load(everything_behind(ceiling)))
    assert ("gold", "B", "B_val") in set(paths_to_load(behind_but_not_beyond(ceiling, labels)))


def as_ours(fn: Any) -> Any:
    """As if it stood in the package: no digest of its source tells it from the function of that name and version."""
    fn.__module__ = "outgrow.steps.examples"
    return fn


@step(version=1)
@as_ours
def gold(pool: Examples, split: Split, parts: tuple[str, ...]) -> Labels:
    """In place of ``steps.gold``, with its very key: the truth of A, and garbage for all other parts."""
    ids = split.ids(parts)
    if {"B", "B_val", "T"}.isdisjoint(parts):
        rows = {name: i for i, name in enumerate(pool.ids)}
        assert pool.gold is not None
        return Labels.from_classes(ids, pool.gold[[rows[i] for i in ids]], pool.num_classes, "gold")
    return Labels.from_classes(ids, np.arange(len(ids)) % pool.num_classes, pool.num_classes, "garbage")


def protocols(make: MakeExperiment, model: Path, **changed: Any) -> list[Experiment]:
    """An experiment on the labels of each protocol, with a judge that is on this disk."""
    placed = [text.replace("glove", str(model)) for text in PROTOCOLS]
    judged = [text if text[:5] in ("climb", "one-b") else with_judge(text, model) for text in placed]
    return [make(weak=text, weak_train=None, strategy="naive", **changed) for text in judged]


def with_judge(text: str, model: Path) -> str:
    name, _, options = text.partition("(")
    return f"{name}(judge={str(model)!r}{', ' * bool(options)}{options or ')'}"


@pytest.mark.parametrize("train", [PROBE, pytest.param(FINETUNE, marks=pytest.mark.slow)])
def test_garbage_in_place_of_the_gold_of_b_and_t_changes_no_student(
    lawful: MakeExperiment,
    make: MakeExperiment,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train: str,
) -> None:
    task = "words(rows=120)" if train == FINETUNE else "words"
    experiments = [lawful(s, train=t, task=task, seeds=(0,)) for s, t in LAWFUL if t == train]
    experiments += protocols(make, model, train=train, task=task, seeds=(0,))
    true, poisoned = (open_store(str(tmp_path / name)) for name in ("true", "poisoned"))
    run(true, *experiments)
    monkeypatch.setattr(steps, "gold", gold)
    run(poisoned, *experiments)
    before, after = files(true), files(poisoned)
    assert before.keys() == after.keys()
    for target in map(wire, experiments):
        for made in (*target.args["student"], *target.args["weak"]):
            assert all(before[s.key] == after[s.key] for s in everything_behind(made))
        (ceiling,) = target.args["ceiling"]
        assert before[ceiling.key] != after[ceiling.key]


@pytest.mark.parametrize("classes", [2, 3])
def test_garbage_in_the_table_itself_changes_no_student(
    lawful: MakeExperiment, make: MakeExperiment, model: Path, store: Store, classes: int
) -> None:
    """The parts are fixed; the validation rows of B are drawn, without a look at its gold."""
    probe = "probe(epochs=3, lr=0.03)"
    shared = {"train": probe, "weak_train": None, "seeds": (0,)}
    found = []
    for poisoned in (False, True):
        task = f"words(classes={classes}, fixed=True, poisoned={poisoned})"
        chosen = [s for s, t in LAWFUL if t == PROBE]
        experiments = [lawful(s, task=task, **shared) for s in chosen]
        experiments += protocols(make, model, task=task, train=probe, seeds=(0,))
        run(store, *experiments)
        targets = [wire(e) for e in experiments]
        numbered = [(i, r, t.args[r][0]) for i, t in enumerate(targets) for r in ("student", "weak", "ceiling")]
        found.append({(i, r): store.record(made)["files"] for i, r, made in numbered})
    for (i, role), checksums in found[0].items():
        assert (found[1][i, role] == checksums) == (role != "ceiling")


# --- law 4: the ceiling is matched ------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [PROBE, FINETUNE])
def test_the_ceiling_is_its_student_but_for_the_labels(make: MakeExperiment, train: str) -> None:
    target = wire(make(train=train))
    for student, ceiling in zip(target.args["student"], target.args["ceiling"], strict=True):
        fits = [predicted.args["fitted"] for predicted in (student, ceiling)]
        assert {k: str(v) for k, v in student.args.items() if k != "fitted"} == {
            k: str(v) for k, v in ceiling.args.items() if k != "fitted"
        }
        differing = {k for k in fits[0].args if str(fits[0].args[k]) != str(fits[1].args[k])}
        assert fits[0].fn is fits[1].fn
        assert differing == {"labels"}


# --- identity ---------------------------------------------------------------------------------------------------------


def test_the_same_experiment_gives_the_same_bytes(make: MakeExperiment, tmp_path: Path) -> None:
    experiments = [make(strategy=s, train=t) for s in ("naive", "confidence", "clusters") for t in (PROBE, FINETUNE)]
    stores = [open_store(str(tmp_path / name)) for name in ("first", "second")]
    for opened in stores:
        run(opened, *experiments)
    assert files(stores[0]) == files(stores[1])


def test_runtime_changes_no_key_and_no_score(make: MakeExperiment, tmp_path: Path) -> None:
    stores = [open_store(str(tmp_path / name)) for name in ("first", "second")]
    other = Runtime(device="cpu", tokens_at_once=64, microbatch=3, gradient_checkpointing=True, offline=True)
    shown = [
        run(opened, make(), make(train=FINETUNE, seeds=(0,)), runtime=runtime)
        for opened, runtime in zip(stores, (CPU, other), strict=True)
    ]
    before, after = map(files, stores)
    assert before.keys() == after.keys()
    for result, again in zip(*shown, strict=True):
        for role in ("weak", "student", "ceiling"):
            assert result[role]["xent"] == pytest.approx(again[role]["xent"], abs=1e-4)


def test_equal_meaning_is_an_equal_key(make: MakeExperiment) -> None:
    keys = {
        wire(make(train=train, strategy=strategy, weak_train=weak_train)).key
        for train in ("probe", "probe()", "probe(batch_size=32)")
        for strategy in ("naive", "naive(loss=Xent)", "naive(loss=Xent())")
        for weak_train in (None, "probe")
    }
    assert len(keys) == 1


CHANGES: list[dict[str, Any]] = [
    {"task": "words(classes=3)"}, {"strategy": "confidence"}, {"train": "probe"}, {"weak_train": None},
    {"seeds": (1, 0)}, {"seeds": (0,)}, {"supervisor_rows": 50}, {"transfer_rows": 50}, {"test_rows": 40},
    {"validation": 0.2}, {"balance": False}, {"ceiling": False}, {"strong": "minilm-l6"}, {"weak": "minilm-l6"},
]  # fmt: skip


def test_every_field_of_an_experiment_counts(make: MakeExperiment) -> None:
    assert len({wire(make(**change)).key for change in ({}, *CHANGES)}) == len(CHANGES) + 1


def test_shared_steps_run_once(make: MakeExperiment, store: Store) -> None:
    naive, confidence = make(), make(strategy="confidence")
    _, first = run_steps([naive], store, CPU)
    assert first.reused == 0
    # One model, one pool of texts; per seed a probe, its predictions, the comparison: all else is there.
    expected = len(everything_behind(wire(confidence))) - len(
        {s.key for s in everything_behind(wire(naive))} & {s.key for s in everything_behind(wire(confidence))}
    )
    assert len(plan([confidence], store).to_run) == expected == 2 * 2 + 1
    _, second = run_steps([naive, confidence], store, CPU)
    assert second.ran == expected
    _, third = run_steps([naive, confidence], store, CPU)
    assert third.ran == 0


# --- results ----------------------------------------------------------------------------------------------------------


def test_wiring_is_linear_and_what_is_shared_is_wired_once(
    make: MakeExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    bind = Step.__init__

    def counted(self: Step, *args: Any, **options: Any) -> None:
        bind(self, *args, **options)
        made.append(self.key)

    monkeypatch.setattr(Step, "__init__", counted)
    hashed = []
    for size in (1, 20, 40):
        made.clear()
        wire_all([make(strategy=f"confidence(loss=LogConf(alpha={i / 100}))") for i in range(size)])
        hashed.append(len(made))
        assert len(made) <= len(set(made)) + 4  # what supervisor and ceiling share, such as features of one model
    new = 2 * 2 + 1  # for each further experiment: a student trained and asked for each seed, and the comparison
    assert hashed == [hashed[0], hashed[0] + 19 * new, hashed[0] + 39 * new]


@pytest.mark.parametrize("enabled", [True, False])
def test_wiring_leaves_the_garbage_collector_as_it_was(make: MakeExperiment, enabled: bool) -> None:
    try:
        (gc.enable if enabled else gc.disable)()
        wire(make())
        assert gc.isenabled() == enabled
        with pytest.raises(UserError):
            wire(make(strategy="none"))
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_experiments_that_share_all_but_the_strategy_are_wired_as_alone(make: MakeExperiment) -> None:
    """In any order: with strategies that train their ceiling in their own way, without one, and other seeds between."""
    mixed = [
        make(strategy=strategy, ceiling=ceiling, seeds=seeds)
        for seeds in ((0, 1), (1, 2))
        for strategy in ("naive", "regularised", "confidence", "shuffled")
        for ceiling in (True, False)
    ]
    alone = [wire(e) for e in mixed]
    for together in (wire_all(mixed), wire_all(reversed(mixed))[::-1]):
        assert [t.key for t in together] == [t.key for t in alone]
        assert [t.note for t in together] == [t.note for t in alone]


def test_a_file_named_by_many_experiments_is_read_once(
    make: MakeExperiment, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    hash_of = packages.sha256_of

    def told(path: Path) -> str:
        read.append(path)
        return hash_of(path)

    monkeypatch.setattr(packages, "sha256_of", told)
    wire_all([make(strong=str(copied), seeds=(seed,)) for seed in range(5)])
    assert len(read) == len(set(read)) > 0
    wire(make(strong=str(copied)))
    assert len(read) == len(set(read))


@pytest.mark.parametrize("classes", [2, 3])
def test_a_result_holds_scores_with_intervals(make: MakeExperiment, store: Store, classes: int) -> None:
    (found,) = run(store, make(task=f"words(rows=900, classes={classes})"))
    assert found["num_classes"] == classes
    assert found["majority"] == pytest.approx(1 / classes)  # the test is balanced
    for role in ("weak", "student", "ceiling"):
        value, low, high = found[role]["accuracy"]
        assert 0 <= low < value < high <= 1
    assert found["ceiling"]["accuracy"][0] > found["weak"]["accuracy"][0] > 1 / classes
    assert found["gain"][0] == pytest.approx(found["student"]["accuracy"][0] - found["weak"]["accuracy"][0])
    assert (found["pgr"] is None) == (found["pgr_undefined"] is not None)
    assert found["test_rows"] == sum(s["test_rows"] for s in found["per_seed"])


def test_shuffled_labels_teach_nothing(make: MakeExperiment, store: Store) -> None:
    (found,) = run(store, make(task="words(rows=1500)", strategy="shuffled", seeds=(0, 1, 2, 3)))
    _, low, high = found["student"]["accuracy"]
    assert low < 0.5 < high


def test_without_a_ceiling_there_is_no_pgr(make: MakeExperiment, store: Store) -> None:
    experiment = make(ceiling=False)
    assert not any(s.args["parts"] == ("B", "B_val") for s in everything_behind(wire(experiment)) if s.fn is steps.gold)
    (found,) = run(store, experiment)
    assert "ceiling" not in found
    assert (found["gap"], found["pgr"]) == (None, None)
    assert found["pgr_undefined"] == "there is no ceiling"
    assert table_of(store.records("compare"))["pgr"].to_list() == [None]


def test_the_table_has_a_row_for_each_experiment(make: MakeExperiment, store: Store) -> None:
    assert table_of(store.records("compare")).is_empty()
    run(store, make(), make(strategy="shuffled"), make(ceiling=False))
    table = table_of(store.records("compare"))
    assert table.height == 3
    columns = {"task", "weak", "strong", "strategy", "train", "control", "pgr", "pgr_low", "pgr_high", "gain_low",
               "weak_accuracy", "student_accuracy_low", "ceiling_auroc", "majority", "num_test", "key"}  # fmt: skip
    assert columns <= set(table.columns)
    assert sorted(table["control"].to_list()) == [False, False, True]
    assert table["num_seeds"].to_list() == [2, 2, 2]


def test_students_are_held_against_the_controls_of_their_pair(make: MakeExperiment, store: Store) -> None:
    run(store, make(), make(strategy="shuffled"), make(strategy="clusters"), make(seeds=(5,)))
    table = table_of(finished(store))
    assert table.height == 4
    held = table.filter(control=False, num_seeds=2)
    for control in ("shuffled", "clusters"):
        accuracy = table.filter(strategy=control)["student_accuracy"].item()
        assert held[f"over_{control}"].item() == pytest.approx(held["student_accuracy"].item() - accuracy)
        assert held[f"over_{control}_low"].item() < held[f"over_{control}"].item() < held[f"over_{control}_high"].item()
    others = table.filter(pl.col("control") | (pl.col("num_seeds") == 1))
    assert others["over_shuffled"].null_count() == 3  # another seed is another test
    assert table["over_majority"].null_count() == 0
    _, again = run_steps([make(), make(strategy="shuffled"), make(strategy="clusters")], store, CPU)
    assert again.ran == 0


def test_predictions_are_joined_to_gold_by_id(make: MakeExperiment, store: Store) -> None:
    (found,) = run(store, make())
    rows = predictions(store, wire(make()).key[:10])
    assert set(rows["role"]) == {"weak", "student", "ceiling"}
    for i, seed in enumerate((0, 1)):
        for role in ("weak", "student", "ceiling"):
            chosen = rows.filter(seed=seed, role=role)
            accuracy = (chosen["gold"] == chosen["predicted"]).mean()
            assert accuracy == pytest.approx(found["per_seed"][i][role]["accuracy"])
            assert len(set(chosen["id"])) == chosen.height == found["per_seed"][i]["test_rows"]
    with pytest.raises(UserError, match="0 results"):
        predictions(store, "zzz")


# --- own labels -------------------------------------------------------------------------------------------------------


def write_table(folder: Path, missing: int = 0) -> Path:
    """Texts, gold, the user's own weak labels (right in three rows of four), and some rows without one."""
    rng = np.random.default_rng(0)
    lines = ["text,label,guess"]
    for i in range(160):
        word = ("bad", "good")[i % 2]
        guess = word if rng.random() < 0.75 else ("good", "bad")[i % 2]
        lines.append(f"w{i % 20} {word} w{i // 20},{word},{'' if i < missing else guess}")
    path = folder / "mine.csv"
    path.write_text("\n".join(lines))
    return path


def own(path: Path, model: Path, **changed: Any) -> Experiment:
    task = f"table(path={str(path)!r}, weak='guess')"
    fields: dict[str, Any] = {"task": task, "weak": "labels", "strong": str(model), "train": PROBE, "seeds": (0, 1)}
    return Experiment(**fields | changed)


def test_own_weak_labels(tmp_path: Path, store: Store, model: Path) -> None:
    (found,) = run(store, own(write_table(tmp_path), model))
    assert 0.6 < found["weak"]["accuracy"][0] < 0.9
    assert found["notes"][0].startswith("160 rows, classes of column 'label': 'bad' 80, 'good' 80")


def parted(path: Path) -> str:
    """The table with a split column that names no row of A."""
    rows = path.read_text().splitlines()
    parts = ["split", *("T" if i % 4 < 2 else "B" for i in range(len(rows) - 1))]
    path.write_text("\n".join(f"{row},{part}" for row, part in zip(rows, parts, strict=True)))
    return f"table(path={str(path)!r}, weak='guess', split='split', group=None)"


def test_own_weak_labels_need_no_rows_of_a_supervisor(tmp_path: Path, store: Store, model: Path) -> None:
    task = parted(write_table(tmp_path))
    (found,) = run(store, own(tmp_path, model, task=task, ceiling=False))
    assert 0.6 < found["weak"]["accuracy"][0] < 0.9
    with pytest.raises(StepsFailed, match="part A has no rows to train a supervisor on"):
        run(store, own(tmp_path, model, task=task, weak="glove"))


def test_every_gold_row_is_tested_by_a_student_that_did_not_train_on_it(
    tmp_path: Path, store: Store, model: Path
) -> None:
    target = wire(own(write_table(tmp_path), model))
    (found,) = run(store, own(write_table(tmp_path), model))
    assert [s["test_rows"] for s in found["per_seed"]] == [160, 160]
    assert found["rows"]["T"] == [160, 160]
    assert found["rows"]["left_out"] == {}
    for student, splits in zip(target.args["student"], target.args["splits"], strict=True):
        folds = [store.read(split) for split in splits]
        assert sorted(store.read(student).ids) == sorted(np.concatenate([f.parts["T"] for f in folds]))
        for made, split, fold in zip(student.args["labels"], splits, folds, strict=True):
            assert made.args["split"].key == split.key
            assert not set(fold.parts["T"]) & set(fold.ids(["B", "B_val"]))
    table = predictions(store, target.key)
    assert sorted(table.filter(role="student", seed=0)["id"]) == sorted(f"row-{i + 1}" for i in range(160))


def test_rows_without_a_weak_label_train_nobody_and_are_counted(tmp_path: Path, store: Store, model: Path) -> None:
    (found,) = run(store, own(write_table(tmp_path, missing=30), model))
    assert [s["test_rows"] for s in found["per_seed"]] == [130, 130]
    assert found["abstained"]["rows"] == 30
    assert 0 <= found["abstained"]["student"]["accuracy"][0] <= 1
    assert sum(map(sum, found["per_class"]["weak"]["confusion"])) == 260


def test_without_weak_labels_on_the_test_there_is_a_score_and_no_gain(
    tmp_path: Path, store: Store, model: Path
) -> None:
    task = parted(write_table(tmp_path))
    rows = [line.split(",") for line in (tmp_path / "mine.csv").read_text().splitlines()]
    lines = [[t, "" if p == "B" else y, "" if p == "T" else g, p] for t, y, g, p in rows]
    (tmp_path / "mine.csv").write_text("\n".join(map(",".join, lines)))
    (found,) = run(store, own(tmp_path, model, task=task))
    assert found["weak"] is found["gain"] is None
    assert found["gain_undefined"] == "no test row has a weak label"
    assert found["student"]["accuracy"][0] > 0.5
    record = store.record(wire(own(tmp_path, model, task=task)))
    assert record["note"]["scoring"]["no_ceiling"] == "there is no ceiling: 80 rows of B have no gold to train it on"


@pytest.mark.parametrize("column", [True, False])
def test_without_any_gold_students_are_trained_and_nothing_is_scored(
    tmp_path: Path, store: Store, model: Path, column: bool
) -> None:
    lines = [line.split(",") for line in write_table(tmp_path, missing=10).read_text().splitlines()]
    kept = [[t, "", g] if column else [t, g] for t, _, g in lines[1:]]
    header = ["text", "label", "guess"] if column else ["text", "guess"]
    (tmp_path / "mine.csv").write_text("\n".join(map(",".join, [header, *kept])))
    task = f"table(path={str(tmp_path / 'mine.csv')!r}, weak='guess', classes=['bad', 'good'])"
    (found,) = run(store, own(tmp_path, model, task=task))
    assert found["student"] is found["gain"] is found["pgr"] is None
    assert found["pgr_undefined"] == "no row has gold"
    assert 0.5 < found["agreement"]["all"][0] <= 1
    table = predictions(store, wire(own(tmp_path, model, task=task)).key)
    assert len(table.filter(role="student", seed=0)) == 160
    assert table["gold"].null_count() == len(table)
    frame = table_of(finished(store))
    page = write_report(frame, tmp_path / "report", title="Mine", provenance={}).read_text()
    assert "Nothing is scored, for no row has gold" in page
    assert headline(frame) == "No gain for 1 student: no row has gold."


@pytest.mark.parametrize("split", [True, False])
def test_poisoned_gold_leaves_a_students_labels_of_a_table_as_they_are(
    tmp_path: Path, store: Store, model: Path, split: bool
) -> None:
    """With validation rows, and with the folds of cross-fitting: gold decides nothing that a student sees."""
    rng = np.random.default_rng(1)
    files = []
    for poisoned in (False, True):
        path = write_table(tmp_path)
        task = f"table(path={str(path)!r}, weak='guess')"
        if split:
            task = parted(path)
        lines = [line.split(",") for line in path.read_text().splitlines()]
        if poisoned:
            gold = rng.permutation([line[1] for line in lines[1:]])
            lines[1:] = [[line[0], y, *line[2:]] for line, y in zip(lines[1:], gold, strict=True)]
            path.write_text("\n".join(map(",".join, lines)))
        run(store, own(path, model, task=task))
        (target,) = [wire(own(path, model, task=task))]
        files.append([store.record(s)["files"] for role in ("student", "ceiling") for s in target.args[role]])
    assert files[0][:2] == files[1][:2]
    assert files[0][2:] != files[1][2:]


def test_a_rare_class_is_scored_at_its_natural_share(tmp_path: Path, store: Store, model: Path) -> None:
    """9 % complaints: the weak labels are right in 92.75 % of the test rows, and balancing would turn the sign."""
    rng = np.random.default_rng(0)
    cells = {("complaint", "complaint"): 16, ("complaint", "fine"): 21, ("fine", "complaint"): 8, ("fine", "fine"): 355}
    rows = [("T", gold, guess) for (gold, guess), n in cells.items() for _ in range(n)]
    rows += [("B", "", guess) for guess, n in (("complaint", 46), ("fine", 754)) for _ in range(n)]
    told = {"complaint": "bad", "fine": "good"}
    lines = ["id,text,label,guess,part"]
    for i, (part, gold, guess) in enumerate(rows):
        words = " ".join(rng.choice(WORDS[5:], size=4))
        lines.append(f"{i},{words} {told[gold or guess]},{gold},{guess},{part}")
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(lines))
    task = f"table(path={str(path)!r}, weak='guess', split='part', id='id')"
    (found,) = run(store, own(path, model, task=task, train="logistic"))
    assert found["weak"]["accuracy"][0] == pytest.approx(371 / 400)
    assert found["weak"]["balanced_accuracy"][0] == pytest.approx((16 / 37 + 355 / 363) / 2)
    assert found["per_class"]["weak"]["confusion"] == [[32, 42], [16, 710]]  # two seeds
    assert found["per_class"]["weak"]["precision"][0][0] == pytest.approx(16 / 24)
    assert found["per_class"]["rows"] == [74, 726]
    assert found["rows"] == {
        "task": 1200, "A": [0, 0], "A_val": [0, 0], "B": [720, 720], "B_val": [80, 80], "T": [400, 400], "left_out": {}
    }  # fmt: skip
    assert found["student"]["accuracy"][0] > 0.9
    (row,) = table_of(finished(store)).to_dicts()
    assert (row["scored_at"], row["balance"], row["num_test_per_seed"]) == ("natural", False, 400)


def test_two_gold_rows_of_a_class_are_enough(tmp_path: Path, store: Store, model: Path) -> None:
    path = write_table(tmp_path)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    bad = [i for i, line in enumerate(lines) if line[1] == "bad"]
    lines = [line for i, line in enumerate(lines) if i not in bad[2:]]
    path.write_text("\n".join(map(",".join, lines)))
    (found,) = run(store, own(path, model))
    assert found["per_class"]["rows"] == [4, 160]


def test_balance_is_left_to_the_user_in_research_and_said(make: MakeExperiment, store: Store) -> None:
    run(store, make(seeds=(0,)), make(seeds=(0,), balance=False))
    balanced, natural = sorted(table_of(finished(store)).to_dicts(), key=lambda row: row["scored_at"])
    assert (balanced["scored_at"], natural["scored_at"]) == ("balanced", "natural")
    assert natural["num_test"] >= balanced["num_test"]


def test_editing_labels_or_a_split_embeds_nothing_again(
    tmp_path: Path, store: Store, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features depend on texts and model alone, and are the same to the bit; another text is embedded."""
    path, embedded, original = write_table(tmp_path), [], ModelSpec.embed

    def watched(self: ModelSpec, *given: Any, **named: Any) -> Any:
        embedded.append(self)
        return original(self, *given, **named)

    monkeypatch.setattr(ModelSpec, "embed", watched)
    run(store, own(path, model))
    assert len(embedded) == 1
    lines = path.read_text().splitlines()
    flipped = [lines[0], *(f"{line.rpartition(',')[0]},good" for line in lines[1:])]
    path.write_text("\n".join(flipped))
    run(store, own(path, model))  # another rule
    path.write_text("\n".join([lines[0], "w0 bad w0,good,bad", *lines[2:]]))
    run(store, own(path, model))  # another gold label
    path.write_text("\n".join([f"id,{lines[0]}", *(f"x{i},{line}" for i, line in enumerate(lines[1:]))]))
    run(store, own(path, model))  # other ids
    path.write_text("\n".join(lines))
    run(store, own(path, model, task=parted(path), ceiling=False))
    assert len(embedded) == 1
    path.write_text("\n".join([*lines[:-1], "w9 good w9,good,bad"]))
    run(store, own(path, model))
    assert len(embedded) == 2
    kept = [store.read_key(r["key"]) for r in store.records("embed")]
    assert len(kept) == 6
    assert len({f.views["mean"].tobytes() for f in kept}) == 2


def test_own_labels_need_a_column(tmp_path: Path, store: Store, model: Path) -> None:
    task = f"table(path={str(write_table(tmp_path))!r})"
    for lacks in (task, "synthetic-gaussian"):
        with pytest.raises(UserError, match="name their column"):
            wire(own(tmp_path, model, task=lacks, strong="vectors"))
    with pytest.raises(StepsFailed, match="name their column"):  # what a task of the user's gives is known in the run
        run(store, own(tmp_path, model, task="words"))


def test_what_a_table_cannot_use_is_refused_before_anything_runs(tmp_path: Path, model: Path) -> None:
    path = write_table(tmp_path)
    wrong: list[dict[str, Any]] = [{"balance": True}, {"supervisor_rows": 20}, {"weak_train": "probe"}]
    for unused in wrong:
        with pytest.raises(UserError, match=r"leave .* out"):
            wire(own(path, model, **unused))
    wire(own(path, model, balance=False))
    lines = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("\n".join(",".join([t, y if i < 40 else "", g]) for i, (t, y, g) in enumerate(lines)))
    wire(own(path, model))
    for strategy in ("oracle", "naive(transforms=(MixGold,))"):
        with pytest.raises(UserError, match="rows of B have none here; leave"):
            wire(own(path, model, strategy=strategy))


def test_a_table_that_changed_is_another_experiment(tmp_path: Path, model: Path) -> None:
    path = write_table(tmp_path)
    before = wire(own(path, model)).key
    assert wire(own(path.rename(tmp_path / "renamed.csv"), model)).key == before
    write_table(tmp_path, missing=1)
    assert wire(own(path, model)).key != before


# --- what cannot be ---------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "task": ({"task": "wordz"}, "unknown task 'wordz'; did you mean words"),
    "option of a task": ({"task": "words(row=3)"}, "did you mean rows"),
    "supervisor": ({"weak": "glov"}, "unknown model 'glov'; did you mean glove"),
    "student": ({"strong": "minilm"}, "did you mean minilm-l"),
    "folder": ({"strong": "./nowhere"}, "there is no model folder './nowhere'"),
    "strategy": ({"strategy": "confidense"}, "did you mean confidence"),
    "loss": ({"strategy": "naive(loss=LogCnf)"}, "did you mean LogConf"),
    "option of a loss": ({"strategy": "naive(loss=LogConf(alpa=1))"}, "did you mean alpha"),
    "trainer": ({"train": "prob"}, "did you mean probe"),
    "option of a trainer": ({"train": "finetune(lrr=1)"}, "did you mean lr"),
    "value of a trainer": ({"train": "probe(epochs=0)"}, "at 1 or above"),
    "no optimum in word vectors": ({"strong": "glove", "train": "finetune"}, "cannot be finetuned"),
    "nor for a supervisor": ({"weak": "glove", "weak_train": "finetune"}, "cannot be finetuned"),
    "sizes": ({"test_rows": 1}, "too small"),
    "share": ({"validation": 1.0}, "from 0 to below 1"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_said_before_anything_runs(make: MakeExperiment, what: str) -> None:
    change, said = WRONG[what]
    with pytest.raises(UserError, match=said) as error:
        wire(make(**change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fields", [{"seeds": ()}, {"seeds": (1, 1)}])
def test_seeds_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="seed"):
        Experiment(**fields)


@pytest.mark.parametrize("trainer", ["probe(epochs=6, lr=0.03{})", "logistic(l2=0.01{})"])
def test_features_in_bf16_are_other_features(make: MakeExperiment, store: Store, trainer: str) -> None:
    plain, half = (make(train=trainer.format(p).replace("(, ", "(")) for p in ("", ", precision='bf16'"))
    targets, _ = run_steps([plain, half, replace(plain, train=trainer.format(", precision='fp32'"))], store, CPU)
    assert targets[0].key == targets[2].key != targets[1].key
    assert {r["fn"] for r in store.records()} >= {"embed", "embed_bf16"}
    kinds = {s.fn: s for s in in_order(targets) if s.args.get("max_tokens", 4) is None}
    matrices = [store.read(kinds[kind]).views["mean"] for kind in (steps.embed, steps.embed_bf16)]
    assert 0 < np.abs(matrices[0] - matrices[1]).max() < 0.1 * np.abs(matrices[0]).max()


def test_a_split_that_cannot_be_made_fails_before_any_embedding(make: MakeExperiment, store: Store) -> None:
    with pytest.raises(StepsFailed) as failed:
        run_steps([make(test_rows=100_000)], store, CPU)
    assert failed.value.by_user
    assert {r["fn"] for r in store.records()} == {"load", "texts"}
    outcome = run_steps([make(test_rows=40)], store, CPU)[1]  # mended
    assert (outcome.reused, outcome.skipped) == (2, 0)


def test_early_stopping_without_validation_rows_is_refused(make: MakeExperiment, store: Store) -> None:
    with pytest.raises(StepsFailed, match="validation"):
        run(store, make(validation=0.0))


def test_a_model_folder_that_changed_between_two_runs_is_another_model(make: MakeExperiment, copied: Path) -> None:
    before = wire(make(strong=str(copied))).key
    config = copied / "config.json"
    config.write_text(config.read_text() + " ")
    assert wire(make(strong=str(copied))).key != before


def test_a_model_folder_elsewhere_is_the_same_model(make: MakeExperiment, copied: Path, model: Path) -> None:
    assert wire(make(strong=str(copied))).key == wire(make(strong=str(model))).key


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "snapshot"))


# --- grids ------------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_pair_with_every_strategy_controls_last() -> None:
    grid = Grid(task=("words",), ladder="three", strategy=("naive",), seeds=3)
    assert pairs(grid) == [("glove", "minilm-l3"), ("glove", "minilm-l6"), ("minilm-l3", "minilm-l6")]
    made = experiments_of(grid)
    assert [e.strategy for e in made] == ["naive"] * 3 + [c for c in CONTROLS for _ in range(3)]
    assert all(e.seeds == (0, 1, 2) for e in made)
    assert len(experiments_of(replace(grid, controls=False))) == 3
    assert len(experiments_of(replace(grid, strategy=("naive", "naive", "shuffled")))) == 9


def test_pairs_of_a_grid() -> None:
    assert pairs(Grid(ladder="a, b,c")) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs(Grid(weak=("a", "b"), strong=("c",))) == [("a", "c"), ("b", "c")]
    assert len(pairs(Grid(ladder="six"))) == len(LADDERS["six"]) * (len(LADDERS["six"]) - 1) // 2


GRIDS: list[tuple[Callable[[], object], str]] = [
    (lambda: Grid(weak=("a",)), "give both weak=... and strong=..."),
    (lambda: Grid(weak=("a",), strong=("b",), ladder="six"), "leave one of them out"),
    (lambda: Grid(seeds=0), "at least 1"),
    (lambda: Grid(strategy=()), "strategy is empty"),
    (lambda: pairs(Grid(ladder="thre")), "did you mean three"),
]


@pytest.mark.parametrize(("make_grid", "said"), GRIDS)
def test_wrong_grids(make_grid: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_grid()


def test_the_grid_of_an_experiment_holds_it_alone(make: MakeExperiment) -> None:
    experiment = make(seeds=(3, 4, 5), test_rows=20, ceiling=False)
    assert experiments_of(grid_of(experiment)) == [experiment]
    with pytest.raises(UserError, match="are not consecutive"):
        grid_of(make(seeds=(0, 2)))


def test_a_sweep_is_the_table_of_its_experiments(make: MakeExperiment, store: Store) -> None:
    grid = replace(grid_of(make(seeds=(0,))), strategy=("naive", "confidence"))
    table = sweep(grid, store.root, CPU, quiet=True)
    assert sorted(table["strategy"].to_list()) == ["confidence", "naive"]
    assert sweep(grid, store.root, CPU, quiet=True).equals(table)  # nothing ran: the very records


def test_a_grid_hands_its_fields_to_its_experiments() -> None:
    shared: Mapping[str, Any] = {"supervisor_rows": 9, "test_rows": 8, "validation": 0.3, "balance": False}
    for experiment in experiments_of(Grid(**shared, ceiling=False, weak_train="probe(l2=1.0)")):
        assert {k: getattr(experiment, k) for k in shared} == shared
        assert (experiment.ceiling, experiment.weak_train) == (False, "probe(l2=1.0)")
