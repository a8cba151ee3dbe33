"""The commit of a folder is what git says it is, and nothing that the folder configures ever runs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outgrow.engine.git import checkout

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="compared with git itself")


def git(folder: Path, *words: str) -> str:
    plain = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, env=os.environ | plain, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    for name in ("a.txt", "sub/b.py", "sub/" + "n" * 200):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("a.txt")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_head_and_dirtiness_are_those_of_git(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    assert checkout(repository) == checkout(repository / "sub") == head
    (repository / "new.txt").write_text("not tracked")
    os.utime(repository / "a.txt", (1, 1))  # touched, with the same content
    assert checkout(repository) == head
    (repository / "a.txt").write_text("A.txt")
    assert checkout(repository) == f"{head}+"
    git(repository, "checkout", "-q", "a.txt")
    git(repository, "pack-refs", "--all")
    git(repository, "checkout", "-q", "-b", "other/branch")
    assert checkout(repository) == head
    git(repository, "checkout", "-q", "--detach")
    (repository / "sub" / "b.py").unlink()
    assert checkout(repository) == f"{head}+"


def test_a_work_tree_of_another_folder_is_read(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    tree = tmp_path_factory.mktemp("tree") / "second"
    git(repository, "worktree", "add", "-q", str(tree))
    assert checkout(tree) == git(tree, "rev-parse", "HEAD")


@pytest.mark.parametrize("form", ["index.version=4", "core.autocrlf=true"])
def test_what_cannot_be_told_is_said(repository: Path, form: str) -> None:
    head = git(repository, "rev-parse", "HEAD")
    if form.startswith("index"):
        git(repository, "-c", form, "update-index", "--index-version", "4")
    else:
        (repository / "a.txt").write_bytes(b"a\r\ntx")
        git(repository, "-c", form, "add", "a.txt")
        git(repository, "-c", form, "commit", "-qm", "second")
        head = git(repository, "rev-parse", "HEAD")
        os.utime(repository / "a.txt", (1, 1))
    assert checkout(repository) == f"{head}?"


def test_nothing_that_a_folder_configures_runs(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    ran = tmp_path_factory.mktemp("outside") / "ran"
    command = f"touch {ran}; false"
    for name in ("core.fsmonitor", "core.sshCommand", "diff.external", "filter.x.clean", "filter.x.smudge"):
        git(repository, "config", name, command)
    (repository / ".gitattributes").write_text("* filter=x diff=x")
    (repository / ".git" / "hooks" / "post-index-change").write_text(f"#!/bin/sh\n{command}")
    (repository / ".git" / "hooks" / "post-index-change").chmod(0o755)
    (repository / "a.txt").write_text("B.txt")
    assert (
        str(checkout(repository)).rstrip("+?")
        == (repository / ".git/refs/heads").glob("*").__next__().read_text().strip()
    )
    assert not ran.exists()
    subprocess.run(["git", "status"], cwd=repository, capture_output=True, check=False)
    assert ran.exists()  # the trap is one


def test_no_repository_and_an_empty_one(tmp_path: Path) -> None:
    assert checkout(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert checkout(tmp_path) is None


@settings(max_examples=200, deadline=None)
@given(head=st.binary(max_size=60), index=st.binary(max_size=200), keep=st.integers(0, 200))
def test_any_bytes_are_read_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, head: bytes, index: bytes, keep: int
) -> None:
    folder = tmp_path_factory.mktemp("odd") / ".git"
    folder.mkdir()
    (folder / "HEAD").write_bytes(b"a" * 40 if keep % 2 else head)
    (folder / "index").write_bytes(b"DIRC\0\0\0\2\0\0\0\1"[:keep] + index)
    found = checkout(folder.parent)
    assert found is None or found.startswith("a" * 40) or found.rstrip("+?")
