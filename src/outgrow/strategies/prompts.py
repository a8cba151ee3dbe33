"""What a strong model knows without training on weak labels, found by prompts and by structure in its features.

These baselines matter: a student that beats its supervisor but not these has recovered nothing from it. Each says what
it uses of the labels: none, a few examples, or one bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated, Any, NamedTuple

import numpy as np

from outgrow import steps
from outgrow.data import Examples, Features, Floats, Labels, Split, positions
from outgrow.engine.graph import Step, step
from outgrow.errors import UserError
from outgrow.labels.structure import picked_by_component, standardized
from outgrow.models.settings import VIEWS
from outgrow.models.spec import ModelSpec
from outgrow.registry import OneOf, Range
from outgrow.runtime import Runtime
from outgrow.strategies.base import Setup, Strategy, strategy
from outgrow.strategies.trainers import Learner, reading_step

__all__ = ["CCS", "CRC", "FewShot", "ZeroShot"]

_ASKED = "asked"
_PROMPT = "{text}\nThis is about: {label}"
_STATEMENT = "The answer is {label}: {text}"


@dataclass(frozen=True, kw_only=True)
class _Prompted(Strategy):
    prompt: str = _PROMPT
    """Holds {text}, and ends with {label}."""
    words: tuple[str, ...] = ()
    """A word for each class, in order; empty for the classes' names."""
    calibrated: bool = True
    max_tokens: Annotated[int, Range(1)] = 128
    """Texts are cut to their first so many tokens, those of examples too; the prompt is never cut."""

    def __post_init__(self) -> None:
        check_prompt(self.prompt)

    def reading(self, student: Learner) -> Step | None:
        return reading_step(student, self.max_tokens, "plain")

    def answered(self, setup: Setup, shots: Step | None) -> Step:
        setup.only("a prompt for the label word of one text", "text")
        setup.student.model.check_language_model("a prompt asks for the probability of a word")
        given = {"prompt": self.prompt, "words": self.words, "calibrated": self.calibrated}
        texts = {"model": setup.student.model, "texts": setup.student.texts, "split": setup.split, "parts": ("T",)}
        return Step(answer_prompts, shots=shots, max_tokens=self.max_tokens, **texts, **given)


@strategy("zero-shot")
class ZeroShot(_Prompted):
    """The pretrained student as it is: the probabilities of the label words after a prompt. No label is used.

    Burns et al. 2023, section 5.2.1 and figure 9. A word of several tokens has the product of their probabilities.
    ``calibrated`` divides by the probabilities after the same prompt with an empty text (Zhao et al. 2021, contextual
    calibration).
    """

    version = 1
    source = "Burns et al. 2023 (arXiv 2312.09390), section 5.2.1; Zhao et al. 2021 (arXiv 2102.09690)"
    cost = "a pass over T; one for each class where a label word is several tokens"

    prompt: str = _PROMPT
    """Holds {text}, and ends with {label}. Or ``asked``: the task's own question and words, answered by the pass that
    stores the features of the view ``asked``, so that it costs nothing beside them; of a word of several tokens the
    first counts, and the texts are cut as for the student."""
    by_batch: bool = False
    """With ``asked``: calibrate by the mean log probabilities over the texts of B instead of an empty text (batch
    calibration, Zhou et al. 2023). A model that leans to one word then answers both about as often."""

    def __post_init__(self) -> None:
        if self.by_batch and not (self.calibrated and self.prompt == _ASKED):
            raise UserError("by_batch calibrates what prompt='asked' answers; give that too, and leave calibrated on")
        if self.prompt != _ASKED:
            super().__post_init__()
        elif self.words:
            raise UserError("prompt='asked' has the task's own words; give others to the task: task(words=...)")

    def reading(self, student: Learner) -> Step | None:
        return student.reading_asked if self.prompt == _ASKED else super().reading(student)

    def __call__(self, setup: Setup) -> Step:
        if self.prompt != _ASKED:
            return self.answered(setup, None)
        setup.only("the task's question", "text", "choice")
        setup.student.model.check_language_model("a question asks for the probability of a word")
        features = setup.student.asked
        how = "batch" if self.by_batch else "empty" if self.calibrated else ""
        return Step(answer_asked, features=features, split=setup.split, parts=("T",), calibrated=how)


