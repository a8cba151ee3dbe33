"""One spelling for a model, wherever it comes from, and the ladders of packaged ones."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np

from outgrow.archives import known_sha256
from outgrow.data import Examples, Question
from outgrow.errors import NotFinite, UserError, unknown_name
from outgrow.identity import code_name, source_digest
from outgrow.models.base import MODELS, Array, ModelReader
from outgrow.models.folder import folder_content, from_hub, reads_images, settings_of
from outgrow.models.images import Pictures, embed_images
from outgrow.models.packaged import PACKAGED, content_id, model_folder
from outgrow.models.settings import VIEWS
from outgrow.registry import spell_call
from outgrow.runtime import Runtime, accepted_licenses, user_path

__all__ = ["LADDERS", "LANGUAGE_MODELS", "ModelSpec", "ladder"]

_FREE = tuple(name for name, packaged in PACKAGED.items() if packaged.reads == "text" and not packaged.restricted)
LADDERS: dict[str, tuple[str, ...]] = {
    "three": ("glove", "minilm-l3", "minilm-l6"),
    "six": _FREE[:-1],
    "seven": _FREE,
}
"""Packaged models, weak to strong. ``six`` has those with a free license that a pass takes minutes of, ``seven`` also
the model of 1.5 billion parameters; :func:`ladder` adds to both what was accepted."""

LANGUAGE_MODELS = ("smollm2-135m", "gemma-3-270m", "qwen2.5-coder-1.5b")
"""The packaged language models."""

_HUB = re.compile(r"hf:((?:[\w-][\w.-]*/)?[\w-][\w.-]*)@([0-9a-f]{40})")


@dataclass(frozen=True)
class ModelSpec:
    """A pretrained model by name and by content.

    It is a registered :class:`ModelReader`, or files that transformers loads: packaged, from the hub, or in a folder.
    """

    source: str = field(compare=False)
    """``minilm-l6``, ``hf:org/name@commit`` or the path of a folder. Neither compared nor hashed: the same weights
    elsewhere are the same model."""
    content: str
    """Changes if and only if the model does: its weights, settings and tokenizer, or its code and options."""
    reader: ModelReader | None = field(default=None, compare=False, repr=False)
    """The registered reader; None for what transformers loads."""

    @classmethod
    def parse(cls, text: str, instead: Collection[str] = ()) -> Self:
        """The model that ``text`` spells. Fetches nothing, but reads the files of a local folder to identify them.

        Args:
            text: a name, a call such as ``random-features(width=64)``, a hub id or a folder.
            instead: other names that would do here, offered too where ``text`` is none of them.

        Raises:
            UserError: for an unknown name, a hub model that is not pinned to a commit, or a folder that holds no model
                or leads out of itself.
        """
        name = text.partition("(")[0].strip()
        if name in MODELS:
            reader = MODELS.parse(text)
            return cls(MODELS.spell(reader), _reader_content(reader), reader)
        if text.startswith("hf:"):
            if not _HUB.fullmatch(text):
                model = text.partition("@")[0]
                raise UserError(
                    f"the hub model {text!r} is not pinned as hf:org/name@COMMIT; write {model}@COMMIT with the 40 "
                    "digits of a commit (the model page lists them under Files, History), as a branch may change"
                )
            return cls(text, text)
        if "/" in text or text.startswith((".", "~")):
            return cls(text, folder_content(user_path(text), text))
        if text not in PACKAGED:
            raise unknown_name("model", name, {*PACKAGED, *MODELS, *instead})
        return cls(text, content_id(text))

    def __str__(self) -> str:
        return self.source

    @property
    def is_static(self) -> bool:
        """Whether the model has frozen features only, so that it cannot be finetuned."""
        return self.reader is not None or self.reads == "image"

    @property
    def layer_parameters(self) -> int | None:
        """Parameters that every token is multiplied by, without the embeddings it is looked up in: what a pass costs.
        None for a reader or images, and for a hub model, which is not fetched to be asked."""
        if self.is_static or self.source.startswith("hf:"):
            return None
        if (packaged := PACKAGED.get(self.source)) is not None and not packaged.is_ready:
            return packaged.parameters
        return _layer_parameters(packaged.folder if packaged else Path(self.source).expanduser())

    @property
    def precision(self) -> str:
        """``bf16`` for a packaged model that computes in bfloat16 unless told otherwise, else ``fp32``."""
        packaged = PACKAGED.get(self.source)
        return packaged.precision if packaged else "fp32"

    @property
    def is_language_model(self) -> bool:
        """Whether the model can be asked for the probability of a word, as far as that is known before it is loaded: a
        hub model is taken to be one."""
        if self.source in LANGUAGE_MODELS or self.source.startswith("hf:"):
            return True
        config = user_path(self.source) / "config.json"
        if self.reader is not None or self.source in PACKAGED or not config.is_file():
            return False
        named = settings_of(config, self.source).get("architectures") or ["ForCausalLM"]
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            raise UserError(f"architectures in {config} is no list of names; save the model again")
        return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in named)

    def check_language_model(self, what: str) -> None:
        """Fail at plan time where the model is known to be no language model.

        Raises:
            UserError: saying that ``what`` needs one.
        """
        if not self.is_language_model:
            raise UserError(f"{what}, and {self} is no language model; take a decoder, such as {LANGUAGE_MODELS[0]}")

    @property
    def reads(self) -> str | None:
        """``text`` or ``image``; None for a hub model, whose files alone tell."""
        if self.reader is not None:
            return self.reader.reads
        if self.source.startswith("hf:"):
            return None
        is_image = self.source not in PACKAGED and reads_images(user_path(self.source))
        return "image" if is_image else "text"

    def folder(self, runtime: Runtime) -> Path:
        """The local folder with its files, fetched first if need be.

        Raises:
            UserError: if it cannot be had, or a local folder changed since it was parsed.
        """
        if match := _HUB.fullmatch(self.source):
            return from_hub(match[1], match[2], runtime.offline)
        if (name := self.source.partition("(")[0]) in PACKAGED:
            return model_folder(name, runtime)
        path = user_path(self.source)
        if folder_content(path, self.source) != self.content:
            raise UserError(f"the model folder {self.source} changed during the run; start again")
        return path

    def embed(
        self,
        examples: Examples,
        max_tokens: int | None,
        runtime: Runtime,
        *,
        bf16: bool = False,
        question: Question | None = None,
    ) -> dict[str, Array]:
        """Frozen features of all examples in one pass: for each view (n, d) float32, or (n, C, d) for choices.

        Args:
            examples: texts, choices, whose candidates are embedded one by one, or images.
            max_tokens: transformers cut texts to so many tokens; None for their default, or where ``is_static``.
            runtime: device, batching and progress.
            bf16: run a transformer's layers in bfloat16.
            question: ask it, and give the views of :func:`outgrow.models.asked.ask`.

        Raises:
            UserError: if the model cannot read such examples, or returns no features of them or numbers that are not
                finite.
        """
        form = "image" if examples.form == "image" else "text"
        if self.reads not in (None, form):
            other = "an image" if form == "image" else "a text"
            raise UserError(f"{self} reads {self.reads}s, and the task's inputs are {form}s; take {other} model")
        inputs: Sequence[Any] = examples.texts if form == "text" else Pictures(examples.inputs, examples.ids.tolist())
        try:
            views = self._views(inputs, form, max_tokens, runtime, bf16, question and question.of(examples))
        except NotFinite as found:
            row = found.place // (len(inputs) // len(examples))
            of_text = f" ({inputs[found.place][:60]!r})" if form == "text" else ""
            raise UserError(
                f"the model {self} gives numbers that are not finite, first for the row {str(examples.ids[row])!r}"
                f"{of_text}; nothing is stored; take another model{', or precision=fp32' if bf16 else ''}"
            ) from None
        if examples.form == "choice":
            views = {name: matrix.reshape(len(examples), examples.num_classes, -1) for name, matrix in views.items()}
        return views

    def _views(
        self,
        inputs: Sequence[Any],
        form: str,
        max_tokens: int | None,
        runtime: Runtime,
        bf16: bool,
        question: Question | None,
    ) -> dict[str, Array]:
        if question is not None:
            from outgrow.models.asked import ask

            return ask(self.folder(runtime), inputs, question, max_tokens=max_tokens, runtime=runtime, bf16=bf16)
        if self.reader is not None:
            return _finite(self._checked(self.reader.embed(inputs, runtime), len(inputs)))
        if form == "image":
            return _finite(embed_images(self.folder(runtime), inputs, runtime))
        from outgrow.models.transformer import extract

        return extract(self.folder(runtime), inputs, max_tokens=max_tokens, runtime=runtime, bf16=bf16)

    def _checked(self, found: Any, n: int) -> dict[str, Array]:
        """What a registered reader returned for ``n`` inputs, as a matrix for each view."""
        views = found if isinstance(found, Mapping) else dict.fromkeys(VIEWS, found)
        views = {name: np.asarray(matrix, dtype=np.float32) for name, matrix in views.items()}
        shapes = sorted({matrix.shape for matrix in views.values()})
        if not views.keys() >= VIEWS.keys() or any(len(shape) != 2 or shape[0] != n for shape in shapes):
            raise UserError(
                f"embed of the model {self} returned {', '.join(views)} of shape {shapes} for {n} inputs; it must "
                f"return one ({n}, d) matrix, or one for each of {', '.join(VIEWS)}"
            )
        return views


def _finite(views: dict[str, Array]) -> dict[str, Array]:
    wrong = [np.flatnonzero(~np.isfinite(matrix).all(axis=1)) for matrix in views.values()]
    if first := [int(places[0]) for places in wrong if len(places)]:
        raise NotFinite(min(first))
    return views


@cache
def _layer_parameters(folder: Path) -> int | None:
    from safetensors import SafetensorError, safe_open

    total = 0
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, framework="np") as tensors:
                shapes = [(name, tensors.get_slice(name).get_shape()) for name in tensors.keys()]  # noqa: SIM118
        except (OSError, SafetensorError):  # loading it says what is wrong
            return None
        total += sum(prod(shape) for name, shape in shapes if len(shape) > 1 and "embed" not in name)
    return total or None


def ladder(name: str, accepted: Collection[str] = frozenset()) -> tuple[str, ...]:
    """The names of a ladder's models, weak to strong.

    Args:
        name: ``three``, ``six`` or ``seven``.
        accepted: restricted models whose licenses the user accepts, besides those in ``OUTGROW_ACCEPT_LICENSE``; they
            join ``six`` and ``seven`` in their place.

    Raises:
        UserError: for an unknown ladder.
    """
    if name not in LADDERS:
        raise unknown_name("ladder", name, LADDERS)
    joined = {*LADDERS[name], *((*accepted, *accepted_licenses()) if name != "three" else ())}
    return tuple(packaged for packaged in PACKAGED if packaged in joined)


def _reader_content(reader: Any) -> str:
    """Identity of a registered reader: its name, version and options, its packaged weights, the files that its options
    name, and the source of a user's."""
    kind, name = type(reader), str(MODELS.name_of(reader))
    options = {f.name: getattr(reader, f.name) for f in fields(reader)}
    parts = [spell_call(name, options), f"v{getattr(kind, 'version', 1)}"]
    if name in PACKAGED:
        parts.append(content_id(name))
    paths = (os.path.expanduser(value) for value in options.values() if isinstance(value, str))
    parts += [known_sha256(Path(path)) for path in paths if os.path.isfile(path)]
    if digest := source_digest(kind):
        parts += [code_name(kind), digest]
    return " ".join(parts)
