"""Remotes: which branches of a remote have a commit, and how a commit gets here."""

from __future__ import annotations

from pathlib import Path

import pytest
from git_repository import GitRepository, everything, exported, init, isolate, pin_at

from hydra_plugins.hydra_docker_launcher import _remotes
from hydra_plugins.hydra_docker_launcher._errors import SourceError
from hydra_plugins.hydra_docker_launcher._repository import Repository
from hydra_plugins.hydra_docker_launcher._source import (
    Source,
    is_pushed,
    push_command,
)

REFS = "refs/hydra-docker/fetched"


def remote_branches_with(source: Source, remote: str) -> tuple[str, ...]:
    return _remotes.branches_with(Repository(source.root), source.commit, remote)


def fetch(location: Path, commit: str, *, remote: str, branch: str | None = None) -> None:
    _remotes.fetch(Repository.containing(location), commit, remote=remote, branch=branch)


@pytest.fixture(autouse=True)
def _only_this_git_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def remote(tmp_path: Path) -> GitRepository:
    """A bare repository, as a server has them."""
    repository = GitRepository(tmp_path / "remote.git")
    repository.root.mkdir()
    repository.git("init", "--quiet", "--bare")
    return repository


@pytest.fixture
def repo(remote: GitRepository, tmp_path: Path) -> GitRepository:
    """A repository whose one commit was pushed to ``origin``."""
    repository = init(tmp_path / "project")
    repository.commit(train__py="print('hello')\n")
    repository.git("remote", "add", "origin", f"file://{remote.root}")
    repository.git("push", "--quiet", "origin", "main")
    return repository


class TestPushed:
    def test_pushed(self, repo: GitRepository) -> None:
        """A commit that was pushed is on the remote's branch; so is one before it."""
        first = pin_at(repo.root)
        repo.commit(train__py="pass\n")
        repo.git("push", "--quiet", "origin", "main", "main:feature/x")
        for source in (first, pin_at(repo.root)):
            assert remote_branches_with(source, "origin") == ("feature/x", "main")
            assert is_pushed(source) is True

    def test_not_pushed(self, repo: GitRepository) -> None:
        """A newer commit is on none, and the command that pushes it is the one that git knows."""
        repo.commit(train__py="pass\n")
        source = pin_at(repo.root)
        assert (remote_branches_with(source, "origin"), is_pushed(source)) == ((), False)
        assert push_command(source) == "git push origin main"
        repo.git("checkout", "--quiet", "--detach")
        detached = pin_at(repo.root)
        assert push_command(detached) == (
            f"git push origin {detached.commit[:12]}:refs/heads/<a new branch>"
        )

    def test_snapshot(self, repo: GitRepository) -> None:
        """A snapshot is on no branch, but with its patch what it stands on is enough."""
        repo.write("train.py", "edited\n")
        source = pin_at(repo.root, dirty="snapshot")
        assert remote_branches_with(source, "origin") == ()
        assert is_pushed(source) is True

    def test_no_remote(self, tmp_path: Path) -> None:
        """Without a remote there is nothing to say."""
        alone = init(tmp_path / "alone")
        alone.commit()
        source = pin_at(alone.root)
        assert is_pushed(source) is None
        assert remote_branches_with(source, "origin") == ()

    def test_any_remote(self, repo: GitRepository) -> None:
        """One remote of several is enough."""
        repo.git("remote", "add", "a_backup", "/nowhere")
        assert is_pushed(pin_at(repo.root)) is True
        assert remote_branches_with(pin_at(repo.root), "a_backup") == ()

    def test_similar_names(self, repo: GitRepository, remote: GitRepository) -> None:
        """A remote whose name begins like another's is not that one."""
        repo.git("remote", "add", "origin2", f"file://{remote.root}")
        repo.git("remote", "add", "origin/3", f"file://{remote.root}")
        repo.git("fetch", "--quiet", "origin2")
        repo.git("update-ref", "-d", "refs/remotes/origin/main")
        source = pin_at(repo.root)
        assert remote_branches_with(source, "origin") == ()
        assert remote_branches_with(source, "origin2") == ("main",)

    def test_refspecs(self, repo: GitRepository) -> None:
        """Where a remote's branches are kept is what its refspecs say."""
        repo.git("config", "remote.origin.fetch", "+refs/heads/ma*:refs/mine/ma*")
        repo.git("config", "--add", "remote.origin.fetch", "^refs/heads/old")
        repo.git("fetch", "--quiet", "origin")
        repo.git("update-ref", "-d", "refs/remotes/origin/main")
        assert remote_branches_with(pin_at(repo.root), "origin") == ("main",)

    def test_mirror(self, repo: GitRepository) -> None:
        """In a mirror the remote's branches are the user's own: they tell nothing."""
        repo.git("config", "remote.origin.fetch", "+refs/heads/*:refs/heads/*")
        repo.commit(train__py="pass\n")
        assert remote_branches_with(pin_at(repo.root), "origin") == ()

    def test_clone(self, repo: GitRepository, remote: GitRepository, tmp_path: Path) -> None:
        """The remote's HEAD is no branch of its own."""
        repo.git("clone", "--quiet", str(remote.root), str(tmp_path / "clone"))
        assert remote_branches_with(pin_at(tmp_path / "clone"), "origin") == ("main",)


