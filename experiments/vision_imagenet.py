"""The released vision recipe: AlexNet's soft labels train linear probes on frozen DINO features, ImageNet validation.

    python experiments/vision_imagenet.py FOLDER hf:facebook/dino-vitb8@COMMIT

FOLDER holds val/ with a sub-folder per class, or data/validation-*.parquet. Needs torchvision (for AlexNet), a GPU, and
memory for all images several times over (6.7 GB each). More models, hub or folder, may follow the first; the hub has
DINO ResNet-50 only as an unofficial copy. The released code reports: AlexNet 0.566; ViT-B/8 0.666, ceiling 0.740;
ResNet-50 0.619, ceiling 0.645. Not run by us. Known differences: 1,000 rows go to a part A that nobody reads (39,000
transfer rows in place of 40,000); features are standardized; Adam's rate is constant where theirs falls by a cosine;
every model's own image processor resizes and crops; ResNet-50 was given 20 epochs, here all get 5.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from outgrow import Examples, Experiment, Labels, Runtime, Split, Step, UserError, step, supervisor, sweep
from outgrow.models.image_files import open_picture
from outgrow.supervisors import SupervisorSetup

NUM_CLASSES = 1000
TRAIN = "probe(view='last_token', epochs=5, batch_size=100, lr=0.001, l2=0.0, early_stopping=False)"
_BATCH = 64


@step(version=1)
def alexnet_labels(texts: Examples, split: Split, parts: tuple[str, ...], runtime: Runtime) -> Labels:
    """AlexNet's softmax over the classes of ImageNet, as torchvision trained it: columns are sorted WordNet ids."""
    import torch

    if texts.num_classes != NUM_CLASSES:
        raise UserError(f"AlexNet tells {NUM_CLASSES} classes apart and the task has {texts.num_classes}; take all")
    net, transform = _alexnet()
    device = runtime.torch_device()
    net = net.to(device).eval()
    chosen = texts.take(split.ids(parts))
    probs = np.empty((len(chosen), NUM_CLASSES), dtype=np.float32)
    with torch.inference_mode():
        for at in range(0, len(chosen), _BATCH):
            here = slice(at, at + _BATCH)
            files = zip(chosen.inputs[here], chosen.ids[here].tolist(), strict=True)
            pixels = torch.stack([transform(open_picture(bytes(f), name).convert("RGB")) for f, name in files])  # type: ignore[arg-type]
            probs[here] = net(pixels.to(device)).double().softmax(dim=1).float().cpu().numpy()
            runtime.report(min(at + _BATCH, len(chosen)), len(chosen), "images")
    return Labels(ids=chosen.ids, probs=probs, source="alexnet")


def _alexnet() -> tuple[Any, Any]:
    """The network and what it does to an image first: shorter side to 256, middle 224 x 224, ImageNet's scaling."""
    try:
        from torchvision.models import AlexNet_Weights, alexnet  # type: ignore[import-not-found]
    except (ImportError, RuntimeError) as error:  # the latter where its build does not fit torch's
        raise UserError(
            "AlexNet comes with torchvision, which is not here or does not fit this torch; `pip install torchvision`"
        ) from error
    weights = AlexNet_Weights.IMAGENET1K_V1
    return alexnet(weights=weights), weights.transforms()


@supervisor("alexnet")
class AlexNet:
    """AlexNet as it comes: trained on ImageNet's training images, so part A is not used."""

    def __call__(self, source: SupervisorSetup) -> Step:
        """See :class:`outgrow.supervisors.Supervisor`."""
        parts = ("B", "B_val", "T")
        return Step(alexnet_labels, texts=source.student.texts, split=source.split, parts=parts)


def experiments(folder: str, models: Sequence[str]) -> list[Experiment]:
    """One experiment per student model: 39,000 transfer and 10,000 test images, the split drawn by the seed."""
    return [
        Experiment(
            task=f"imagenet(data_dir={folder!r})",
            weak="alexnet",
            strong=model,
            train=TRAIN,
            seeds=(0, 1, 2),
            supervisor_rows=NUM_CLASSES,
            transfer_rows=39 * NUM_CLASSES,
            test_rows=10 * NUM_CLASSES,
            validation=0.0,
        )
        for model in models
    ]


def main(arguments: Sequence[str]) -> None:
    """Run the recipe on a folder, with the hub models or model folders named after it."""
    if len(arguments) < 2:
        raise UserError(
            "name the folder of ImageNet's validation images, and a model such as hf:facebook/dino-vitb8@COMMIT"
        )
    _alexnet()  # said before 50,000 images are read
    folder, *models = arguments
    print(sweep(experiments(folder, models)))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
