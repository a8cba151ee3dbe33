"""Tasks of images: made-up copies of the packaged and public sets, and folders and tables of a user's own."""

import csv
import gzip
import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from outgrow.archives import FASHION_MNIST
from outgrow.config import Experiment
from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.experiment import run
from outgrow.runtime import Runtime
from outgrow.tasks import TaskSpec, describe, load
from outgrow.tasks.catalogue import vision

RUNTIME = Runtime(device="cpu", offline=True)


def png(shown: np.ndarray[Any, Any], form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, form)
    return buffer.getvalue()


def noise(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)


def loaded(text: str) -> Examples:
    return load(TaskSpec.parse(text), RUNTIME)


# --- Fashion-MNIST ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray[Any, Any]]:
    """A cache with a made-up copy of the package's four files, and the pictures of all 70,000 rows.

    There are 1,000 pictures; of class 0 three.
    """
    cache = tmp_path_factory.mktemp("cache")
    picture = np.arange(70_000) % 1_000
    picture[::10] %= 30
    shown = np.random.default_rng(0).integers(0, 256, (1_000, 28, 28), dtype=np.uint8)[picture]
    gold = (np.arange(70_000) % 10).astype(np.uint8)
    folder = cache / "data" / f"fashion-mnist-{FASHION_MNIST.sha256[:12]}" / vision._IDX_FOLDER
    folder.mkdir(parents=True)
    for name, part in {"train": slice(0, 60_000), "t10k": slice(60_000, None)}.items():
        for what, content in {"images-idx3": shown[part], "labels-idx1": gold[part]}.items():
            head = bytes((0, 0, 8, content.ndim)) + b"".join(n.to_bytes(4, "big") for n in content.shape)
            with gzip.open(folder / f"{name}-{what}-ubyte.gz", "wb", compresslevel=0) as file:
                file.write(head + content.tobytes())
    return cache, shown


@pytest.fixture
def clothes(made_up: tuple[Path, np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch) -> np.ndarray[Any, Any]:
    """The pictures, in the place of the package's."""
    monkeypatch.setattr(vision, "cache_folder", lambda: made_up[0])
    monkeypatch.setattr(vision, "fetch", lambda *_, **__: made_up[0] / "archive.deb")
    return made_up[1]


def test_fashion_mnist_is_drawn_evenly_and_encoded_without_loss(clothes: np.ndarray[Any, Any]) -> None:
    data = loaded("fashion-mnist(limit=200)")
    assert data.form == "image"
    assert data.gold is not None
    assert np.bincount(data.gold).tolist() == [20] * 10
    for name, content, gold in zip(data.ids, data.inputs, data.gold, strict=True):
        part, _, number = str(name).partition("-")
        row = int(number) + (60_000 if part == "test" else 0)
        assert isinstance(content, bytes)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), clothes[row])
        assert gold == row % 10
    again, other = loaded("fashion-mnist(limit=200)"), loaded("fashion-mnist(limit=200, seed=1)")
    assert data.ids.tolist() == again.ids.tolist() != other.ids.tolist()


def test_classes_are_numbered_in_the_order_they_are_named(clothes: np.ndarray[Any, Any]) -> None:
    data = loaded("fashion-mnist(limit=20, classes=('Shirt', 'T-shirt/top'))")
    assert data.classes == ("Shirt", "T-shirt/top")
    assert data.gold is not None
    numbers = [int(str(i).partition("-")[2]) % 10 for i in data.ids]
    assert [{6: 0, 0: 1}[n] for n in numbers] == data.gold.tolist()


def test_the_same_picture_is_one_group_across_the_official_parts(clothes: np.ndarray[Any, Any]) -> None:
    data = loaded("fashion-mnist(limit=400, classes=('T-shirt/top', 'Trouser'))")
    first: dict[object, str] = {}
    for name, content in zip(data.ids.tolist(), data.inputs, strict=True):
        first.setdefault(content, name)
    assert data.groups.tolist() == [first[content] for content in data.inputs]
    assert data.gold is not None
    shirts = data.groups[data.gold == 0]
    assert len(set(shirts.tolist())) == 3
    parts = {str(i).partition("-")[0] for i in data.ids[data.groups == shirts[0]]}
    assert parts == {"train", "test"}


