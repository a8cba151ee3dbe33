"""Which models can be asked for the probability of a word: decoders, as far as that is known before any is loaded."""

import json
from pathlib import Path

from outgrow.errors import UserError
from outgrow.models.spec import ModelSpec

__all__ = ["WRITERS", "check_writes"]

WRITERS = ("smollm2-135m", "gemma-3-270m")
"""The packaged language models."""


def check_writes(model: ModelSpec, what: str) -> None:
    """Fail at plan time where ``model`` is known to be no language model; a hub model is looked at when it runs.

    Raises:
        UserError: saying that ``what`` needs one.
    """
    known = ("ForCausalLM", "LMHeadModel")
    if model.source in WRITERS or model.source.startswith("hf:"):
        return
    config = Path(model.source).expanduser() / "config.json"
    if "/" in model.source and config.is_file():
        named = json.loads(config.read_text(encoding="utf-8")).get("architectures") or known
        if any(name.endswith(known) for name in named):
            return
    raise UserError(f"{what}, and {model} is no language model; take a decoder, such as {WRITERS[0]}")
