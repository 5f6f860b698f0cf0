"""Cloning: what a container does at its start to get the commit, here in a folder of the host."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher._cloning import CloneError, clone

OLD_PROTOCOL = "[protocol]\n\tversion = 0\n"  # which does not give a commit by its id


class Bench:
    """A remote, and the place of a clone with what the launcher puts into a container."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.remote = folder / "remote.git"
        self.place = folder / "hydra"
        self.root = folder / "root"
        for path in (self.work, self.place / "git", self.root):
            path.mkdir(parents=True)
        self.git(self.work, "init", "--quiet", "--initial-branch=main")
        self.git(folder, "init", "--quiet", "--bare", "--initial-branch=main", str(self.remote))

    @staticmethod
    def git(folder: Path, *arguments: str) -> str:
        command = ("git", "-C", str(folder), "-c", "protocol.file.allow=always", *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, push: bool = True, **files: str) -> str:
        for name, text in files.items():
            (self.work / name).write_text(text)
        self.git(self.work, "add", "--all")
        self.git(self.work, "commit", "--quiet", "--allow-empty", "--message=a commit")
        if push:
            self.git(self.work, "push", "--quiet", "--force", str(self.remote), "HEAD:main")
        return self.git(self.work, "rev-parse", "HEAD")

    def clone(self, commit: str, config: str = "", branches: tuple[str, ...] = ()) -> None:
        text = '[protocol "file"]\n\tallow = always\n[safe]\n\tdirectory = *\n'
        (self.place / "git/.gitconfig").write_text(text + config)
        request = {
            "url": f"file://{self.remote}",
            "shown": str(self.remote),
            "commit": commit,
            "root": str(self.root),
            "branches": branches,
        }
        (self.place / "clone.json").write_text(json.dumps(request))
        clone(str(self.place))

    @property
    def files(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.root)): path.read_text()
            for path in self.root.rglob("*")
            if path.is_file() and ".git" not in path.relative_to(self.root).parts
        }

    @property
    def head(self) -> str:
        return self.git(self.root, "rev-parse", "HEAD")


@pytest.fixture
def bench(plain_git, tmp_path, monkeypatch) -> Bench:
    monkeypatch.delenv("GIT_CONFIG_GLOBAL")  # the one in HOME is meant
    monkeypatch.setenv("HOME", str(tmp_path))
    return Bench(tmp_path)


def test_commit_alone(bench, capfd):
    """The commit is fetched by its id, without its history; the log says what is cloned."""
    bench.commit(a="1")
    commit = bench.commit(a="2")
    bench.commit(a="3")
    bench.clone(commit)
    assert (bench.head, bench.files) == (commit, {"a": "2"})
    assert bench.git(bench.root, "rev-list", "--count", "HEAD") == "1"
    line = f"Cloning {bench.remote} at {commit[:12]} into {bench.root}\n"
    assert capfd.readouterr().out == line


def test_names_of_what_came(bench):
    """They are written down, by which the host tells what the job has written."""
    library = bench.work.with_name("library")
    library.mkdir()
    bench.git(library, "init", "--quiet")
    (library / "a b").write_text("1")
    bench.git(library, "add", "--all")
    bench.git(library, "commit", "--quiet", "--message=a library")
    bench.git(bench.work, "submodule", "--quiet", "add", str(library), "lib")
    bench.clone(bench.commit(café="1"))
    names = (bench.root / ".git/hydra-docker-files").read_text()
    assert names.split("\0") == [".gitmodules", "caf\u00e9", "lib/a b", ""]


def test_place_that_is_not_empty(bench):
    """The output folder and empty folders of the commit are there before."""
    (bench.work / "sub").mkdir()
    commit = bench.commit(**{"sub/a": "1"})
    (bench.root / "sub").mkdir()
    (bench.root / "multirun").mkdir()
    (bench.root / "multirun/kept").write_text("kept")
    bench.clone(commit)
    assert bench.files == {"sub/a": "1", "multirun/kept": "kept"}


@pytest.mark.parametrize("branches", [("refs/heads/main",), ("refs/heads/gone",), ()])
def test_server_that_gives_no_ids(bench, branches):
    """Then the branches that have the commit are fetched, or all of them."""
    commit = bench.commit(a="1")
    bench.commit(a="2")
    bench.clone(commit, OLD_PROTOCOL, branches)
    assert (bench.head, bench.files) == (commit, {"a": "1"})


def test_commit_of_a_tag(bench):
    """A commit that is on no branch any more is found by a tag."""
    commit = bench.commit(a="1")
    bench.git(bench.work, "tag", "v1")
    bench.git(bench.work, "push", "--quiet", str(bench.remote), "v1")
    bench.git(bench.work, "commit", "--quiet", "--amend", "--message=another")
    bench.commit(a="2")
    bench.clone(commit, OLD_PROTOCOL)
    assert bench.head == commit


def test_commit_that_is_not_there(bench):
    """The cause is said in one sentence."""
    bench.commit(a="1")
    commit = bench.commit(push=False, a="2")
    with pytest.raises(CloneError) as caught:
        bench.clone(commit)
    assert str(caught.value) == (
        f"could not clone {bench.remote} at {commit[:12]}: none of its branches and tags has this "
        "commit (any more)"
    )


def test_remote_that_is_not_there(bench):
    """Where git cannot reach the remote, the cause is in git's words."""
    commit = bench.commit(a="1")
    bench.remote.rename(bench.remote.with_name("elsewhere"))
    with pytest.raises(CloneError, match=r": git ls-remote failed\nfatal: '.*' does not appear"):
        bench.clone(commit)


def test_started_again(bench, capfd):
    """A finished clone is left as the job has made it; one that is not finished begins again."""
    commit = bench.commit(a="1")
    bench.clone(commit)
    (bench.root / "a").write_text("changed by the job")
    capfd.readouterr()
    bench.clone(commit)
    assert bench.files == {"a": "changed by the job"}
    assert capfd.readouterr().out == ""

    (bench.root / ".git/hydra-docker-cloned").unlink()
    (bench.root / ".git/index.lock").touch()
    (bench.root / ".git/HEAD").write_text("torn")
    bench.clone(commit)
    assert (bench.head, bench.files) == (commit, {"a": "1"})


@pytest.mark.parametrize("config", ["", OLD_PROTOCOL])
def test_submodules(bench, tmp_path, config):
    """They are at their recorded commits, also after a start that was cut off."""
    library = Bench(tmp_path / "library")
    recorded = library.commit(b="1")
    library.commit(b="2")
    add = ("submodule", "--quiet", "add", f"file://{library.remote}", "lib")
    bench.git(bench.work, *add)
    bench.git(bench.work / "lib", "checkout", "--quiet", recorded)
    commit = bench.commit(a="1")
    for _ in range(2):
        bench.clone(commit, config)
        found = {name: text for name, text in bench.files.items() if name != ".gitmodules"}
        assert found == {"a": "1", "lib/b": "1"}
        (bench.root / ".git/hydra-docker-cloned").unlink()
        (bench.root / "lib/rest").write_text("of a job")


def test_lfs_without_git_lfs(bench, monkeypatch):
    """A pointer file is no file: it is an error that says what is missing."""
    commit = bench.commit(
        **{
            ".gitattributes": "*.bin filter=lfs\n",
            "a.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        }
    )
    config = '[filter "lfs"]\n\tprocess = git-lfs filter-process\n\trequired = true\n'
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(CloneError, match=r"the image has no git-lfs: install it there\.$"):
        bench.clone(commit, config)
