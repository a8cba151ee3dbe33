"""A folder with a pretrained model: which of its files are read, and that none of them leads out of it.

Transformers follows what a folder's settings name: weights elsewhere, an adapter's base model, a kernel on the hub.
Such a folder is refused, so that the files hashed here are all that a result can depend on.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from outgrow.archives import hub_snapshot, known_sha256
from outgrow.errors import UserError

__all__ = ["folder_content", "from_hub", "reading_model", "reads_images", "settings_of"]

_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "bpe.codes")
"""What transformers reads: weights, settings, tokenizer. Never pickles, never code."""
_TEMPLATES = "additional_chat_templates/*.jinja"
"""The one folder inside a model's folder that a tokenizer reads."""
_SETTINGS = ("config*.json", "tokenizer_config.json", "*processor_config.json", "*.safetensors.index.json")
_NAME_FILES = ("weight_map", "transformers_weights", "fast_tokenizer_files")
"""Settings whose values are names of files to load."""
_NAMES_KERNEL = re.compile(r"implementation|kernel", re.IGNORECASE)
"""Transformers sets every setting as an attribute, so also ``_attn_implementation_internal`` chooses a kernel."""
_KERNELS = ("eager", "sdpa", "flex_attention", "batched_mm", "grouped_mm")
"""Those that come with torch. Any other name is looked for on the hub, flash_attention_2 where it is not installed."""


def folder_content(path: Path, text: str) -> str:
    """Sha256 over the names and contents of all files that loading reads.

    Args:
        path: the folder.
        text: what the user calls it, for errors.

    Raises:
        UserError: if it holds no model, or loading it would follow something outside.
    """
    if not path.is_dir():
        hint = f"; for a hub model write hf:{text}@COMMIT" if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else ""
        raise UserError(f"there is no model folder {text!r}{hint}")
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{known_sha256(file)} {file.relative_to(path)}\n".encode())
    _check_once(path, text, digest.hexdigest())
    return digest.hexdigest()


def reads_images(path: Path) -> bool:
    """Whether the folder holds an image model: those alone have settings of an image processor."""
    return (path / "preprocessor_config.json").is_file()


def settings_of(path: Path, text: str) -> Any:
    """The JSON object in a file of the model folder that the user calls ``text``.

    Raises:
        UserError: if it holds none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} in {text} is not valid JSON ({error}); save the model again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path.name} in {text} holds no JSON object; save the model again")
    return content


@contextmanager
def reading_model(folder: Path) -> Iterator[None]:
    """Turn whatever a library says of a model's files into one line: each has errors of its own, in Rust and Python.

    Raises:
        UserError: if the files cannot be read as a model.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # that of a library in Rust
            raise
        said = " ".join(str(error).split())
        raise UserError(
            f"the model in {folder} cannot be loaded ({type(error).__name__}: {said[:300]}); its settings, tokenizer "
            "or weights are broken or do not fit each other, or transformers does not know it; save or fetch it again"
        ) from error


def from_hub(repo: str, revision: str, offline: bool) -> Path:
    """The snapshot of a hub model at a commit, fetched first if need be.

    Raises:
        UserError: if it cannot be had, or as :func:`folder_content`.
    """
    otherwise = "take a packaged model (`outgrow models` lists them)"
    ignored = ["*/*"]  # copies for other frameworks
    folder = hub_snapshot(repo, revision, offline, otherwise, allow_patterns=list(_FILES), ignore_patterns=ignored)
    _check(folder, f"hf:{repo}@{revision}")
    return folder


def _files(path: Path) -> list[Path]:
    return sorted({file for pattern in (*_FILES, _TEMPLATES) for file in path.glob(pattern) if file.is_file()})


@functools.cache  # a plan asks for the same content thousands of times
def _check_once(path: Path, text: str, content: str) -> None:
    _check(path, text)


def _check(path: Path, text: str) -> None:
    """Raises :class:`UserError` unless the folder holds a model whose loading follows nothing outside."""
    adapter = path / "adapter_config.json"
    if adapter.is_file():
        base = settings_of(adapter, text).get("base_model_name_or_path")
        raise UserError(
            f"{text} is an adapter of the model {base}; merge it into that model first (peft's merge_and_unload, then "
            "save_pretrained) and name the merged folder"
        )
    if not (path / "config.json").is_file():
        raise UserError(f"{text} holds no config.json; a model folder is one that save_pretrained wrote")
    if not any(path.glob("*.safetensors")):
        raise UserError(
            f"{text} holds no *.safetensors; pickled weights (.bin, .pt) can run code and are never loaded, so "
            "convert them where you trust them: save_pretrained writes safetensors"
        )
    known = _files(path)
    for file in sorted({file for pattern in _SETTINGS for file in path.glob(pattern)}):
        for keys, value in _strings(settings_of(file, text)):
            if "quantization_config" in keys and keys[-1] == "quant_method":
                raise UserError(
                    f"{file.name} in {text} says that the weights are quantized ({value}), which needs kernels that "
                    "would be fetched and run; save the model in plain float32 or bfloat16"
                )
            if any(_NAMES_KERNEL.search(key) for key in keys) and value not in _KERNELS:
                raise UserError(
                    f"{file.name} in {text} asks for the kernel {value!r}, which would be fetched and run; remove that "
                    f"line, or name one of {', '.join(_KERNELS)}"
                )
            if _leads_out(path, keys, value, known):
                raise UserError(
                    f"{file.name} in {text} names {value!r}, which is none of the model's files in that folder; copy "
                    "it there, or save the model again with save_pretrained"
                )


def _leads_out(path: Path, keys: tuple[str, ...], value: str, known: list[Path]) -> bool:
    """Whether the setting names a file that is not ``known``."""
    if any(key in _NAME_FILES for key in keys):
        return value not in {file.name for file in known}
    if not keys[-1].endswith("_file") or keys[-1] == "special_tokens_map_file":  # the latter is never opened
        return False
    # Tokenizers keep paths of the machine they were made on. Such a path is opened only where it exists.
    found = {file.resolve() for file in (path / value, Path(value)) if file.is_file()}
    return not found <= {file.resolve() for file in known}


def _strings(value: Any, keys: tuple[str, ...] = ("",)) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text in nested JSON, with the keys that lead to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _strings(inner, (*keys, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, keys)
    elif isinstance(value, str):
        yield keys, value