class TestFetch:
    @pytest.fixture
    def clone(self, repo: GitRepository, remote: GitRepository, tmp_path: Path) -> GitRepository:
        """A clone from before the commits that are fetched into it."""
        repo.git("clone", "--quiet", f"file://{remote.root}", str(tmp_path / "clone"))
        return GitRepository(tmp_path / "clone")

    def seen(self, clone: GitRepository) -> dict[Path, tuple[int, int, bytes]]:
        """All files of a clone but for objects and this project's refs."""
        return {
            path: found
            for path, found in everything(clone.root).items()
            if not {"objects", "hydra-docker"} & set(path.parts)
        }

    @pytest.mark.parametrize("by", ["name", "url"])
    def test_by_id(
        self, repo: GitRepository, remote: GitRepository, clone: GitRepository, by: str
    ) -> None:
        """A commit that is on no branch any more is asked for by its id; a hidden ref keeps it."""
        commit = repo.commit(train__py="pass\n")
        repo.git("push", "--quiet", "origin", "main:gone")
        repo.git("push", "--quiet", "origin", "--delete", "gone")
        before = self.seen(clone)

        url = f"file://{remote.root}" if by == "url" else "origin"
        fetch(clone.root / "train.py", commit, remote=url, branch="main")

        assert self.seen(clone) == before
        clone.git("gc", "--quiet", "--prune=now")
        assert clone.git("for-each-ref", "--format=%(refname)", "refs/hydra-docker") == (
            f"{REFS}/{commit}"
        )
        noted = clone.git("log", "--walk-reflogs", "--format=%gs", f"{REFS}/{commit}")
        assert noted == "fetched by hydra/launcher=docker"
        assert exported(Source(clone.root, commit, None, None), clone.root.parent / "out") == {
            "train.py": b"pass\n"
        }

    @pytest.mark.parametrize("branch", ["side", "another", None])
    @pytest.mark.parametrize("ref", ["refs/heads/side", "refs/tags/v1"])
    def test_server_that_gives_no_ids(
        self, repo: GitRepository, clone: GitRepository, ref: str, branch: str | None
    ) -> None:
        """Where a server gives out only branches and tags, the one that has the commit is found."""
        clone.git("config", "protocol.version", "0")  # its servers do so by default
        commit = repo.commit(train__py="pass\n")
        repo.commit(train__py="a later one\n")
        repo.git("push", "--quiet", "origin", f"main:{ref}")
        before = self.seen(clone)

        fetch(clone.root, commit, remote="origin", branch=branch)

        assert clone.git("show", f"{commit}:train.py") == "pass"
        assert self.seen(clone) == before

    def test_here_already(self, repo: GitRepository) -> None:
        """What is here is not asked for: the remote may be out of reach."""
        fetch(repo.root, repo.git("rev-parse", "HEAD"), remote="/nowhere")
        assert repo.git("for-each-ref", "refs/hydra-docker") == ""

    def test_shallow(self, repo: GitRepository, remote: GitRepository, tmp_path: Path) -> None:
        """A shallow clone gets a commit from before its end, and stays shallow."""
        old = repo.git("rev-parse", "HEAD")
        repo.commit(train__py="pass\n")
        repo.git("push", "--quiet", "origin", "main")
        clone = GitRepository(tmp_path / "shallow")
        repo.git("clone", "--quiet", "--depth=1", f"file://{remote.root}", str(clone.root))
        fetch(clone.root, old, remote="origin")
        assert clone.git("show", f"{old}:train.py") == "print('hello')"
        assert clone.git("rev-parse", "--is-shallow-repository") == "true"

    def test_never_pushed(
        self, repo: GitRepository, remote: GitRepository, clone: GitRepository
    ) -> None:
        """A commit that the remote does not have is named, with what git says."""
        commit = repo.commit(train__py="pass\n")
        with pytest.raises(SourceError) as caught:
            fetch(clone.root, commit, remote=f"file://{remote.root}", branch="main")
        assert str(caught.value).startswith(
            f"Commit {commit} is not in {clone.root}, and file://{remote.root} does not give it: "
            "it was never pushed there, or that remote cannot be read from here."
        )

    def test_unreachable(self, clone: GitRepository) -> None:
        """A remote that does not answer is told apart by git's words, without its password."""
        with pytest.raises(SourceError) as caught:
            fetch(clone.root, "1" * 40, remote="https://ada:secret@localhost:1/code.git")
        assert "https://localhost:1/code.git" in str(caught.value)
        assert "Failed to connect" in str(caught.value) or "unable to access" in str(caught.value)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("remote_name", ["--upload-pack=touch /tmp/x", "ext::sh -c id"])
    def test_remote_that_is_none(self, clone: GitRepository, remote_name: str) -> None:
        """What a record says is a URL is no option, and no command to run."""
        with pytest.raises(SourceError, match="does not give it"):
            fetch(clone.root, "1" * 40, remote=remote_name)
