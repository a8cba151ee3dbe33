"""Internal coherence maximization: labels that predict each other best for a language model, found without labels."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np

from outgrow.data import Examples, Floats, Ints, Labels, Split
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.models.spec import ModelSpec
from outgrow.registry import Range
from outgrow.runtime import Runtime
from outgrow.strategies.base import Setup, Strategy, strategy
from outgrow.strategies.prompts import check_prompt, draw_shots, label_words, word_log_probs
from outgrow.strategies.trainers import Learner, reading_step

__all__ = ["ICM", "anneal", "search_coherent", "tell_by_coherent"]

_CLAIM = ("no", "yes")
Tell = Callable[[Sequence[tuple[int, tuple[tuple[int, int], ...]]]], Floats]
"""Log-probabilities (k, C) of the labels of k rows, each read after some rows with their labels."""


@strategy("icm")
class ICM(Strategy):
    """Internal coherence maximization: rows of B get the labels that predict each other best, and are shots for T.

    Wen et al. 2025, algorithm 1. We look for the labels of the rows with the highest mutual predictability: alpha times
    the mean over rows i of log p(y_i | x_i, other rows with their labels), where p comes from the language model after
    these examples in a prompt. Simulated annealing starts from ``first`` rows with random labels. One row at a time,
    those without a label first, takes its most probable label given the others. The change stands if it raises the
    score, and otherwise with probability exp(change / T), T = max(cold, hot / (1 + cooling log(update))). Then each row
    of T is read after ``context`` of the labeled rows. No weak label is used.

    Logical consistency: exactly one of a choice's candidates is right. All labels here keep that rule, so there is no
    inconsistency to count or to repair. Rows of one text have no such rule, so all of them may get the same label.

    We differ in this: the score is the mean instead of the sum, so more rows are not worse; each row is read after at
    most ``context`` others, drawn once, instead of all of them; the best complete set of labels is kept instead of the
    last; and T is labeled by prompt, where the paper finetunes on the labels it found.
    """

    version = 1
    source = "Wen et al. 2025 (arXiv 2506.10139), ICM, algorithm 1"
    cost = "updates x (context + 1) passes at most, over context + 1 texts each; then T as few-shot"

    rows: Annotated[int, Range(2)] = 24
    """How many rows of B are labeled."""
    context: Annotated[int, Range(1)] = 4
    """The most other rows in a prompt."""
    updates: Annotated[int, Range(1)] = 72
    first: Annotated[int, Range(1)] = 8
    """How many rows begin with a random label."""
    alpha: Annotated[float, Range(0)] = 50.0
    hot: float = 10.0
    cold: Annotated[float, Range(0, above=True)] = 0.01
    cooling: Annotated[float, Range(0)] = 0.99
    prompt: str = "{text}\nThis is about: {label}"
    """With {text}, and after it {label}, at the very end."""
    claim: str = "{text}\nIs this right? {label}"
    """The same for a candidate of a choice; its label is yes or no."""
    words: tuple[str, ...] = ()
    """A word for each class, in order; empty for the classes' names."""
    max_tokens: Annotated[int, Range(1)] = 64
    """Texts are cut to their first so many tokens; the prompt is never cut."""

    def __post_init__(self) -> None:
        for prompt in (self.prompt, self.claim):
            check_prompt(prompt)
        if self.cold > self.hot:
            raise UserError(f"icm cools from hot={self.hot} to cold={self.cold}; cold must not lie above hot")

    def reading(self, student: Learner) -> Step | None:
        return reading_step(student, self.max_tokens, "plain")

    def __call__(self, setup: Setup) -> Step:
        setup.only("icm", "text", "choice")
        setup.student.model.check_language_model("icm asks for the probability of a label word")
        texts = {"model": setup.student.model, "texts": setup.student.texts, "split": setup.split}
        found = Step(search_coherent, **texts, search=self, seed=setup.seed)
        return Step(tell_by_coherent, **texts, found=found, search=self, seed=setup.seed)


# --- the search -------------------------------------------------------------------------------------------------------


def anneal(tell: Tell, neighbours: Ints, num_classes: int, search: ICM, seed: int) -> Ints:
    """Classes (n,) of n rows by simulated annealing, -1 for a row that no update has labeled.

    ``neighbours`` (n, m) are the rows that each row is read after, once they have a label.
    """
    rng = np.random.default_rng(seed)
    num_rows = len(neighbours)
    labels = np.full(num_rows, -1, dtype=np.int64)
    order = rng.permutation(num_rows)
    labels[order[: search.first]] = rng.integers(num_classes, size=len(order[: search.first]))
    waiting = order[search.first :].tolist()
    known: dict[tuple[int, tuple[tuple[int, int], ...]], Floats] = {}

    def told(rows: Sequence[int], labels: Ints) -> list[Floats]:
        asked = [(i, tuple((int(j), int(labels[j])) for j in neighbours[i] if labels[j] >= 0)) for i in rows]
        if new := [question for question in dict.fromkeys(asked) if question not in known]:
            known.update(zip(new, tell(new), strict=True))
        return [known[question] for question in asked]

    def score(labels: Ints) -> float:
        rows = np.flatnonzero(labels >= 0)
        logs = told(rows.tolist(), labels)
        return search.alpha * float(np.mean([row[labels[i]] for i, row in zip(rows, logs, strict=True)]))

    here, best = score(labels), (-np.inf, labels)
    for update in range(1, search.updates + 1):
        heat = max(search.cold, search.hot / (1 + search.cooling * np.log(update)))
        i = waiting.pop(0) if waiting else int(rng.integers(num_rows))
        proposed = labels.copy()
        proposed[i] = told([i], labels)[0].argmax()
        chance = rng.random()
        if proposed[i] != labels[i]:
            there = score(proposed)
            if there > here or chance < np.exp((there - here) / heat):
                labels, here = proposed, there
        if (labels >= 0).all() and here > best[0]:
            best = here, labels
    return best[1] if best[0] > -np.inf else labels


