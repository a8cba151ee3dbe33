"""Frozen features of images: raw pixels, the packaged EfficientNet-Lites, and what transformers knows (ViT, DINO ...).

The views carry the names they have for texts (``VIEWS``): ``mean`` is the mean over the places of the last layer (all
patches, or the whole map), ``mid_mean`` the same after two thirds of the layers or blocks, and ``last_token`` is the
summary the model itself draws: the class token where it has one, else the same as ``mean``.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from outgrow.errors import UserError
from outgrow.models.image_files import open_picture
from outgrow.models.quiet import quiet_transformers
from outgrow.models.settings import VIEWS
from outgrow.registry import Registry
from outgrow.runtime import Runtime

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["IMAGE_MODELS", "PROCESSOR", "ImageModel", "Lite0", "Lite1", "Lite2", "Pixels", "embed_images"]

Array = npt.NDArray[np.float32]
PROCESSOR = "preprocessor_config.json"
"""What a folder holds beside the weights if and only if its model reads images."""
_MAX_SIZE = 1024
_BATCH = {"cpu": 32}
_BATCH_ON_GPU = 256


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """The grey values of the image shrunk to ``size`` x ``size``: what a probe does with no model at all."""

    size: int = 28

    def __post_init__(self) -> None:
        _check_size("pixels", self.size, 1)


@dataclass(frozen=True, kw_only=True)
class Lite0:
    """EfficientNet-Lite0 on images of ``size`` x ``size``; 224 is what it was trained for."""

    size: int = 224

    def __post_init__(self) -> None:
        _check_size("efficientnet-lite0", self.size, 32)


@dataclass(frozen=True, kw_only=True)
class Lite1:
    """EfficientNet-Lite1 on images of ``size`` x ``size``; 240 is what it was trained for."""

    size: int = 240

    def __post_init__(self) -> None:
        _check_size("efficientnet-lite1", self.size, 32)


@dataclass(frozen=True, kw_only=True)
class Lite2:
    """EfficientNet-Lite2 on images of ``size`` x ``size``; 260 is what it was trained for."""

    size: int = 260

    def __post_init__(self) -> None:
        _check_size("efficientnet-lite2", self.size, 32)


ImageModel = Pixels | Lite0 | Lite1 | Lite2
IMAGE_MODELS: Registry[type[Any]] = Registry("image model", "image models")
"""By the name that spells them."""
for _name, _cls in {"pixels": Pixels, "efficientnet-lite0": Lite0, "efficientnet-lite1": Lite1}.items():
    IMAGE_MODELS.add(_name, _cls)
IMAGE_MODELS.add("efficientnet-lite2", Lite2)


def _check_size(name: str, size: int, least: int) -> None:
    if not least <= size <= _MAX_SIZE:
        raise UserError(f"size of {name} is {size}; it must be from {least} to {_MAX_SIZE} pixels")


def embed_images(
    model: ImageModel | None, folder: Path | None, files: Sequence[bytes], names: Sequence[str], runtime: Runtime
) -> dict[str, Array]:
    """Frozen features of image files in one pass: for each view an (n, d) float32 matrix.

    An image's row does not depend on the others beyond rounding.

    Args:
        model: a packaged image model, or None for what lies in ``folder``.
        folder: with the model's weights; None for pixels, which have none.
        files: bytes of each image file (n,).
        names: of the images, for errors (n,).
        runtime: device and progress.

    Raises:
        UserError: for a damaged image, or a folder that holds no image model.
    """
    if isinstance(model, Pixels):
        grey = [_pixels(open_picture(*pair), model.size) for pair in zip(files, names, strict=True)]
        flat = np.stack(grey) if grey else np.zeros((0, model.size**2), dtype=np.float32)
        return dict.fromkeys(VIEWS, flat)  # no layers, no places
    import torch

    assert folder is not None
    device = runtime.torch_device()
    prepare, forward = _hub_model(folder, device) if model is None else _lite(folder, model.size, device)
    batch = _BATCH.get(device, _BATCH_ON_GPU)
    parts: dict[str, list[Array]] = {view: [] for view in VIEWS}
    with torch.inference_mode():
        for at in range(0, len(files), batch):
            pairs = zip(files[at : at + batch], names[at : at + batch], strict=True)
            pixels = prepare([open_picture(*pair).convert("RGB") for pair in pairs])
            for view, vectors in forward(pixels.to(device)).items():
                parts[view].append(vectors.float().cpu().numpy())
            runtime.report(min(at + batch, len(files)), len(files), "images")
    return {view: np.concatenate(vectors) for view, vectors in parts.items()}


_Prepare = Callable[[Sequence["Image"]], "Tensor"]
"""RGB images -> (n, 3, h, w) as the model wants them."""
_Forward = Callable[["Tensor"], dict[str, "Tensor"]]
"""(n, 3, h, w) -> for each view (n, d)."""


def _pixels(image: "Image", size: int) -> Array:
    from PIL.Image import Resampling

    grey = image.convert("L").resize((size, size), Resampling.BOX)  # each value is the mean of what it covers
    return np.asarray(np.asarray(grey, dtype=np.float32).ravel() / 255, dtype=np.float32)


# --- EfficientNet-Lite ------------------------------------------------------------------------------------------------


def _lite(folder: Path, size: int, device: str) -> tuple[_Prepare, _Forward]:
    import torch
    from safetensors.torch import load_file

    from outgrow.models.efficientnet_lite import SCALES, EfficientNetLite

    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["name"]
    net = EfficientNetLite(SCALES[name])
    net.load_state_dict(load_file(folder / "model.safetensors"))
    net = net.eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU

    def prepare(images: Sequence["Image"]) -> "Tensor":
        grid = np.stack([_centre(image, size) for image in images])
        # (x - 127) / 128 is the scaling of efficientnet_lite_builder.py. With it the variance after the first layer is
        # 0.98 of the one the batch norm remembers from training; with 0..1, ImageNet's mean and deviation, or
        # (x / 255 - 0.5) / 0.25 it is 0.25, 4.9 and 3.9 (15 photographs).
        pixels = (torch.from_numpy(grid).float() - 127) / 128
        return pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def forward(pixels: "Tensor") -> dict[str, "Tensor"]:
        middle, last = (places.mean(dim=(2, 3)) for places in net.features(pixels))
        return {"last_token": last, "mean": last, "mid_mean": middle}

    return prepare, forward


def _centre(image: "Image", size: int) -> npt.NDArray[np.uint8]:
    """The largest square in the middle, at ``size`` x ``size``: (size, size, 3)."""
    from PIL.Image import Resampling

    left, top = ((side - min(image.size)) / 2 for side in image.size)
    box = (left, top, left + min(image.size), top + min(image.size))
    return np.array(image.resize((size, size), Resampling.BICUBIC, box=box))


# --- transformers -----------------------------------------------------------------------------------------------------


def _hub_model(folder: Path, device: str) -> tuple[_Prepare, _Forward]:
    processor, body = _load(folder)
    body = body.to(device).eval()
    patch = getattr(body.config, "patch_size", None)
    patch = patch if isinstance(patch, int) else None

    def prepare(images: Sequence["Image"]) -> "Tensor":
        pixels: Tensor = processor(images=list(images), return_tensors="pt")["pixel_values"]
        return pixels

    def forward(pixels: "Tensor") -> dict[str, "Tensor"]:
        out = body(pixel_values=pixels, output_hidden_states=True)
        last, states = out.last_hidden_state, out.hidden_states
        middle = states[math.ceil((len(states) - 1) * 2 / 3)]  # the first is what goes into the first layer
        own = _own_tokens(last, pixels, patch)
        return {
            "last_token": last[:, 0] if own else _over_places(last, own),
            "mean": _over_places(last, own),
            "mid_mean": _over_places(middle, _own_tokens(middle, pixels, patch)),
        }

    return prepare, forward


def _own_tokens(hidden: "Tensor", pixels: "Tensor", patch: int | None) -> int:
    """How many tokens stand before the patches: the class token, registers. Maps (n, c, h, w) have none."""
    if hidden.ndim == 4 or patch is None:
        return 0
    patches = (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)
    return max(0, hidden.shape[1] - patches)  # fewer tokens than patches: they were merged, as Swin does


def _over_places(hidden: "Tensor", own: int) -> "Tensor":
    """Mean over patches (n, t, d), or over the map (n, d, h, w): (n, d)."""
    return hidden.float().mean(dim=(2, 3)) if hidden.ndim == 4 else hidden[:, own:].float().mean(dim=1)


def _load(folder: Path) -> tuple[Any, Any]:
    """Image processor and body, float32; code that may lie beside them is never run.

    Raises:
        UserError: if the folder holds no image model, one of images and texts, or one with weights missing.
    """
    import torch
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    if not (folder / PROCESSOR).is_file():
        raise UserError(f"the model in {folder} reads no images (it has no {PROCESSOR}); take one that does")
    safe = {"local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(folder, **safe)
    if config.get_text_config() is not config:
        raise UserError(f"the model in {folder} reads images and texts ({config.model_type}); take one of images alone")
    with quiet_transformers(), torch.random.fork_rng(devices=[]):  # a pooler that a checkpoint lacks is drawn at random
        processor = AutoImageProcessor.from_pretrained(folder, **safe)
        body, info = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **safe
        )
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise UserError(
            f"the weights in {folder} are incomplete: {len(missing)} are missing, the first is {missing[0]}"
        )
    return processor, body