def test_images_show_as_a_line_of_text(clothes: np.ndarray[Any, Any]) -> None:
    found = describe("fashion-mnist(limit=20)", RUNTIME)
    assert found["kind"] == found["form"] == "image"
    assert all(example["text"].startswith("28 x 28 PNG") for example in found["examples"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ("limit=5", "at least one row for each of 10"),
        ("classes=('Shirt', 'Shirt')", "two different"),
        ("classes=('Shirt',)", "two different"),
        ("classes=('Shirt', 'Trousers')", "Trouser"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(clothes: np.ndarray[Any, Any], options: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        loaded(f"fashion-mnist({options})")


@given(
    gold=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    limit=st.none() | st.integers(3, 50),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_a_draw_keeps_every_wanted_row_once_up_to_the_limit(gold: list[int], limit: int | None, seed: int) -> None:
    names = ("a", "b", "c", "d")
    wanted = ("d", "a", "b")
    rows, drawn, classes = vision._chosen(np.array(gold), names, wanted, limit, seed, "t")
    assert classes == wanted
    assert sorted(set(rows.tolist())) == rows.tolist()
    assert [wanted[c] for c in drawn] == [names[gold[r]] for r in rows]
    for name in wanted:
        there = gold.count(names.index(name))
        got = sum(names[gold[r]] == name for r in rows)
        assert got == (there if limit is None else min(there, limit // 3))


# --- MNIST and ImageNet in the hub's schema ---------------------------------------------------------------------------


def put_parquet(path: Path, labels: list[int], seed: int = 0) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": png(noise(seed + i)), "path": f"{i}.png"} for i in range(len(labels))]
    pq.write_table(pa.table({"image": rows, "label": labels}), path)


def test_mnist_reads_a_folder_in_the_hubs_schema(tmp_path: Path) -> None:
    put_parquet(tmp_path / "mnist" / "test.parquet", [4, 9, 4, 9, 1])
    put_parquet(tmp_path / "mnist" / "train.parquet", [9, 9, 4], seed=2)
    said: list[str] = []
    spec = TaskSpec.parse(f"mnist(data_dir={str(tmp_path)!r}, classes=('4', '9'), limit=None)")
    data = load(spec, Runtime(offline=True, say=said.append))
    assert sorted(data.ids.tolist()) == ["test-00000", "test-00001", "test-00002", "test-00003"] + [
        f"train-0000{i}" for i in range(3)
    ]
    assert data.gold is not None
    gold = dict(zip(data.ids.tolist(), data.gold.tolist(), strict=True))
    assert gold["test-00001"] == gold["train-00000"] == 1
    group = dict(zip(data.ids.tolist(), data.groups.tolist(), strict=True))
    assert group["train-00000"] == group["test-00002"]  # the same picture
    assert any("rows, the hub's has" in line for line in said)


def test_a_row_without_an_image_file_is_one_line(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "mnist").mkdir()
    pq.write_table(pa.table({"image": ["x", "y"], "label": [0, 1]}), tmp_path / "mnist" / "test.parquet")
    with pytest.raises(UserError, match=r"test-0000.: the column image holds no image file"):
        loaded(f"mnist(data_dir={str(tmp_path)!r}, classes=('0', '1'))")


def test_imagenet_reads_torchvisions_folders_and_the_hubs_parquet(tmp_path: Path) -> None:
    for c, name in enumerate(("n01440764", "n01443537", "n02", "n03")):
        folder = tmp_path / "a" / "val" / name
        folder.mkdir(parents=True)
        for i in range(3):
            (folder / f"{i}.JPEG").write_bytes(png(noise(10 * c + i), "JPEG"))
    data = loaded(f"imagenet(data_dir={str(tmp_path / 'a')!r})")
    assert data.classes == ("n01440764", "n01443537", "n02", "n03")
    assert data.ids[0] == "n01440764/0.JPEG"
    assert data.gold is not None
    assert data.gold.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    inside = loaded(f"imagenet(data_dir={str(tmp_path / 'a' / 'val')!r}, classes=('n03', 'n02'), limit=2)")
    assert inside.classes == ("n03", "n02")
    assert len(inside) == 2
    put_parquet(tmp_path / "b" / "data" / "validation-00000-of-00002.parquet", [7, 3])
    put_parquet(tmp_path / "b" / "data" / "validation-00001-of-00002.parquet", [3, 7], seed=2)
    rows = loaded(f"imagenet(data_dir={str(tmp_path / 'b')!r})")
    assert rows.classes == ("3", "7")
    assert rows.gold is not None
    assert rows.gold.tolist() == [1, 0, 0, 1]
    for place, match in {"nowhere": "is no folder", "c": "no sub-folders of classes"}.items():
        (tmp_path / "c").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=match):
            loaded(f"imagenet(data_dir={str(tmp_path / place)!r})")


# --- the user's own ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Cats and dogs; one dog lies in two files of different formats, and one folder within a folder."""
    place = tmp_path / "pets"
    for name, first in {"cats": 0, "dogs": 100}.items():
        (place / name / "more").mkdir(parents=True)
        for i in range(3):
            (place / name / f"{i}.png").write_bytes(png(noise(first + i)))
        (place / name / "more" / "deep.png").write_bytes(png(noise(first + 50)))
    (place / "dogs" / "same.bmp").write_bytes(png(noise(101), "BMP"))
    (place / "dogs" / ".DS_Store").write_bytes(b"x")
    (place / "notes.txt").write_text("beside the classes")
    return place


def test_a_folder_of_class_folders_is_a_task(folder: Path) -> None:
    data = loaded(f"images(path={str(folder)!r})")
    assert data.classes == ("cats", "dogs")
    assert data.gold is not None
    assert data.gold.tolist() == [0] * 4 + [1] * 5
    assert data.ids.tolist()[:4] == ["cats/0.png", "cats/1.png", "cats/2.png", "cats/more/deep.png"]
    group = dict(zip(data.ids.tolist(), data.groups.tolist(), strict=True))
    assert group["dogs/same.bmp"] == "dogs/1.png"
    assert len(set(group.values())) == 8
    turned = loaded(f"images(path={str(folder)!r}, classes=('dogs', 'cats'))")
    assert turned.gold is not None
    assert turned.gold.tolist() == [1] * 4 + [0] * 5


def test_identity_is_names_and_contents_wherever_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    here = TaskSpec.parse(f"images(path={str(folder)!r})")
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert TaskSpec.parse(f"images(path={str(copy)!r})") == here
    (copy / "cats" / "0.png").write_bytes(png(noise(7)))
    assert TaskSpec.parse(f"images(path={str(copy)!r})") != here
    (folder / "cats" / "new.png").write_bytes(png(noise(8)))
    with pytest.raises(UserError, match="changed during the run"):
        load(here, RUNTIME)


def test_what_is_wrong_in_a_folder_is_one_line_with_the_file(folder: Path, tmp_path: Path) -> None:
    path = f"images(path={str(folder)!r})"
    (folder / "cats" / "readme.txt").write_text("x")
    with pytest.raises(UserError, match=r"readme\.txt: the ending '\.txt' is no image format"):
        loaded(path)
    (folder / "cats" / "readme.txt").unlink()
    (folder / "dogs" / "0.png").write_bytes(png(noise(0))[:-30])
    with pytest.raises(UserError, match=r"pets/dogs/0\.png: the image is damaged"):
        loaded(path)
    with pytest.raises(UserError, match="'dogs', which classes does not name"):
        loaded(f"images(path={str(folder)!r}, classes=('cats', 'mice'))")
    with pytest.raises(UserError, match="is a folder, but image, label, weak, id, group and split name columns"):
        loaded(f"images(path={str(folder)!r}, weak='guess')")
    shutil.rmtree(folder / "dogs")
    with pytest.raises(UserError, match="has one class, 'cats'"):
        loaded(path)
    shutil.rmtree(folder / "cats")
    with pytest.raises(UserError, match="no sub-folder with images"):
        loaded(path)


def put_table(folder: Path, rows: list[dict[str, str]]) -> Path:
    with open(folder / "list.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "list.csv"


def test_a_table_of_paths_is_a_task(folder: Path) -> None:
    rows = [
        {"file": "cats/0.png", "kind": "cat", "guess": "dog"},
        {"file": "dogs/1.png", "kind": "dog", "guess": "dog"},
        {"file": "dogs/same.bmp", "kind": "", "guess": "cat"},
    ]
    rows += [{"file": "cats/1.png", "kind": "cat", "guess": ""}]
    path = put_table(folder, rows)
    spelled = f"images(path={str(path)!r}, image='file', label='kind', weak='guess')"
    data = loaded(spelled)
    assert data.classes == ("cat", "dog")
    assert data.gold is not None
    assert data.gold.tolist() == [0, 1, -1, 0]
    assert data.groups.tolist() == ["row-1", "row-2", "row-2", "row-4"]
    assert data.meta["weak.1"][:3].tolist() == [1, 1, 0]
    assert data.inputs[0] == (folder / "cats" / "0.png").read_bytes()
    before = TaskSpec.parse(spelled)
    (folder / "cats" / "0.png").write_bytes(png(noise(9)))
    assert TaskSpec.parse(spelled) != before


@pytest.mark.parametrize(
    ("file", "match"),
    [
        ("../outside.png", "lies outside"),
        ("/etc/hostname", "lies outside"),
        ("cats/none.png", "there is no image"),
        ("cats", "there is no image"),
    ],
)
def test_a_table_reads_images_below_it_only(folder: Path, file: str, match: str) -> None:
    (folder.parent / "outside.png").write_bytes(png(noise(1)))
    path = put_table(folder, [{"path": file, "label": "a"}, {"path": "dogs/1.png", "label": "b"}])
    with pytest.raises(UserError, match=match):
        loaded(f"images(path={str(path)!r})")


def test_a_link_does_not_lead_out_of_the_tables_folder(folder: Path) -> None:
    (folder.parent / "outside.png").write_bytes(png(noise(1)))
    (folder / "cats" / "link.png").symlink_to(folder.parent / "outside.png")
    path = put_table(folder, [{"path": "cats/link.png", "label": "a"}, {"path": "dogs/1.png", "label": "b"}])
    with pytest.raises(UserError, match="lies outside"):
        loaded(f"images(path={str(path)!r})")


def test_few_pixels_supervise_more_of_them_end_to_end(tmp_path: Path) -> None:
    """Stripes that run up or across, with noise: at 2 x 2 pixels they cannot be told apart, at 8 x 8 they can."""
    rng = np.random.default_rng(0)
    stripes = np.zeros((8, 8), dtype=np.uint8)
    stripes[::2] = 60
    for name, pattern in {"across": stripes, "up": stripes.T}.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(120):
            shown = pattern + rng.integers(0, 120, (8, 8))
            (tmp_path / "images" / name / f"{i}.png").write_bytes(png(shown.astype(np.uint8)))
    experiment = Experiment(
        task=f"images(path={str(tmp_path / 'images')!r})",
        weak="pixels(size=2)",
        strong="pixels(size=8)",
        seeds=(0, 1),
    )
    row = run(experiment, str(tmp_path / "store"), RUNTIME, quiet=True).row(0, named=True)
    assert row["weak_accuracy"] < 0.7
    assert row["ceiling_accuracy"] > 0.85


# --- the Debian package -----------------------------------------------------------------------------------------------


def put_deb(path: Path, files: dict[str, bytes], compression: str = "xz", link: bool = False) -> Path:
    """A Debian package as deb(5) has it: an ar archive of a version, a control tar and a data tar."""
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo("./usr/link")
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    members[f"data.tar.{compression}"] = buffer.getvalue()
    whole = b"!<arch>\n"
    for name, content in members.items():
        whole += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        whole += b"\n" * (len(content) % 2)
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_data_files_of_a_debian_package_are_unpacked(tmp_path: Path, compression: str) -> None:
    from outgrow.archives import unpack

    deb = put_deb(tmp_path / "a.deb", {"usr/share/x/rows.txt": b"1\n2\n", "etc/other": b"no"}, compression)
    folder = unpack(deb, ["usr/share/x/"], tmp_path / "out", 100)
    assert [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()] == ["usr/share/x/rows.txt"]
    assert (folder / "usr/share/x/rows.txt").read_bytes() == b"1\n2\n"


def test_a_harmful_or_damaged_debian_package_is_refused(tmp_path: Path) -> None:
    from outgrow.archives import unpack

    deb = put_deb(tmp_path / "a.deb", {"usr/rows.txt": b"1" * 5000}, link=True)
    with pytest.raises(UserError, match="link or a device"):
        unpack(deb, ["usr/link"], tmp_path / "o1", 100)
    with pytest.raises(UserError, match="more than the 100 bytes"):
        unpack(deb, ["usr/rows.txt"], tmp_path / "o2", 100)
    with pytest.raises(UserError, match="holds no 'usr/none'"):
        unpack(deb, ["usr/none"], tmp_path / "o3", 100)
    out = put_deb(tmp_path / "b.deb", {"usr/../../up.txt": b"1"})
    with pytest.raises(UserError, match="leads out of"):
        unpack(out, ["usr/"], tmp_path / "o4", 100)
    whole = deb.read_bytes()
    for content in (whole[: len(whole) - 200], whole[:100], whole[:20] + b"?" * 60 + whole[80:], b"!<arch>\n"):
        (tmp_path / "c.deb").write_bytes(content)
        with pytest.raises(UserError):
            unpack(tmp_path / "c.deb", ["usr/rows.txt"], tmp_path / "o5", 10_000)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("o")]


def test_apt_get_fetches_the_pinned_version_and_failures_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from outgrow.archives import Archive, fetch, sha256_of

    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path / "cache"))
    deb = put_deb(tmp_path / "toy_1-1_all.deb", {"usr/rows.txt": b"1"})
    archive = Archive(package="toy", version="1-1", filename=deb.name, sha256=sha256_of(deb), size=deb.stat().st_size)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match=r"no apt-get; download http://deb\.debian\.org/debian/pool/main/t/toy/toy_1-1"):
        fetch(archive)
    (tmp_path / "bin").mkdir()

    def apt(script: str) -> None:
        (tmp_path / "bin" / "apt-get").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / "apt-get").chmod(0o755)

    apt("echo \"E: Version '1-1' for 'toy' was not found\" >&2; exit 100")
    with pytest.raises(UserError, match=r"apt-get update.*or download http"):
        fetch(archive)
    apt('echo "E: Failed to fetch http://x Connection refused" >&2; exit 100')
    with pytest.raises(UserError, match="apt-get says: Failed to fetch"):
        fetch(archive)
    apt("echo altered > toy_1-1_all.deb")
    with pytest.raises(UserError, match="sha256"):
        fetch(archive)
    with pytest.raises(UserError, match=r"fetching is off.*copy http://deb\.debian\.org"):
        fetch(archive, offline=True)
    apt(f'for last; do :; done; [ "$last" = toy=1-1 ] && /bin/cp {deb} . ')
    assert sha256_of(fetch(archive, say=lambda _: None)) == archive.sha256
