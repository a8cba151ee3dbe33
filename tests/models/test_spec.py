import os
import shutil
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from safetensors.numpy import load_file

from outgrow import archives
from outgrow.errors import UserError
from outgrow.models.packaged import PACKAGED, content_id
from outgrow.models.spec import LADDERS, ModelSpec, ladder
from outgrow.runtime import Runtime
from tiny_models import make_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_packaged_model_is_its_name() -> None:
    spec = ModelSpec.parse("minilm-l6")
    assert (str(spec), spec.content) == ("minilm-l6", content_id("minilm-l6"))
    assert not spec.is_static
    assert ModelSpec.parse("glove").is_static


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean minilm-l6"):
        ModelSpec.parse("minilm6")


def test_a_hub_model_is_identified_by_its_commit() -> None:
    spec = ModelSpec.parse(f"hf:org/some.model@{COMMIT}")
    assert spec.content == f"hf:org/some.model@{COMMIT}"
    assert ModelSpec.parse(str(spec)) == spec


@pytest.mark.parametrize("text", ["hf:org/name", "hf:org/name@main", f"hf:org/name@{COMMIT[:12]}"])
def test_an_unpinned_hub_model_is_told_how_to_pin(text: str) -> None:
    with pytest.raises(UserError, match="hf:org/name@COMMIT"):
        ModelSpec.parse(text)


@pytest.mark.parametrize("name", ["../../etc", "a/b/c", "", "org/.."])
def test_a_hub_name_is_never_a_path(name: str) -> None:
    with pytest.raises(UserError):
        ModelSpec.parse(f"hf:{name}@{COMMIT}")


def test_a_local_model_is_identified_by_what_loading_reads(model: Path, tmp_path: Path) -> None:
    spec = ModelSpec.parse(str(model))
    assert spec.folder(Runtime()) == model
    (model / "README.md").write_text("words")
    assert ModelSpec.parse(str(model)) == spec
    moved = shutil.copytree(model, tmp_path / "moved")
    assert ModelSpec.parse(str(moved)).content == spec.content
    (moved / "model.safetensors").rename(moved / "other.safetensors")
    assert ModelSpec.parse(str(moved)).content != spec.content
    (model / "model.safetensors").write_bytes(b"Weights")
    assert ModelSpec.parse(str(model)).content != spec.content
    with pytest.raises(UserError, match="changed during the run"):
        spec.folder(Runtime())


def test_a_relative_path_is_a_path(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    assert ModelSpec.parse("./model").content == ModelSpec.parse(str(model)).content


def test_pickled_weights_are_never_loaded(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        ModelSpec.parse(str(model))


def test_a_folder_that_is_no_model(model: Path) -> None:
    os.remove(model / "config.json")
    with pytest.raises(UserError, match=r"config\.json"):
        ModelSpec.parse(str(model))
    with pytest.raises(UserError, match="hf:org/name@COMMIT"):
        ModelSpec.parse("org/name")


def test_a_hub_model_is_fetched_without_code_or_pickles(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert ModelSpec.parse(f"hf:org/name@{COMMIT}").folder(Runtime(offline=True)) == model
    assert (asked["repo"], asked["revision"], asked["local_files_only"]) == ("org/name", COMMIT, True)
    assert not any(p.endswith((".bin", ".pt", ".py", "*")) for p in asked["allow_patterns"])
    (model / "model.safetensors").unlink()
    monkeypatch.setattr(archives, "hub_unreachable", lambda: None)
    with pytest.raises(UserError, match="safetensors"):
        ModelSpec.parse(f"hf:org/name@{COMMIT}").folder(Runtime())


def test_a_hub_model_not_cached_while_offline_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="fetching is off") as caught:
        ModelSpec.parse(f"hf:org/name@{COMMIT}").folder(Runtime(offline=True))
    assert "\n" not in str(caught.value)


def test_ladders_run_from_weak_to_strong_and_add_only_what_was_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OUTGROW_ACCEPT_LICENSE", raising=False)
    assert ladder("three") == ("glove", "minilm-l3", "minilm-l6")
    assert ladder("six") == ("glove", "minilm-l3", "minilm-l6", "smollm2-135m", "mpnet-base") == LADDERS["six"]
    every = tuple(name for name, packaged in PACKAGED.items() if packaged.reads == "text")
    assert ladder("seven") == (*LADDERS["six"], "qwen2.5-coder-1.5b") == LADDERS["seven"]
    assert ladder("six", {"gemma-3-270m"}) == every[:-1]
    assert ladder("seven", {"gemma-3-270m"}) == every
    assert ladder("three", {"gemma-3-270m"}) == LADDERS["three"]
    with pytest.raises(UserError, match="did you mean six"):
        ladder("sixx")
    monkeypatch.setenv("OUTGROW_ACCEPT_LICENSE", "gemma-3-270m")
    assert ladder("six") == every[:-1]


def test_a_hub_that_does_not_answer_is_one_line_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(UserError, match="not in the hub's cache") as caught:
        ModelSpec.parse(f"hf:org/name@{COMMIT}").folder(Runtime())
    assert time.monotonic() - began < 10  # its client alone takes 24 s
    assert "\n" not in str(caught.value)


def test_a_hub_model_in_the_cache_needs_no_hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **o: asked.update(o) or str(model))
    assert ModelSpec.parse(f"hf:org/name@{COMMIT}").folder(Runtime()) == model
    assert asked["local_files_only"]


def test_what_a_pass_costs_is_counted_without_the_embeddings(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", "bert", layers=2)
    weights = load_file(folder / "model.safetensors")
    wanted = sum(w.size for name, w in weights.items() if w.ndim == 2 and "embeddings" not in name)
    assert ModelSpec.parse(str(folder)).layer_parameters == wanted > 0
    assert ModelSpec.parse("glove").layer_parameters is None
    assert ModelSpec.parse(f"hf:org/name@{'0' * 40}").layer_parameters is None
