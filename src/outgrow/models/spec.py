"""One spelling for a model, wherever it comes from, and the ladders of packaged ones."""

import hashlib
import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from outgrow.archives import hub_unreachable, known_sha256
from outgrow.errors import UserError, unknown_name
from outgrow.models.images import IMAGE_MODELS, PROCESSOR, ImageModel
from outgrow.models.packaged import RUNGS, content_id, model_folder
from outgrow.models.synthetic import NUMBER_MODELS, RandomFeatures, Vectors
from outgrow.runtime import accepted_licenses

__all__ = ["LADDERS", "LANGUAGE_MODELS", "ModelSpec", "ladder"]

LADDERS: dict[str, tuple[str, ...]] = {
    "three": ("glove", "minilm-l3", "minilm-l6"),
    "six": tuple(name for name, rung in RUNGS.items() if rung.reads == "text" and not rung.restricted),
}
"""Packaged models, weak to strong. ``six`` holds what is freely licensed; :func:`ladder` adds what was accepted."""

LANGUAGE_MODELS = ("smollm2-135m", "gemma-3-270m")
"""The packaged language models."""

_HUB = re.compile(r"hf:((?:[\w-][\w.-]*/)?[\w-][\w.-]*)@([0-9a-f]{40})")
_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
"""What a model is loaded from: weights, config, tokenizer. Never pickles, never code."""


@dataclass(frozen=True)
class ModelSpec:
    """A pretrained model by name and by content."""

    source: str = field(compare=False)
    """``minilm-l6``, ``hf:org/name@commit`` or the path of a folder. Not compared and not hashed: the same weights
    elsewhere are the same model."""
    content: str
    """Changes if and only if the weights, config or tokenizer do."""

    @classmethod
    def parse(cls, text: str, instead: Collection[str] = ()) -> Self:
        """The model that ``text`` spells. Fetches nothing; the files of a local folder are read to identify them.

        Args:
            text: a name, a call such as ``random-features(width=64)``, a hub id or a folder.
            instead: other names that would do here, offered too where ``text`` is none of them.

        Raises:
            UserError: for an unknown name, a hub model that is not pinned to a commit, or a folder that lacks
                config.json or safetensors.
        """
        if text.startswith("hf:"):
            if not _HUB.fullmatch(text):
                model = text.partition("@")[0]
                raise UserError(
                    f"the hub model {text!r} is not pinned as hf:org/name@COMMIT; write {model}@COMMIT with the 40 "
                    "digits of a commit (the model page lists them under Files, History), as a branch may change"
                )
            return cls(text, text)
        if "/" in text or text.startswith((".", "~")):
            return cls(text, _folder_content(Path(text).expanduser(), text))
        if (name := text.partition("(")[0].strip()) in NUMBER_MODELS:
            spelled = NUMBER_MODELS.spell(NUMBER_MODELS.parse(text))
            return cls(spelled, f"v1 {spelled}")
        if name in IMAGE_MODELS:
            spelled = IMAGE_MODELS.spell(IMAGE_MODELS.parse(text))
            weights = content_id(name) if name in RUNGS else "no weights"
            return cls(spelled, f"v1 {spelled} {weights}")
        if text not in RUNGS:
            raise unknown_name("model", name, [*RUNGS, *NUMBER_MODELS, *IMAGE_MODELS, *instead])
        return cls(text, content_id(text))

    def __str__(self) -> str:
        return self.source

    @property
    def is_static(self) -> bool:
        """Whether the model is a table of word vectors, or reads numbers or images: it has features, and nothing here
        finetunes it."""
        return self.source == "glove" or self.numbers is not None or self.reads == "image"

    @property
    def is_language_model(self) -> bool:
        """Whether the model can be asked for the probability of a word, as far as that is known before it is loaded: a
        hub model is taken to be one."""
        if self.source in LANGUAGE_MODELS or self.source.startswith("hf:"):
            return True
        config = Path(self.source).expanduser() / "config.json"
        if "/" not in self.source or not config.is_file():
            return False
        named = json.loads(config.read_text(encoding="utf-8")).get("architectures") or ("ForCausalLM",)
        return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in named)

    def check_language_model(self, what: str) -> None:
        """Fail at plan time where the model is known to be no language model.

        Raises:
            UserError: saying that ``what`` needs one.
        """
        if not self.is_language_model:
            raise UserError(f"{what}, and {self} is no language model; take a decoder, such as {LANGUAGE_MODELS[0]}")

    @cached_property
    def numbers(self) -> Vectors | RandomFeatures | None:
        """The model itself where it reads texts of numbers; it has no files."""
        if self.source.partition("(")[0] not in NUMBER_MODELS:
            return None
        made: Vectors | RandomFeatures = NUMBER_MODELS.parse(self.source)
        return made

    @cached_property
    def images(self) -> ImageModel | None:
        """The model's settings where it is a packaged image model, or pixels."""
        if self.source.partition("(")[0] not in IMAGE_MODELS:
            return None
        made: ImageModel = IMAGE_MODELS.parse(self.source)
        return made

    @property
    def reads(self) -> Literal["text", "image"] | None:
        """What the model reads; None for a hub model, whose files alone tell."""
        if self.source.startswith("hf:"):
            return None
        is_folder = self.source.partition("(")[0] not in {*RUNGS, *NUMBER_MODELS, *IMAGE_MODELS}
        sees = (Path(self.source).expanduser() / PROCESSOR).is_file() if is_folder else self.images is not None
        return "image" if sees else "text"

    def folder(
        self,
        *,
        accept_license: Collection[str] = frozenset(),
        offline: bool = False,
        say: Callable[[str], None] = print,
    ) -> Path:
        """The local folder with its files, fetched first if need be.

        Args:
            accept_license: names of the restricted models whose licences the user accepts.
            offline: fetch nothing.
            say: told what is fetched.

        Raises:
            UserError: if it cannot be had, or a local folder changed since it was parsed.
        """
        if match := _HUB.fullmatch(self.source):
            return _from_hub(match[1], match[2], offline)
        if (name := self.source.partition("(")[0]) in RUNGS:
            return model_folder(name, accept_license=name in accept_license, offline=offline, say=say)
        path = Path(self.source).expanduser()
        if _folder_content(path, self.source) != self.content:
            raise UserError(f"the model folder {self.source} changed during the run; start again")
        return path


