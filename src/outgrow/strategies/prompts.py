"""What a strong model tells without being trained on weak labels: prompts, and structure in its features.

Baselines, and mandatory ones (a student that beats its supervisor but not these has recovered nothing from it). What
they take of labels is little and said in each: none, a few examples, or one bit.
"""

from collections.abc import Sequence
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

__all__ = ["CCS", "CRC", "FewShot", "ZeroShot"]

_PROMPT = "{text}\nThis is about: {label}"
_STATEMENT = "The answer is {label}: {text}"


@strategy("zero-shot")
class ZeroShot(Strategy):
    """The pretrained student as it is: the probabilities of the label words after a prompt. No label is used.

    Burns et al. 2023, section 5.2.1 and figure 9. A word of several tokens has the product of their probabilities.
    ``calibrated`` divides by the probabilities after the same prompt with the text left empty (Zhao et al. 2021,
    contextual calibration).
    """

    version = 1
    source = "Burns et al. 2023 (arXiv 2312.09390), section 5.2.1; Zhao et al. 2021 (arXiv 2102.09690)"
    cost = "a pass over T; one for each class where a label word is several tokens"

    prompt: str = _PROMPT
    """With {text}, and after it {label}, at the very end."""
    words: tuple[str, ...] = ()
    """A word for each class, in order; the classes' names where there are none."""
    calibrated: bool = True
    max_tokens: Annotated[int, Range(1)] = 128
    """Texts are cut to their first so many tokens; the prompt is never cut."""

    def __post_init__(self) -> None:
        check_prompt(self.prompt)

    def __call__(self, setup: Setup) -> Step:
        return _prompted(setup, self, None)


@strategy("few-shot")
class FewShot(Strategy):
    """As ``zero-shot`` after a few examples in the prompt: rows of B with weak labels, or rows of A with gold.

    Burns et al. 2023, section 5.2.1 and figure 9 (five examples). Of each class as many as go, drawn once for a seed,
    in random order; the class of an example is its most probable one. No examples is ``zero-shot``.
    """

    version = 1
    source = "Burns et al. 2023 (arXiv 2312.09390), section 5.2.1"
    cost = "as zero-shot, each text as long as all examples"

    shots: Annotated[int, Range(0)] = 4
    labels: Annotated[str, OneOf("weak", "gold")] = "weak"
    """``weak``, or ``gold`` of A, which is the supervisor's."""
    prompt: str = _PROMPT
    words: tuple[str, ...] = ()
    calibrated: bool = True
    max_tokens: Annotated[int, Range(1)] = 128
    """Of each text, those of the examples too."""

    def __post_init__(self) -> None:
        check_prompt(self.prompt)

    def __call__(self, setup: Setup) -> Step:
        if self.shots == 0:
            return _prompted(setup, self, None)
        labels, part = setup.weak, "B"
        if self.labels == "gold":
            (_, labels), part = setup.supervised("few-shot with gold of A"), "A"
        given = {"labels": labels, "split": setup.split, "part": part, "count": self.shots, "seed": setup.seed}
        return _prompted(setup, self, Step(draw_shots, **given))


@strategy("ccs")
class CCS(Strategy):
    """Contrast-consistent search: a direction in which exactly one of an example's C statements can be true.

    Burns, Ye et al. 2022, section 2.1: one probe p on the features of every statement, least (1 - sum_c p_c)^2 +
    (sum_c p_c - max_c p_c)^2 on the rows of B; the second term is min(p+, p-)^2 for two classes, and for more it is our
    extension. Features are standardized for each class's statements by themselves, so that the label word alone tells
    nothing. Of ``restarts`` the one of least loss; the weak majority says which end is true, one bit for two classes;
    for more, false at all but one does not add up to one, but the bit is taken all the same.
    """

    version = 1
    source = "Burns, Ye, Klein & Steinhardt 2022 (arXiv 2212.03827), section 2.1"
    cost = "features of C statements for each text, then little"

    prompt: str = _STATEMENT
    """With {label} and {text}. Texts are cut at their end, so the label comes before."""
    words: tuple[str, ...] = ()
    """A word for each class, in order; the classes' names where there are none."""
    view: Annotated[str, OneOf(*VIEWS)] = "last_token"
    restarts: Annotated[int, Range(1)] = 10
    updates: Annotated[int, Range(1)] = 1000
    lr: Annotated[float, Range(0, above=True)] = 0.01
    decay: Annotated[float, Range(0)] = 0.01
    """Weight decay, as in the paper's code."""
    max_tokens: Annotated[int, Range(1)] = 128

    def __post_init__(self) -> None:
        _check_statement(self.prompt)

    def __call__(self, setup: Setup) -> Step:
        features = _statements(setup, "ccs", self.prompt, self.words, self.max_tokens)
        search = {"view": self.view, "restarts": self.restarts, "updates": self.updates, "lr": self.lr}
        given = {"features": features, "labels": setup.weak, "split": setup.split, "seed": setup.seed}
        return Step(search_consistent, decay=self.decay, **search, **given)


