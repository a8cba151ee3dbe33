"""``validate_with``: a second supervisor, which does not teach, stops and chooses. No gold reaches a student by it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import MakeExperiment
from outgrow import steps
from outgrow.board.run import run_board
from outgrow.config import Grid, read_grid, to_yaml
from outgrow.data import Examples, Labels, Split
from outgrow.engine.graph import Step, in_order, step
from outgrow.engine.store import Store
from outgrow.errors import UserError
from outgrow.experiment import Experiment, experiments_of, open_store, run_steps, wire
from outgrow.report.board import notes
from outgrow.report.rows import tidy
from outgrow.report.run import write_report
from outgrow.report.scored import how_scored
from outgrow.results import finished, table_of
from outgrow.runtime import Runtime
from outgrow.strategies import STRATEGIES
from test_experiment import FINETUNE, LAWFUL, PROBE, as_ours, behind_but_not_beyond, files, own, paths_to_load, run
from tiny_models import WORDS

CPU = Runtime(device="cpu", offline=True)
JUDGE = "errors(accuracy=0.7)"
NOT_JUDGED = {"shuffled", "clusters", "few-shot", "zero-shot", "icm", "ccs", "crc", "gold-only", "auto", "clouds"}
"""Nothing of theirs is stopped or chosen by held-out rows of B."""


def fits(student: Step) -> list[Step]:
    """The trainings on B behind a student."""
    return [s for s in in_order([student]) if s.args.get("part") == "B" and "labels" in s.args and "split" in s.args]


@pytest.mark.parametrize(("strategy", "train"), LAWFUL)
def test_gold_reaches_a_judged_student_through_its_two_supervisors_alone(
    lawful: MakeExperiment, strategy: str, train: str
) -> None:
    experiment = lawful(strategy, train=train, validate_with=JUDGE)
    allowed: set[tuple[str, ...]] = {("texts",), ("split",)}
    if strategy in (
        "gold-matched",
        "ensemble",
        "boosted",
        "co-supervised",
        "raven",
        "trusted",
        "gold-only",
        "auto",
        "clouds",
    ):
        allowed.add(("gold", "A", "A_val"))
    target = wire(experiment)
    for student, weak, judge in zip(*(target.args[n] for n in ("student", "weak", "validation")), strict=True):
        behind = behind_but_not_beyond(student, weak)
        around = {s.key for s in behind_but_not_beyond(judge, weak)} - {judge.key}
        beyond = [s for s in behind if s.key != judge.key and not (s.key in around and s.fn is steps.gold)]
        assert set(paths_to_load(beyond)) <= allowed
        assert any(s.key == judge.key for s in behind) == (strategy not in NOT_JUDGED)


@pytest.mark.parametrize(("strategy", "train"), LAWFUL)
def test_the_judge_reaches_held_out_rows_and_nothing_else(lawful: MakeExperiment, strategy: str, train: str) -> None:
    """Its labels go into one kind of step, which takes those of B_val; all that is trained on B goes through it."""
    target = wire(lawful(strategy, train=train, validate_with=JUDGE))
    for student, judge in zip(target.args["student"], target.args["validation"], strict=True):
        users = {s.fn for s in in_order([student]) if judge in s.inputs}
        assert users <= {steps.judged_by}
        if strategy not in NOT_JUDGED:
            assert users
            taught = [f for f in fits(student) if f.fn is not steps.judged_by and f.function.takes_runtime]
            readers = {"finetune_lm"}  # reads texts without labels
            assert all(f.args["labels"].fn is steps.judged_by for f in taught if f.function.name not in readers)
    for ceiling in target.args["ceiling"]:
        assert not any(s.fn is steps.judged_by for s in in_order([ceiling]))


def test_all_strategies_are_walked() -> None:
    assert {s for s, _ in LAWFUL} | {"oracle"} == STRATEGIES.keys()


@step(version=1)
@as_ours
def gold(pool: Examples, split: Split, parts: tuple[str, ...]) -> Labels:
    """In place of ``steps.gold``: the truth of A, and garbage for all other parts."""
    ids = split.ids(parts)
    if set(parts) <= {"A", "A_val"}:
        rows = {name: i for i, name in enumerate(pool.ids)}
        assert pool.gold is not None
        return Labels.from_classes(ids, pool.gold[[rows[i] for i in ids]], pool.num_classes, "gold")
    return Labels.from_classes(ids, np.arange(len(ids)) % pool.num_classes, pool.num_classes, "garbage")


def test_poisoned_gold_changes_no_judged_student(
    lawful: MakeExperiment, writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [s for s, t in LAWFUL if t == PROBE and s not in NOT_JUDGED and s != "bootstrap"]
    judged: dict[str, Any] = {"train": PROBE, "seeds": (0,), "validate_with": str(writer), "ceiling": True}
    experiments = [lawful(s, **judged) for s in chosen]
    true, poisoned = (open_store(str(tmp_path / name)) for name in ("true", "poisoned"))
    run(true, *experiments)
    monkeypatch.setattr(steps, "gold", gold)
    run(poisoned, *experiments)
    before, after = files(true), files(poisoned)
    for target in map(wire, experiments):
        made = [*target.args["student"], *target.args["weak"], *target.args["validation"]]
        assert all(before[s.key] == after[s.key] for s in in_order(made))
        (ceiling,) = target.args["ceiling"]
        assert before[ceiling.key] != after[ceiling.key]


def test_the_labels_of_b_are_the_teachers_and_those_of_b_val_the_judges(make: MakeExperiment, store: Store) -> None:
    experiment = make(seeds=(0,), validate_with=JUDGE)
    run(store, experiment)
    target = wire(experiment)
    (fitted,) = fits(target.args["student"][0])[-1:]
    labels, split = store.read(fitted.args["labels"]), store.read(fitted.args["split"])
    weak, judge = (store.read(target.args[name][0]) for name in ("weak", "validation"))
    for part, source in (("B", weak), ("B_val", judge)):
        assert np.array_equal(labels.take(split.parts[part]).probs, source.take(split.parts[part]).probs)
    assert (judge.take(split.parts["B_val"]).hard != weak.take(split.parts["B_val"]).hard).any()


def test_a_grid_of_l2_is_chosen_by_the_judge(make: MakeExperiment, store: Store) -> None:
    experiment = make(strategy="regularised", seeds=(0, 1), validate_with=JUDGE)
    run(store, experiment)
    for student in wire(experiment).args["student"]:
        best, split = student.args["fitted"], store.read(student.args["split"])
        judge = store.read(best.args["fitted"][0].args["labels"]).take(split.parts["B_val"])
        agreed = []
        for fitted in best.args["fitted"]:
            predicted = Step(student.fn, **{**student.args, "fitted": fitted, "parts": ("B_val",)})
            run_targets(store, predicted)
            agreed.append(float((store.read(predicted).hard == judge.hard).mean()))
        taken = store.read(best)
        assert taken.history[taken.best_epoch]["agreement"] == pytest.approx(max(agreed))


def run_targets(store: Store, *targets: Step) -> None:
    from outgrow.engine import runner

    runner.run(targets, store, CPU)


# --- identity, spelling, words ----------------------------------------------------------------------------------------


def test_it_is_in_the_key_and_shuffled_labels_are_left_alone(make: MakeExperiment) -> None:
    plain, judged, other = (wire(make(validate_with=w)) for w in (None, JUDGE, "errors(accuracy=0.6)"))
    assert len({t.key for t in (plain, judged, other)}) == 3
    assert plain.args["weak"] == judged.args["weak"]
    shuffled = [wire(make(strategy="shuffled", validate_with=w)).args["student"] for w in (None, JUDGE)]
    assert shuffled[0] == shuffled[1]
    assert wire(make(validate_with="errors( accuracy = 0.70 )")).key == judged.key
    assert judged.note is not None
    assert judged.note["experiment"]["validate_with"] == "errors(accuracy=0.7)"


def test_one_spelling_in_yaml_and_python(tmp_path: Path) -> None:
    grid = Grid(validate_with="minilm-l3")
    (tmp_path / "grid.yaml").write_text(to_yaml(grid))
    assert Grid(**read_grid(tmp_path / "grid.yaml")) == grid
    assert {e.validate_with for e in experiments_of(grid)} == {"minilm-l3"}


def test_the_result_holds_the_judges_agreement_and_says_who_it_was(
    make: MakeExperiment, store: Store, tmp_path: Path
) -> None:
    experiment = make(validate_with=JUDGE)
    (found,) = run(store, experiment)
    judged, own_accuracy = found["validation"], found["student"]["accuracy"][0]
    assert 0.6 < judged["accuracy"][0] < 0.8
    a2 = judged["accuracy"][0]
    assert judged["expected"] == pytest.approx(own_accuracy * (2 * a2 - 1) + 1 - a2)
    target = wire(experiment)
    same = [store.read(s).take(j.ids).hard == j.hard for s, j in
            ((s, store.read(v).take(store.read(t).ids)) for s, v, t in
             zip(*(target.args[n] for n in ("student", "validation", "truth")), strict=True))]  # fmt: skip
    assert judged["student"][0] == pytest.approx(np.concatenate(same).mean())
    frame = table_of(finished(store))
    assert frame["validate_with"].to_list() == [JUDGE]
    said = "early stopping and settings are chosen by agreement with errors(accuracy=0.7), which did not teach"
    assert said in how_scored(tidy(frame))
    page = write_report(frame, tmp_path / "report", title="x", provenance={}).read_text()
    assert said[1:] in page
    assert "Validated with" in page


def test_a_board_tunes_by_the_judge(make: MakeExperiment, store: Store, model: Path) -> None:
    grid = Grid(
        task=("words",),
        weak=(str(model),),
        strong=(str(model),),
        strategy=("naive(loss=GCE)",),
        train=("probe(epochs=2, lr=0.03)",),
        weak_train="probe(epochs=2, lr=0.03, max_tokens=4)",
        seeds=1,
        controls=False,
        validate_with=JUDGE,
    )
    board = run_board(grid, store, CPU, tune=True)
    assert board.failure is None
    assert any("agreement with errors(accuracy=0.7), which did not teach, on held-out rows" in n for n in notes(board))
    judge = wire(make(task="words", seeds=(0,), validate_with=JUDGE)).args["validation"][0]
    asked = list(store.records("weak_agreement"))
    assert len(asked) == 3
    assert {r["args"]["weak"]["$step"] for r in asked} == {judge.key}


# --- columns of the user's table --------------------------------------------------------------------------------------


def two_columns(folder: Path, missing: int = 0) -> str:
    """Texts, gold, and two columns of weak labels, right in three rows of four, apart from each other."""
    rng = np.random.default_rng(3)
    lines = ["text,label,guess,other"]
    for i in range(240):
        word = ("bad", "good")[i % 2]
        said = [word if rng.random() < 0.75 else ("good", "bad")[i % 2] for _ in range(2)]
        lines.append(f"{WORDS[5 + i % 9]} {word} w{i},{word},{said[0]},{'' if i % 8 < missing else said[1]}")
    (folder / "mine.csv").write_text("\n".join(lines))
    return f"table(path={str(folder / 'mine.csv')!r}, weak='guess', second='other')"


@pytest.mark.parametrize("missing", [0, 2])
def test_a_second_column_validates_and_its_gaps_are_counted(
    tmp_path: Path, store: Store, model: Path, missing: int
) -> None:
    experiment = own(tmp_path, model, task=two_columns(tmp_path, missing), validate_with="second")
    (found,) = run(store, experiment)
    assert 0.6 < found["validation"]["accuracy"][0] < 0.9
    assert ("unjudged" in found["rows"]["left_out"]) == bool(missing)
    for splits, judges in zip(*(wire(experiment).args[n] for n in ("splits", "validation")), strict=True):
        assert judges.fn is steps.pooled
        for split in splits:
            kept, whole = store.read(split), store.read(split.args["split"])
            assert 0 < len(kept.parts["B_val"]) <= len(whole.parts["B_val"])
            assert kept.parts["B"].tolist() == whole.parts["B"].tolist()
    if missing:
        said = " ".join(how_scored(tidy(table_of(finished(store)))))
        assert "held out of B and without a label to validate with" in said


def test_the_weak_column_validates_where_a_model_teaches(tmp_path: Path, store: Store, model: Path) -> None:
    experiment = own(tmp_path, model, task=two_columns(tmp_path), weak=str(model), validate_with="labels",
                     weak_train="probe(epochs=6, lr=0.03, max_tokens=4)")  # fmt: skip
    (found,) = run(store, experiment)
    assert 0.6 < found["validation"]["accuracy"][0] < 0.9


def test_probabilities_and_names_are_read_column_by_column(tmp_path: Path) -> None:
    from outgrow.tasks import TaskSpec, load

    lines = ["text,label,p,name", *(f"t{i},{'ab'[i % 2]},0.{i % 9 + 1},{'ab'[i % 2]}" for i in range(20))]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    task = f"table(path={str(tmp_path / 'x.csv')!r}, weak='p', second='name', weak_class='a')"
    read = load(TaskSpec.parse(task), CPU.quiet())
    assert np.allclose(read.meta["weak.0"], [(i % 9 + 1) / 10 for i in range(20)])
    assert np.array_equal(read.meta["second.1"], np.arange(20) % 2)


# --- what cannot be ---------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"weak": JUDGE, "validate_with": JUDGE}, "is the teacher, whose errors a student is to outgrow"),
    ({"weak": "rater", "validate_with": "rater(number=1)"}, "is the teacher"),
    ({"validate_with": JUDGE, "validation": 0.0}, "validation=0 holds out none"),
    ({"validate_with": JUDGE, "strategy": "oracle"}, "no second supervisor has a say"),
    ({"weak": "second"}, "second validates and does not teach"),
    ({"validate_with": "minilm-l33"}, "unknown"),
    ({"weak": "glove", "validate_with": "minilm-l3", "strategy": "bootstrap(through=('minilm-l3',))"}, "no judge"),
    ({"weak": "glove", "validate_with": "minilm-l3", "weak_train": None, "strategy": "ensemble(models=('minilm-l3',))"},
     "trains minilm-l3 too"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_what_cannot_be_is_one_line(make: MakeExperiment, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        wire(make(**change))
    assert "\n" not in str(error.value)


def test_the_teachers_model_cannot_validate(make: MakeExperiment, model: Path) -> None:
    with pytest.raises(UserError, match="is the teacher"):
        wire(make(validate_with=str(model)))


def test_written_answers_cannot_be_judged(writer: Path) -> None:
    experiment = Experiment(task="chess-puzzles(form='move')", weak=str(writer), strong=str(writer),
                            train="generate(epochs=1)", validate_with="glove")  # fmt: skip
    with pytest.raises(UserError, match=r"writes answers|cannot"):
        wire(experiment)


def test_a_model_has_nothing_to_learn_where_labels_are_the_users_own(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match="there is no A; name a further column"):
        wire(own(tmp_path, model, task=two_columns(tmp_path), validate_with="glove"))


def test_the_column_that_teaches_cannot_be_the_second(tmp_path: Path, store: Store, model: Path) -> None:
    task = two_columns(tmp_path).replace("'other'", "'guess'")
    with pytest.raises(UserError, match="is the column of weak labels that teach"):
        wire(own(tmp_path, model, task=task, validate_with="second"))


def test_finetuning_is_stopped_by_the_judge(make: MakeExperiment, store: Store) -> None:
    experiment = make(train=FINETUNE, weak_train=PROBE, task="words(rows=120)", seeds=(0,), validate_with=JUDGE)
    run_steps([experiment], store, CPU)
    (fitted,) = fits(wire(experiment).args["student"][0])[-1:]
    assert fitted.args["labels"].fn is steps.judged_by
