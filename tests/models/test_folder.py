"""What is read of a model's folder is what identifies it, and nothing in it leads out."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.models.spec import ModelSpec
from outgrow.runtime import Runtime

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CPU = Runtime(device="cpu", offline=True)


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    """A real model's folder, to be tampered with."""
    return Path(shutil.copytree(model, tmp_path / "copied"))


def edit(file: Path, **changes: Any) -> int:
    content = json.loads(file.read_text()) if file.exists() else {}
    return file.write_text(json.dumps(content | changes))


def index(folder: Path, shard: str) -> int:
    return (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"w": shard}})
    )


def elsewhere(folder: Path, name: str) -> str:
    """The path of a file outside the folder."""
    path = folder.parent / name
    path.write_text("{}")
    return str(path)


TAMPERED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a shard above": (lambda f: index(f, "../model.safetensors"), "names '../model.safetensors', which is none of"),
    "a shard by its full path": (lambda f: index(f, elsewhere(f, "w.safetensors")), "none of the model's files"),
    "a shard that is not there": (lambda f: index(f, "model-00001.safetensors"), "save the model again"),
    "a shard that is no safetensors": (
        lambda f: (index(f, "w.bin"), (f / "w.bin").write_text("")),
        "none of the model's",
    ),
    "weights in a folder within": (
        lambda f: edit(f / "config.json", transformers_weights="sub/model.safetensors"),
        "config.json in .* names 'sub/model.safetensors'",
    ),
    "a tokenizer elsewhere": (
        lambda f: edit(f / "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.4.0.json"]),
        "tokenizer_config.json in .* names '../tokenizer.4.0.json'",
    ),
    "a vocabulary elsewhere": (
        lambda f: edit(f / "tokenizer_config.json", vocab_file=elsewhere(f, "vocab.json")),
        "none of the model's files",
    ),
    "a tokenizer in a file that is not hashed": (
        lambda f: (edit(f / "tokenizer_config.json", gguf_file="x.gguf"), (f / "x.gguf").write_text("")),
        "names 'x.gguf'",
    ),
    "an adapter beside a model": (
        lambda f: edit(f / "adapter_config.json", base_model_name_or_path="org/base"),
        "adapter of the model org/base; merge it into that model first",
    ),
    "an adapter alone": (
        lambda f: (
            edit(f / "adapter_config.json", base_model_name_or_path="../base"),
            (f / "config.json").rename(f / "old"),
        ),
        "adapter of the model ../base",
    ),
    "an attention of the hub": (
        lambda f: edit(f / "config.json", attn_implementation="org/kernel"),
        "asks for the kernel 'org/kernel'.* one of eager, sdpa",
    ),
    "an attention of the hub in a part": (
        lambda f: edit(f / "config.json", text_config={"_attn_implementation": {"": "kernels-community/attn@v1"}}),
        "asks for the kernel",
    ),
    "an attention by its inner name": (
        lambda f: edit(f / "config.json", _attn_implementation_internal="org/kernel"),
        "asks for the kernel 'org/kernel'",
    ),
    "an attention that is looked for on the hub": (
        lambda f: edit(f / "config.json", _attn_implementation="flash_attention_2"),
        "asks for the kernel 'flash_attention_2'",
    ),
    "quantized weights": (
        lambda f: edit(f / "config.json", quantization_config={"quant_method": "mxfp4"}),
        r"says that the weights are quantized \(mxfp4\)",
    ),
    "settings that are a list": (lambda f: (f / "config.json").write_text("[1]"), "holds no JSON object"),
    "experts of the hub": (lambda f: edit(f / "config.json", experts_implementation="sonicmoe"), "kernel 'sonicmoe'"),
    "settings that are no JSON": (lambda f: (f / "config.json").write_text("{"), "is not valid JSON"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_folder_that_leads_out_is_refused_in_one_line(
    copied: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper, said = TAMPERED[what]
    tamper(copied)
    with pytest.raises(UserError, match=said) as caught:
        ModelSpec.parse(str(copied))
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(copied))
    with pytest.raises(UserError, match=said):
        ModelSpec.parse(f"hf:org/name@{COMMIT}").folder(CPU)


BROKEN: dict[str, Callable[[Path], Any]] = {
    "weights cut off": lambda f: cut(f / "model.safetensors"),
    "weights that are text": lambda f: (f / "model.safetensors").write_text("weights"),
    "weights of another size": lambda f: edit(f / "config.json", hidden_size=12, intermediate_size=7),
    "no heads": lambda f: edit(f / "config.json", num_attention_heads=0),
    "a size that is text": lambda f: edit(f / "config.json", hidden_size="large"),
    "an unknown kind of model": lambda f: edit(f / "config.json", model_type="nosuch"),
    "a tokenizer that is none": lambda f: (f / "tokenizer.json").write_text('{"model": 1}'),
    "a tokenizer cut off": lambda f: cut(f / "tokenizer.json"),
}


def cut(file: Path) -> int:
    return file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_model_is_one_line(copied: Path, what: str) -> None:
    BROKEN[what](copied)
    examples = Examples(
        ids=np.array(["a"]), inputs=("text",), gold=None, classes=("x", "y"), groups=np.array(["a"]), meta={}
    )
    with pytest.raises(UserError) as caught:
        ModelSpec.parse(str(copied)).embed(examples, 8, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "additional_chat_templates/x.jinja", "bpe.codes", "spiece.model"])
def test_what_a_tokenizer_reads_is_part_of_the_identity(copied: Path, name: str) -> None:
    before = ModelSpec.parse(str(copied))
    (copied / name).parent.mkdir(exist_ok=True)
    with open(copied / name, "a", encoding="utf-8") as file:
        file.write(" ")
    assert ModelSpec.parse(str(copied)) != before


def test_links_are_followed_to_what_is_hashed(copied: Path) -> None:
    """As the hub's cache has them: each file is a link to its content elsewhere."""
    before, blob = ModelSpec.parse(str(copied)), copied.parent / "blob"
    weights = copied / "model.safetensors"
    weights.rename(blob)
    weights.symlink_to(blob)
    index(copied, "model.safetensors")
    edit(copied / "tokenizer_config.json", vocab_file="model.safetensors")  # one of the model's files, if a strange one
    linked = ModelSpec.parse(str(copied))
    assert linked != before  # it has an index now
    blob.write_bytes(blob.read_bytes() + b" ")
    assert ModelSpec.parse(str(copied)) != linked


def test_ordinary_settings_are_no_way_out(copied: Path) -> None:
    """Paths of the machine that a tokenizer was made on, and the kernels that come with torch."""
    edit(copied / "config.json", attn_implementation="sdpa", _name_or_path="org/name", auto_map={"AutoModel": "m.M"})
    made_on = {"special_tokens_map_file": elsewhere(copied, "map.json"), "vocab_file": "/content/gone/vocab.txt"}
    edit(copied / "tokenizer_config.json", **made_on, tokenizer_file=None)
    ModelSpec.parse(str(copied))


def test_kernels_of_the_hub_are_never_used(tmp_path: Path) -> None:
    """Transformers fetches and runs them where a package called kernels is installed, which is made unseen."""
    (tmp_path / "kernels.py").write_text("")
    code = "import outgrow.models.transformer, importlib.util as u; print(u.find_spec('kernels'))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "None"