@step(version=1)
def search_coherent(
    model: ModelSpec, texts: Examples, split: Split, search: ICM, seed: int, runtime: Runtime
) -> Labels:
    """Rows of B with the labels that predict each other best for the language model."""
    rng = np.random.default_rng(seed)
    ids = split.parts["B"]
    chosen = texts.take(ids[rng.permutation(len(ids))[: search.rows]])
    n = len(chosen)
    if n < 2:
        raise UserError(f"B has {n} rows, and icm reads each one after others; give it more rows")
    neighbours = np.stack([rng.permutation(np.delete(np.arange(n), i))[: search.context] for i in range(n)])
    reader = _Reader(model, chosen, search, runtime)
    asked = 0

    def tell(questions: Sequence[tuple[int, tuple[tuple[int, int], ...]]]) -> Floats:
        nonlocal asked
        asked += len(questions)
        runtime.report(asked, max(asked, search.updates * (search.context + 1)), "prompts")
        return reader.logs([(chosen.readings[i], others) for i, others in questions])

    found = anneal(tell, neighbours, texts.num_classes, search, seed)
    labelled = found >= 0
    return Labels.from_classes(chosen.ids[labelled], found[labelled], texts.num_classes, "icm")


@step(version=1)
def tell_by_coherent(
    model: ModelSpec, texts: Examples, split: Split, found: Labels, search: ICM, seed: int, runtime: Runtime
) -> Labels:
    """Class probabilities on T, each row read after some of the labeled rows."""
    shots = draw_shots(found, Split(parts={"B": found.ids}), "B", search.context, seed)
    shown = texts.take(shots.ids)
    reader = _Reader(model, shown, search, runtime)
    examples = tuple(enumerate(shots.hard.tolist()))
    asked = texts.take(split.parts["T"])
    probs = np.exp(reader.logs([(reading, examples) for reading in asked.readings]))
    return Labels(ids=asked.ids, probs=probs.astype(np.float32), source="icm")


class _Reader:
    """A language model that labels texts or choices after reading some of ``shown`` with their labels."""

    def __init__(self, model: ModelSpec, shown: Examples, search: ICM, runtime: Runtime) -> None:
        from outgrow.models.asked import cut_text
        from outgrow.models.transformer import load_language_model, load_tokenizer

        folder = model.folder(runtime)
        self.tokenizer, self.cut = load_tokenizer(folder), cut_text
        self.model = load_language_model(folder, bf16=model.precision == "bf16").to(runtime.torch_device()).eval()
        self.shown, self.search, self.runtime = shown, search, runtime
        self.choice = shown.form == "choice"
        self.words = _CLAIM if self.choice else label_words(search.words, shown)

    def logs(self, asked: Sequence[tuple[Any, tuple[tuple[int, int], ...]]]) -> Floats:
        """Log-probabilities (k, C) of the labels of k readings, each after the shown rows and labels that go with it.

        For a choice, exactly one candidate is right: p(yes) of that one times p(no) of all others.
        """
        prompts = []
        for reading, examples in asked:
            before = "".join(self._written(self.shown.readings[j], label) for j, label in examples)
            prompts += [before + self._line(text) for text in ((reading,) if isinstance(reading, str) else reading)]
        logs = word_log_probs(self.model, self.tokenizer, prompts, self.words, self.runtime.quiet())
        logs = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
        if self.choice:
            of_choice = logs.reshape(len(asked), -1, 2)
            logs = of_choice[..., 1] - of_choice[..., 0]  # the product of p(no) over all candidates is common to all
            logs = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
        return np.asarray(logs)

    def _written(self, reading: Any, label: int) -> str:
        if isinstance(reading, str):
            return f"{self._line(reading)}{self.words[label]}\n\n"
        return "".join(f"{self._line(text)}{self.words[c == label]}\n\n" for c, text in enumerate(reading))

    def _line(self, text: str) -> str:
        """The prompt up to the label."""
        before, _, after = (self.search.claim if self.choice else self.search.prompt).partition("{text}")
        return f"{before}{self.cut(self.tokenizer, text, self.search.max_tokens)}{after.removesuffix('{label}')}"