@strategy("crc")
class CRC(Strategy):
    """The top principal component of the differences between an example's statements (CRC-TPC).

    Burns, Ye et al. 2022, appendix: for two classes PCA of the differences; for more, of each statement less the
    example's mean. Standardized as in ``ccs``; the weak majority says which end is true: one bit.
    """

    version = 1
    source = "Burns, Ye, Klein & Steinhardt 2022 (arXiv 2212.03827), CRC-TPC"
    cost = "features of C statements for each text, then little"

    prompt: str = _STATEMENT
    words: tuple[str, ...] = ()
    view: Annotated[str, OneOf(*VIEWS)] = "last_token"
    max_tokens: Annotated[int, Range(1)] = 128

    def __post_init__(self) -> None:
        _check_statement(self.prompt)

    def __call__(self, setup: Setup) -> Step:
        features = _statements(setup, "crc", self.prompt, self.words, self.max_tokens)
        given = {"labels": setup.weak, "split": setup.split, "view": self.view}
        return Step(top_component, features=features, **given)


def check_prompt(prompt: str) -> None:
    """Refuse a prompt that does not end with the label."""
    if prompt.count("{text}") != 1 or prompt.count("{label}") != 1 or not prompt.endswith("{label}"):
        raise UserError(f"the prompt {prompt!r} must hold {{text}} once, and end with {{label}}")


def _check_statement(prompt: str) -> None:
    if prompt.count("{text}") != 1 or prompt.count("{label}") != 1:
        raise UserError(f"the prompt {prompt!r} must hold {{text}} and {{label}}, once each")


def _prompted(setup: Setup, asked: ZeroShot | FewShot, shots: Step | None) -> Step:
    setup.only("a prompt for the label word of one text", "text")
    setup.student.model.check_language_model("a prompt asks for the probability of a word")
    given = {"prompt": asked.prompt, "words": asked.words, "calibrated": asked.calibrated}
    texts = {"model": setup.student.model, "texts": setup.student.texts, "split": setup.split, "parts": ("T",)}
    return Step(answer_prompts, shots=shots, max_tokens=asked.max_tokens, **texts, **given)


def _statements(setup: Setup, name: str, prompt: str, words: tuple[str, ...], max_tokens: int) -> Step:
    model = setup.student.model
    setup.only(name, "text", "choice")
    if model.is_static:
        raise UserError(
            f"{name} compares one text with different labels beside it, and to {model} a label adds the same to every "
            "text; take a transformer"
        )
    stated = Step(state, texts=setup.student.texts, prompt=prompt, words=words)
    return Step(steps.embed, model=model, texts=stated, max_tokens=max_tokens)


# --- their steps: prompts ---------------------------------------------------------------------------------------------


@step(version=1)
def draw_shots(labels: Labels, split: Split, part: str, count: int, seed: int) -> Labels:
    """``count`` rows of a part with certain labels, as evenly from all classes as there are rows of them."""
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
    """Class probabilities: those of the label words after each text's prompt, made to sum to 1."""
    from outgrow.models.transformer import load_language_model, load_tokenizer

    if texts.form != "text":
        raise UserError("prompts ask for a label word after one text; tasks of choices or images have none")
    words = label_words(words, texts)
    folder = model.folder(runtime)
    tokenizer = load_tokenizer(folder)
    language_model = load_language_model(folder).to(runtime.torch_device()).eval()
    chosen = texts.take(split.ids(parts))
    examples = texts.take(shots.ids).texts if shots is not None else ()
    classes = shots.hard.tolist() if shots is not None else []

    def cut(text: str) -> str:
        """Its first tokens, as text; one that is short enough stays as it is."""
        marks = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return text if len(marks) <= max_tokens else text[: marks[max_tokens - 1][1]]

    before, _, after = prompt.removesuffix("{label}").partition("{text}")
    shown = "".join(f"{before}{cut(text)}{after}{words[c]}\n\n" for text, c in zip(examples, classes, strict=True))
    asked = [f"{shown}{before}{cut(text)}{after}" for text in chosen.texts]
    logs = word_log_probs(language_model, tokenizer, asked, words, runtime)
    if calibrated:
        logs = logs - word_log_probs(language_model, tokenizer, [f"{shown}{before}{after}"], words, runtime)
    odds = np.exp(logs - logs.max(axis=1, keepdims=True))
    probs = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    return Labels(ids=chosen.ids, probs=probs, source="few-shot" if len(examples) else "zero-shot")