@strategy("few-shot")
class FewShot(_Prompted):
    """As ``zero-shot``, after a few examples in the prompt: rows of B with weak labels, or rows of A with gold.

    Burns et al. 2023, section 5.2.1 and figure 9 (five examples). The examples are drawn once per seed, as evenly from
    all classes as possible, and shown in random order with their most probable class. No examples is ``zero-shot``.
    """

    version = 1
    source = "Burns et al. 2023 (arXiv 2312.09390), section 5.2.1"
    cost = "as zero-shot, each text as long as all examples"

    shots: Annotated[int, Range(0)] = 4
    labels: Annotated[str, OneOf("weak", "gold")] = "weak"
    """``weak``, or ``gold`` of A, which the supervisor has too."""

    def __call__(self, setup: Setup) -> Step:
        if self.shots == 0:
            return self.answered(setup, None)
        labels, part = setup.weak, "B"
        if self.labels == "gold":
            (_, labels), part = setup.supervised("few-shot with gold of A"), "A"
        given = {"labels": labels, "split": setup.split, "part": part, "count": self.shots, "seed": setup.seed}
        return self.answered(setup, Step(draw_shots, **given))


@dataclass(frozen=True, kw_only=True)
class _Stated(Strategy):
    prompt: str = _STATEMENT
    """Holds {label} and {text}. Texts are cut at their end, so the label comes first."""
    words: tuple[str, ...] = ()
    """A word for each class, in order; empty for the classes' names."""
    view: Annotated[str, OneOf(*VIEWS)] = "last_token"
    max_tokens: Annotated[int, Range(1)] = 128

    def __post_init__(self) -> None:
        if self.prompt.count("{text}") != 1 or self.prompt.count("{label}") != 1:
            raise UserError(f"the prompt {self.prompt!r} must hold {{text}} and {{label}}, once each")

    def reading(self, student: Learner) -> Step | None:
        stated = Step(state, texts=student.texts, prompt=self.prompt, words=self.words)
        return reading_step(student, self.max_tokens, texts=stated)

    def features(self, setup: Setup, name: str) -> Step:
        model = setup.student.model
        setup.only(name, "text", "choice")
        if model.is_static:
            raise UserError(
                f"{name} compares a text with different labels beside it, and a label adds the same to every text for "
                f"{model}; use a transformer"
            )
        stated = Step(state, texts=setup.student.texts, prompt=self.prompt, words=self.words)
        embed = steps.embed_bf16 if model.precision == "bf16" else steps.embed
        return Step(embed, model=model, texts=stated, max_tokens=self.max_tokens)


@strategy("ccs")
class CCS(_Stated):
    """Contrast-consistent search: a direction in which exactly one of an example's C statements can be true.

    Burns, Ye et al. 2022, section 2.1: one probe p on the features of every statement minimizes (1 - sum_c p_c)^2 +
    (sum_c p_c - max_c p_c)^2 on the rows of B. The second term is min(p+, p-)^2 for two classes, and our extension for
    more. Each class's statements are standardized by themselves, so the label word alone carries no information. Of
    ``restarts`` the one with the least loss is kept. The weak majority says which end is true, which is one bit; for
    more than two classes the probabilities of the other end do not add up to one, and the bit is used all the same.
    """

    version = 1
    source = "Burns, Ye, Klein & Steinhardt 2022 (arXiv 2212.03827), section 2.1"
    cost = "features of C statements for each text, then little"

    restarts: Annotated[int, Range(1)] = 10
    updates: Annotated[int, Range(1)] = 1000
    lr: Annotated[float, Range(0, above=True)] = 0.01
    decay: Annotated[float, Range(0)] = 0.01
    """Weight decay, as in the paper's code."""

    def __call__(self, setup: Setup) -> Step:
        features = self.features(setup, "ccs")
        search = {"view": self.view, "restarts": self.restarts, "updates": self.updates, "lr": self.lr}
        given = {"features": features, "labels": setup.weak, "split": setup.split, "seed": setup.seed}
        return Step(search_consistent, decay=self.decay, **search, **given)


