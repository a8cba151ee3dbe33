"""What is shown holds no secret and acts on no terminal; what stops a run is said in one line."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from outgrow.cli import main
from outgrow.doctor import clean
from outgrow.engine.graph import Step, step
from outgrow.engine.store import Store, Unreachable
from outgrow.errors import UserError, disk_problem, printable, without_secrets
from outgrow.runtime import Runtime, abandoned, beside, owned, user_path


@step(version=1)
def stored(value: int) -> dict[str, Any]:
    raise AssertionError("only its identity is used here")


# --- secrets and escapes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sftp://user:PASSWORD@host/x", "sftp://host/x"),
        ("sftp://u:p/w@host:22/y", "sftp://host:22/y"),
        ("sftp://u:p@w@host/y", "sftp://host/y"),
        ("table(path='https://u:p@h/x?token=abc&b=2')", "table(path='https://h/x?token=***&b=***')"),
        ("simplecache::s3://key:secret@bucket/x and s3://a:b@c", "simplecache::s3://bucket/x and s3://c"),
        ("s3://bucket/a@b.csv", "s3://bucket/a@b.csv"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("hf:org/name@abc", "hf:org/name@abc"),
        ("mail me@host.org", "mail me@host.org"),
    ],
)
def test_urls_are_shown_without_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert str(UserError(text)) == shown


WORD = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=6, max_size=12)


@given(st.sampled_from(["sftp", "s3", "https", "memory"]), WORD, WORD, WORD)
def test_no_password_is_left(kind: str, user: str, password: str, host: str) -> None:
    url = f"{kind}://{user}:pw-{password}@h-{host}/x?token=tk-{password}"
    assert f"pw-{password}" not in without_secrets(url)
    assert f"tk-{password}" not in without_secrets(url)
    assert f"{kind}://h-{host}/x" in without_secrets(url)


@given(st.text())
def test_what_is_printed_acts_on_no_terminal(text: str) -> None:
    shown = printable(text)
    shown.encode()  # no half characters
    assert not any(c in "\x1b\x07\x08\r\x9b\u202e\u2066\u200f" for c in shown)
    assert [c for c in shown if c in "\n\t"] == [c for c in text if c in "\n\t"]


def test_a_password_stays_out_of_messages_and_of_the_name_of_a_store() -> None:
    store = Store("memory://user:SECRET@host/x", [])
    assert "SECRET" not in store.root
    with pytest.raises(UserError) as error:
        Store("nosuch://user:SECRET@host/x", [])
    assert "SECRET" not in str(error.value)


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EIO])
def test_errors_of_the_disk_are_one_line_from_any_library(number: int) -> None:
    for error in (OSError(number, "x", "f"), RuntimeError(f"I/O error: something (os error {number})")):
        problem = disk_problem(error, "here", "mend it")
        assert problem is not None
        assert "here" in str(problem)
        assert "\n" not in str(problem)
    assert disk_problem(ValueError("x"), "here", "") is None


@given(st.integers(1, 133))
def test_any_error_about_a_path_is_one_line_that_names_it(number: int) -> None:
    for name in ("/proc/x", b"/proc/x"):
        problem = disk_problem(OSError(number, "said", name), "the disk", "mend it")
        assert "no space left" in str(problem) or "/proc/x" in str(problem)


def test_an_error_without_a_number_is_none_of_the_disk() -> None:
    assert disk_problem(OSError("no number"), "here", "") is None


def test_a_path_that_is_no_home_or_no_path_is_one_line() -> None:
    with pytest.raises(UserError, match="names no home folder"):
        user_path("~nosuchuser/x")
    with pytest.raises(UserError, match="zero character"):
        user_path("a\0b")
    assert user_path("~/x") == Path.home() / "x"


PLACES = {
    "a file": "file",
    "below a file": "file/store",
    "nobody's home": "~nosuchuser/store",
    "too long": "a" * 5000,
    "a zero": "a\0b",
}


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("command", ["ls", "show", "doctor", "report", "clean"])
def test_a_store_that_cannot_be_one_is_one_line(
    what: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path / "cache"))
    Path("file").touch()
    with pytest.raises(SystemExit) as stopped:
        main([command, *(["abc"] if command == "show" else []), "--store", PLACES[what]])
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert stopped.value.code in (0, 1, 2)
    if what in ("a file", "nobody's home", "a zero"):
        assert stopped.value.code == 2
        assert len([line for line in err.splitlines() if line.startswith("outgrow: ")]) == 1
    assert not Path("~nosuchuser").exists()


# --- remote stores ----------------------------------------------------------------------------------------------------


class Bucketed(MemoryFileSystem):  # type: ignore[misc]
    """Like an object store: the first part of a path is a bucket, which makedirs would create."""

    protocol = "bucketed"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    root_marker = ""
    down = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("bucketed://").strip("/")

    def exists(self, path: str, **options: Any) -> bool:
        if self.down:
            raise RuntimeError("EndpointConnectionError: could not connect\nto the endpoint")
        return path.partition("/")[0] == "mine"


def test_a_mistyped_bucket_is_not_created(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    fsspec.register_implementation("bucketed", Bucketed, clobber=True)
    made: list[str] = []
    monkeypatch.setattr(Bucketed, "makedirs", lambda self, path, exist_ok: made.append(path))
    with pytest.raises(UserError, match="no bucket mime"):
        Store("bucketed://mime/x", []).write(Step(stored, value=1), 1, {})
    assert made == []


def test_a_server_that_is_down_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    fsspec.register_implementation("bucketed", Bucketed, clobber=True)
    monkeypatch.setattr(Bucketed, "down", True)
    store = Store("bucketed://mine/x", [])
    for ask in (lambda: store.is_done(Step(stored, value=1)), lambda: store.write(Step(stored, value=1), 1, {})):
        with pytest.raises(Unreachable, match="cannot be reached") as error:
            ask()
        assert "\n" not in str(error.value)


def test_a_remote_store_keeps_checkpoints_in_the_users_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path))
    one, two = Store("memory://one", []), Store("memory://two", [])
    assert one.scratch(Step(stored, value=1)).is_relative_to(tmp_path)
    assert one.scratch(Step(stored, value=1)) != two.scratch(Step(stored, value=1))


# --- what kills leave -------------------------------------------------------------------------------------------------


def test_what_killed_processes_left_is_known_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    dead = tmp_path / owned("x").replace(f"~{os.getpid()}~", f"~{child.pid}~")
    other = tmp_path / "x~elsewhere~1~"
    mine = tmp_path / owned("x")
    for path in (dead, other, mine):
        path.touch()
    assert abandoned(tmp_path.iterdir()) == [dead]
    os.utime(other, (0, 0))
    assert sorted(abandoned(tmp_path.iterdir())) == sorted([dead, other])
    with beside(tmp_path / "place") as unfinished:
        unfinished.write_text("whole")
    assert {p.name for p in tmp_path.iterdir()} == {mine.name, "place"}


def test_what_fails_leaves_nothing_and_keeps_the_old(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.write_text("old")

    def fail() -> None:
        with beside(place) as unfinished:
            unfinished.write_text("half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_clean_removes_all_that_kills_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    store = Store(str(tmp_path / "store"), [])
    store.write(Step(stored, value=1), 1, {})
    dead = owned("outgrow").replace(f"~{os.getpid()}~", "~99999999~")
    left = [
        tmp_path / "tmp" / f"{dead}abc" / "file",
        tmp_path / "store" / "unfinished" / f"{dead}abc" / "file",
        tmp_path / "store" / "unfinished" / "fit-123" / "checkpoint-000000001" / "file",
        tmp_path / "store" / "load" / "123" / "file",
        Path(store.folder(Step(stored, value=1))) / ".record.json.1234abcd",
        tmp_path / "cache" / "models" / ".new-abc" / "file",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    said = list(clean(store, old=False, results=False, cache=False))
    assert len(said) == len(left)
    assert not any(path.exists() for path in left)
    assert store.read(Step(stored, value=1)) == 1


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_every_signal_that_stops_says_so(name: str, code: int) -> None:
    waiting = (
        "import time, outgrow.cli as cli\n"
        "@cli.app.command\n"
        "def wait():\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "cli.main(['wait'])"
    )
    child = subprocess.Popen([sys.executable, "-c", waiting], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.05)
    child.send_signal(getattr(signal, name))
    _, err = child.communicate(timeout=30)
    assert child.returncode == code
    assert err == "outgrow: interrupted. Finished steps are kept; run the same command again to continue\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_output_to_a_full_disk_is_one_line() -> None:
    code = "from outgrow.cli import main; main(['models'])"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr


# --- numbers that cannot be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["microbatch", "tokens_at_once"])
def test_negative_sizes_are_refused(name: str) -> None:
    sizes: dict[str, Any] = {name: -2}
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is -2"):
        Runtime(**sizes)