def word_log_probs(
    model: Any, tokenizer: Any, prompts: Sequence[str], words: Sequence[str], runtime: Runtime
) -> Floats:
    """Log-probability (n, C) of each of C words after each of n prompts, summed over the word's tokens.

    The tokens of a word are those that it adds to the prompt's; where a prompt's last tokens change with a word after
    them, as with a space at its end, those are counted with the word.
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
                f"a prompt has {longest} tokens and the model takes {limit}; take fewer shots, or a smaller max_tokens"
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
            kept = torch.tensor(places, device=model.device)  # a vocabulary of logits only where a word is asked for
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
    """What is read for some words of one prompt."""

    prompt: int
    read: tuple[int, ...]
    """All tokens but each word's last."""
    start: int
    """Where the words begin."""
    words: list[tuple[int, tuple[int, ...]]]
    """Number and tokens of each word."""


def _asked(prompt: int, rows: Sequence[tuple[int, ...]], start: int) -> list[_Asked]:
    """One pass for each word's row of tokens, or one for all where each is a single token more."""
    words = [(c, row[start:]) for c, row in enumerate(rows)]
    if all(len(tokens) == 1 for _, tokens in words):
        return [_Asked(prompt, rows[0][:start], start, words)]
    return [_Asked(prompt, rows[c][:-1], start, [(c, tokens)]) for c, tokens in words]


def _closing(tokenizer: Any) -> set[int]:
    """Special tokens that some tokenizers put after a text, which is not at its end here."""
    return {t for t in (tokenizer.eos_token_id, tokenizer.sep_token_id) if t is not None}


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many first tokens two rows share; all but the last of the shorter at most, so that a word has a token."""
    count = 0
    for a, b in zip(first, second[:-1], strict=False):
        if a != b:
            break
        count += 1
    return count


def label_words(words: tuple[str, ...], texts: Examples) -> tuple[str, ...]:
    if words and len(words) != texts.num_classes:
        raise UserError(f"{len(words)} label words for {texts.num_classes} classes; give one for each class, in order")
    return words or texts.classes


# --- their steps: statements ------------------------------------------------------------------------------------------


@step(version=1)
def state(texts: Examples, prompt: str, words: tuple[str, ...]) -> Examples:
    """Every text as a choice between C statements, one for each class; choices are statements already."""
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
    """Class probabilities on T of the probe that contrast-consistent search finds on B."""
    train, test = _standardized(features, split, view)
    found = consistent_probe(train, restarts, updates, lr, decay, seed)
    weak = labels.take(split.parts["B"])
    of_train, of_test = (_shares(_sigmoid(part @ found[:-1] + found[-1])) for part in (train, test))
    rows, hard = np.arange(len(weak)), weak.hard
    if (of_train[rows, hard] - 1 / weak.probs.shape[1]).mean() < 0:  # the end that the weak majority does not mean
        of_test = _shares(1 - _sigmoid(test @ found[:-1] + found[-1]))
    return Labels(ids=split.parts["T"], probs=of_test.astype(np.float32), source="ccs")


def consistent_probe(statements: Floats, restarts: int, updates: int, lr: float, decay: float, seed: int) -> Floats:
    """Weights and bias (d + 1,) of least CCS loss on features (n, C, d), by full-batch AdamW from random directions."""
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
    """The loss (..., n) of how true each statement is said to be (..., n, C): exactly one should be."""
    total = truths.sum(dim=-1)
    return (1 - total).square() + (total - truths.amax(dim=-1)).square()


@step(version=1)
def top_component(features: Features, labels: Labels, split: Split, view: str) -> Labels:
    """Classes on T by the top principal component of B's statements less their example's mean."""
    train, test = (part - part.mean(axis=1, keepdims=True) for part in _standardized(features, split, view))
    weak = labels.take(split.parts["B"]).probs
    return Labels.from_classes(split.parts["T"], picked_by_component(train, test, weak), weak.shape[1], "crc")


def _standardized(features: Features, split: Split, view: str) -> tuple[Floats, ...]:
    """Statements (n, C, d) of B and of T, those of each class less their mean on B, over their deviation there."""
    parts = (positions(split.parts[p], features.ids) for p in ("B", "T"))
    return standardized(*(features.views[view][rows].astype(np.float64) for rows in parts))


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -50, 50))))


def _shares(truths: Floats) -> Floats:
    """Class probabilities (n, C) of how true each statement is: what is missing to 1 shared equally, then cut at 0.

    For two classes (p+ + 1 - p-) / 2, the paper's.
    """
    num_classes = truths.shape[1]
    probs = np.clip(truths + (1 - truths.sum(axis=1, keepdims=True)) / num_classes, 1e-9, None)
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))