@strategy("crc")
class CRC(_Stated):
    """The top principal component of the differences between an example's statements (CRC-TPC).

    Burns, Ye et al. 2022, appendix: PCA of the differences for two classes; for more, of each statement minus the
    example's mean. Standardized as in ``ccs``; the weak majority says which end is true, which is one bit.
    """

    version = 1
    source = "Burns, Ye, Klein & Steinhardt 2022 (arXiv 2212.03827), CRC-TPC"
    cost = "features of C statements for each text, then little"

    def __call__(self, setup: Setup) -> Step:
        features = self.features(setup, "crc")
        given = {"labels": setup.weak, "split": setup.split, "view": self.view}
        return Step(top_component, features=features, **given)


def check_prompt(prompt: str) -> None:
    """Raise :class:`UserError` for a prompt that does not end with the label."""
    if prompt.count("{text}") != 1 or prompt.count("{label}") != 1 or not prompt.endswith("{label}"):
        raise UserError(f"the prompt {prompt!r} must hold {{text}} once, and end with {{label}}")


# --- their steps: prompts ---------------------------------------------------------------------------------------------


@step(version=1)
def draw_shots(labels: Labels, split: Split, part: str, count: int, seed: int) -> Labels:
    """``count`` rows of a part with their most probable class, as evenly from all classes as they allow."""
    given = labels.take(split.parts[part])
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(given))
    num_classes = given.probs.shape[1]
    queues = [[i for i in order if given.hard[i] == c] for c in rng.permutation(num_classes)]
    longest = max(map(len, queues))
    dealt = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)][:count]
    chosen = given.ids[rng.permutation(np.array(dealt, dtype=np.int64))]
    kept = given.take(chosen)
    return Labels.from_classes(chosen, kept.hard, num_classes, labels.source)


@step(version=2)
def answer_prompts(
    model: ModelSpec,
    texts: Examples,
    split: Split,
    parts: tuple[str, ...],
    shots: Labels | None,
    prompt: str,
    words: tuple[str, ...],
    calibrated: bool,
    max_tokens: int,
    runtime: Runtime,
) -> Labels:
    """Class probabilities: those of the label words after each text's prompt, scaled to sum to 1."""
    from outgrow.models.asked import cut_text
    from outgrow.models.transformer import load_language_model, load_tokenizer

    if texts.form != "text":
        raise UserError("a prompt asks for a label word after one text, and this task has choices or images")
    words = label_words(words, texts)
    folder = model.folder(runtime)
    tokenizer = load_tokenizer(folder)
    language_model = load_language_model(folder, bf16=model.precision == "bf16").to(runtime.torch_device()).eval()
    chosen = texts.take(split.ids(parts))
    examples = texts.take(shots.ids).texts if shots is not None else ()
    classes = shots.hard.tolist() if shots is not None else []
    before, _, after = prompt.removesuffix("{label}").partition("{text}")

    def filled(text: str) -> str:
        return f"{before}{cut_text(tokenizer, text, max_tokens)}{after}"

    shown = "".join(f"{filled(text)}{words[c]}\n\n" for text, c in zip(examples, classes, strict=True))
    asked = [f"{shown}{filled(text)}" for text in chosen.texts]
    logs = word_log_probs(language_model, tokenizer, asked, words, runtime)
    if calibrated:
        logs = logs - word_log_probs(language_model, tokenizer, [f"{shown}{before}{after}"], words, runtime)
    return Labels(ids=chosen.ids, probs=_scaled(logs), source="few-shot" if len(examples) else "zero-shot")


@step(version=1)
def answer_asked(features: Features, split: Split, parts: tuple[str, ...], calibrated: str) -> Labels:
    """Class probabilities: those of the classes' words after the task's question, scaled to sum to 1. Of a choice, how
    much more likely than "wrong" the word for "right" is after each candidate.

    ``calibrated`` by the ``empty`` text, by the ``batch`` of B's texts, or not at all.
    """
    view = "words_calibrated" if calibrated == "empty" else "words"
    if view not in features.views:
        raise UserError(
            "the words of some classes begin with the same token, so the stored pass cannot tell what the model "
            "answers; give others with task(words=...), or take zero-shot with a prompt of its own"
        )
    ids = split.ids(parts)
    every = features.views[view].astype(np.float64)
    every = every[..., 1] - every[..., 0] if every.ndim == 3 else every
    logs = every[positions(ids, features.ids)]
    if calibrated == "batch":
        logs = logs - every[positions(split.parts["B"], features.ids)].mean(axis=0)
    return Labels(ids=ids, probs=_scaled(logs), source="zero-shot")