def ladder(name: str, accepted: Collection[str] = frozenset()) -> tuple[str, ...]:
    """The names of a ladder's models, weak to strong.

    Args:
        name: ``three`` or ``six``.
        accepted: restricted models whose licences the user accepts, besides those in ``OUTGROW_ACCEPT_LICENSE``; they
            join ``six`` in their place.

    Raises:
        UserError: for an unknown ladder.
    """
    if name not in LADDERS:
        raise unknown_name("ladder", name, LADDERS)
    joined = {*LADDERS[name], *((*accepted, *accepted_licenses()) if name == "six" else ())}
    return tuple(rung for rung in RUNGS if rung in joined)


def _folder_content(path: Path, text: str) -> str:
    """Sha256 over names and contents of the files that loading reads.

    Raises:
        UserError: if it is no model folder.
    """
    if not path.is_dir():
        hint = f"; for a hub model write hf:{text}@COMMIT" if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else ""
        raise UserError(f"there is no model folder {text!r}{hint}")
    _check_loadable(path, text)
    files = sorted({file for pattern in _FILES for file in path.glob(pattern) if file.is_file()})
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{known_sha256(file)} {file.name}\n".encode())
    return digest.hexdigest()


def _check_loadable(path: Path, text: str) -> None:
    if not (path / "config.json").is_file():
        raise UserError(f"{text} holds no config.json; a model folder is one that save_pretrained wrote")
    if not any(path.glob("*.safetensors")):
        raise UserError(
            f"{text} holds no *.safetensors; pickled weights (.bin, .pt) can run code and are never loaded, so "
            "convert them where you trust them: save_pretrained writes safetensors"
        )


def _from_hub(repo: str, revision: str, offline: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    away = None if offline else hub_unreachable()
    try:
        folder = huggingface_hub.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(_FILES),
            ignore_patterns=["*/*"],  # copies for other frameworks; loading reads the top folder only
            local_files_only=offline or away is not None,
        )
    except (OSError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0]
        if offline or away:
            reason = f"it is not in the hub's cache and {away or 'fetching is off'}"
        raise UserError(
            f"could not get {repo} at {revision} from the hub: {reason}; fetch it where the hub can be reached, or "
            "take a packaged model (`outgrow models` lists them)"
        ) from error
    _check_loadable(Path(folder), f"hf:{repo}@{revision}")
    return Path(folder)
