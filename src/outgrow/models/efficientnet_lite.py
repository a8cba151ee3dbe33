"""EfficientNet-Lite (Tan and Le 2019; the Lite variants, tensorflow/tpu 2020) as frozen feature extractors.

MobileNetV2 blocks with ReLU6 and without squeeze-and-excitation. Width and depth are scaled in the middle, but not in
stem and head. Padding is TensorFlow's SAME, which adds more on the right and below for stride 2.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SCALES", "EfficientNetLite", "Scale"]


class Scale(NamedTuple):
    """How a variant differs from Lite0."""

    width: float
    depth: float


SCALES = {
    "efficientnet-lite0": Scale(1.0, 1.0),
    "efficientnet-lite1": Scale(1.0, 1.1),
    "efficientnet-lite2": Scale(1.1, 1.2),
}
"""From efficientnet_lite_builder.py of tensorflow/tpu."""

_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))  # fmt: skip
"""Per stage, before scaling: repeats, kernel, stride of the first block, expansion, output channels."""
_EPSILON = 1e-3


class EfficientNetLite(nn.Module):
    """The network. Parameters have the names of the published weights, without their leading underscores."""

    def __init__(self, scale: Scale, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv_stem = _Conv(3, 32, 3, stride=2)
        self.bn0 = nn.BatchNorm2d(32, eps=_EPSILON)
        blocks: list[nn.Module] = []
        channels = 32
        for i, (repeats, kernel, stride, expansion, width) in enumerate(_STAGES):
            is_end = i in (0, len(_STAGES) - 1)  # the first and last stage do not get deeper
            out = _rounded(width * scale.width)
            for n in range(repeats if is_end else math.ceil(repeats * scale.depth)):
                blocks.append(_Block(channels, out, kernel, stride if n == 0 else 1, expansion))
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = _Conv(channels, 1280, 1)
        self.bn1 = nn.BatchNorm2d(1280, eps=_EPSILON)
        self.fc = nn.Linear(1280, num_classes)

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (n, c, h, w) after two thirds of the blocks, and after the last layer (n, 1280, h', w').

        Args:
            pixels: (n, 3, h, w), values 0 to 255 scaled to (x - 127) / 128.
        """
        x = F.relu6(self.bn0(self.conv_stem(pixels)))
        middle = x
        for i, block in enumerate(self.blocks, start=1):
            x = block(x)
            if i == math.ceil(len(self.blocks) * 2 / 3):
                middle = x
        return middle, F.relu6(self.bn1(self.conv_head(x)))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (n, 1000) of the ImageNet classes."""
        logits: Tensor = self.fc(self.features(pixels)[1].mean(dim=(2, 3)))
        return logits


class _Conv(nn.Conv2d):
    """A convolution without bias whose output has ceil(size / stride) places (TensorFlow's SAME padding)."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        high, wide = (max(0, (math.ceil(n / stride) - 1) * stride + kernel - n) for n in x.shape[-2:])
        if high == wide and high % 2 == 0:
            return F.conv2d(x, self.weight, stride=stride, padding=high // 2, groups=self.groups)
        x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
        return F.conv2d(x, self.weight, stride=stride, groups=self.groups)


class _Block(nn.Module):
    """Expand, convolve each channel separately, project, and add the input where shapes allow."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expands = expansion != 1
        if self.expands:
            self.expand_conv = _Conv(channels, wide, 1)
            self.bn0 = nn.BatchNorm2d(wide, eps=_EPSILON)
        self.depthwise_conv = _Conv(wide, wide, kernel, stride, groups=wide)
        self.bn1 = nn.BatchNorm2d(wide, eps=_EPSILON)
        self.project_conv = _Conv(wide, out, 1)
        self.bn2 = nn.BatchNorm2d(out, eps=_EPSILON)
        self.adds = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.adds else torch.as_tensor(y)


def _rounded(channels: float, to: int = 8) -> int:
    """``channels`` rounded to the nearest multiple of 8, but never down by more than a tenth."""
    nearest = max(to, int(channels + to / 2) // to * to)
    return nearest if nearest >= 0.9 * channels else nearest + to