def _scaled(logs: Floats) -> Any:
    odds = np.exp(logs - logs.max(axis=1, keepdims=True))
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def word_log_probs(
    model: Any, tokenizer: Any, prompts: Sequence[str], words: Sequence[str], runtime: Runtime
) -> Floats:
    """Log-probability (n, C) of each of C words after each of n prompts, summed over the word's tokens.

    The tokens of a word are those that it adds to the prompt's tokens. If the prompt's last tokens change when a word
    follows, as with a space at its end, they count with the word.
    """
    import torch

    from outgrow.models.transformer import pad, tokenize

    limit = getattr(model.config, "max_position_embeddings", None)
    jobs: list[_Asked] = []
    for i, prompt in enumerate(prompts):
        whole = tokenize(tokenizer, [prompt.rstrip(" "), *(f"{prompt}{word}" for word in words)], max_tokens=1_000_000)
        rows = [row[:-1] if row[-1] in _closing(tokenizer) and len(row) > 1 else row for row in whole]
        longest = max(map(len, rows))
        if limit is not None and longest > limit:
            raise UserError(
                f"a prompt has {longest} tokens and the model takes {limit}; use fewer shots, or a smaller max_tokens"
            )
        start = max(1, min(_shared(rows[0], row) for row in rows[1:]))
        jobs += _asked(i, rows[1:], start)
    out = np.empty((len(prompts), len(words)))
    jobs.sort(key=lambda job: -len(job.read))
    done = 0
    with torch.inference_mode():
        while done < len(jobs):
            part = jobs[done : done + max(1, runtime.token_budget() // len(jobs[done].read))]
            batch = pad([job.read for job in part], str(model.device))
            places = sorted({place for job in part for place in range(job.start - 1, len(job.read))})
            kept = torch.tensor(places, device=model.device)  # logits over the vocabulary only where a word may be
            logits = model(input_ids=batch.ids, attention_mask=batch.mask, logits_to_keep=kept).logits
            for k, job in enumerate(part):
                first = places.index(job.start - 1)
                logs = logits[k, first : first + len(job.read) - job.start + 1].float().log_softmax(dim=-1)
                for c, tokens in job.words:
                    told = logs.gather(1, torch.tensor(tokens, device=model.device)[:, None])
                    out[job.prompt, c] = float(told.sum())
            done += len(part)
            runtime.report(done, len(jobs), "texts")
    return out


class _Asked(NamedTuple):
    """What is read to score some words after one prompt."""

    prompt: int
    read: tuple[int, ...]
    """All tokens but each word's last."""
    start: int
    """Where the words begin."""
    words: list[tuple[int, tuple[int, ...]]]
    """Number and tokens of each word."""


def _asked(prompt: int, rows: Sequence[tuple[int, ...]], start: int) -> list[_Asked]:
    """One pass for each word's row of tokens, or a single one if every word is one token."""
    words = [(c, row[start:]) for c, row in enumerate(rows)]
    if all(len(tokens) == 1 for _, tokens in words):
        return [_Asked(prompt, rows[0][:start], start, words)]
    return [_Asked(prompt, rows[c][:-1], start, [(c, tokens)]) for c, tokens in words]


def _closing(tokenizer: Any) -> set[int]:
    """Special tokens that some tokenizers put after a text; here the text goes on."""
    return {t for t in (tokenizer.eos_token_id, tokenizer.sep_token_id) if t is not None}


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many first tokens two rows share, without the last of the second, so that a word has a token."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second[:-1], strict=False)))


def label_words(words: tuple[str, ...], texts: Examples) -> tuple[str, ...]:
    """A word for each class: those given, or else the classes' names."""
    if words and len(words) != texts.num_classes:
        raise UserError(f"{len(words)} label words for {texts.num_classes} classes; give one for each class, in order")
    return words or texts.classes


# --- their steps: statements ------------------------------------------------------------------------------------------


@step(version=1)
def state(texts: Examples, prompt: str, words: tuple[str, ...]) -> Examples:
    """Every text as a choice between C statements, one for each class; choices stay as they are."""
    if texts.form == "choice":
        return texts
    named = label_words(words, texts)
    before, _, after = prompt.partition("{text}")
    inputs = tuple(
        tuple(f"{before.replace('{label}', w)}{text}{after.replace('{label}', w)}" for w in named)
        for text in texts.texts
    )
    return Examples(ids=texts.ids, inputs=inputs, gold=None, classes=texts.classes, groups=texts.groups)


@step(version=1)
def search_consistent(
    features: Features,
    labels: Labels,
    split: Split,
    view: str,
    restarts: int,
    updates: int,
    lr: float,
    decay: float,
    seed: int,
) -> Labels:
    """Class probabilities on T, from the probe that contrast-consistent search finds on B."""
    train, test = _standardized(features, split, view)
    found = consistent_probe(train, restarts, updates, lr, decay, seed)
    weak = labels.take(split.parts["B"])
    of_train, of_test = (_shares(_sigmoid(part @ found[:-1] + found[-1])) for part in (train, test))
    rows, hard = np.arange(len(weak)), weak.hard
    if (of_train[rows, hard] - 1 / weak.probs.shape[1]).mean() < 0:  # the end that the weak majority does not mean
        of_test = _shares(1 - _sigmoid(test @ found[:-1] + found[-1]))
    return Labels(ids=split.parts["T"], probs=of_test.astype(np.float32), source="ccs")


def consistent_probe(statements: Floats, restarts: int, updates: int, lr: float, decay: float, seed: int) -> Floats:
    """Weights and bias (d + 1,) with the least CCS loss on features (n, C, d); full-batch AdamW, random starts."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order, the same bits
    try:
        x = torch.from_numpy(np.asarray(statements, dtype=np.float32))
        start = np.random.default_rng(seed).standard_normal((restarts, x.shape[-1] + 1)).astype(np.float32)
        start /= np.linalg.norm(start, axis=1, keepdims=True)
        probes = torch.from_numpy(start).requires_grad_()
        optimizer = torch.optim.AdamW([probes], lr=lr, weight_decay=decay)
        for update in range(updates + 1):
            p = (torch.einsum("ncd,rd->rnc", x, probes[:, :-1]) + probes[:, None, -1:]).sigmoid()
            losses = inconsistency(p).mean(dim=-1)
            if update < updates:
                optimizer.zero_grad()
                torch.autograd.backward(losses.sum())
                optimizer.step()
        best = int(losses.argmin())
        return probes[best].detach().double().numpy()
    finally:
        torch.set_num_threads(num_threads)


def inconsistency(truths: Any) -> Any:
    """The loss (..., n) of the probabilities (..., n, C) that each statement is true, where exactly one should be."""
    total = truths.sum(dim=-1)
    return (1 - total).square() + (total - truths.amax(dim=-1)).square()


@step(version=1)
def top_component(features: Features, labels: Labels, split: Split, view: str) -> Labels:
    """Classes on T by the top principal component of B's statements minus their example's mean."""
    train, test = (part - part.mean(axis=1, keepdims=True) for part in _standardized(features, split, view))
    weak = labels.take(split.parts["B"]).probs
    return Labels.from_classes(split.parts["T"], picked_by_component(train, test, weak), weak.shape[1], "crc")


def _standardized(features: Features, split: Split, view: str) -> tuple[Floats, ...]:
    """Statements (n, C, d) of B and of T, each class standardized by its mean and deviation on B."""
    parts = (positions(split.parts[p], features.ids) for p in ("B", "T"))
    return standardized(*(features.views[view][rows].astype(np.float64) for rows in parts))


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -50, 50))))


def _shares(truths: Floats) -> Floats:
    """Class probabilities (n, C) from how true each statement is: what is missing to 1 is shared, then cut at 0.

    For two classes this is the paper's (p+ + 1 - p-) / 2.
    """
    num_classes = truths.shape[1]
    probs = np.clip(truths + (1 - truths.sum(axis=1, keepdims=True)) / num_classes, 1e-9, None)
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))
