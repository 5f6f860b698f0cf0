"""Snapshot: the working tree as a commit on a hidden ref; nothing else of the user's changes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from git_repository import (
    COMMIT_TIME,
    GitRepository,
    content,
    everything,
    exported,
    init,
    isolate,
    pin_at,
)

from hydra_plugins.hydra_docker_launcher._errors import SourceError
from hydra_plugins.hydra_docker_launcher._source import (
    Source,
    commit_time,
    files,
    patch,
    require_file,
    restore_snapshot,
)

REFS = "refs/hydra-docker/snapshots"


@pytest.fixture(autouse=True)
def _only_this_git_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def repo(tmp_path: Path) -> GitRepository:
    """A repository with a committed script, and nothing uncommitted."""
    repository = init(tmp_path / "project")
    repository.commit(train__py="print('hello')\n", model__py="layers = 2\n")
    return repository


def snap(repository: GitRepository, **options: object) -> Source:
    return pin_at(repository.root, dirty="snapshot", **options)


def refused(repository: GitRepository, **options: object) -> str:
    with pytest.raises(SourceError) as caught:
        snap(repository, **options)
    return str(caught.value)


def working_tree(repository: GitRepository) -> dict[str, bytes | str]:
    """Every file and link outside git's own folders."""
    found = content(repository.root)
    return {name: data for name, data in found.items() if ".git" not in Path(name).parts}


def modes(root: Path) -> dict[str, bool]:
    """Which files below a folder, git's own left out, can be executed."""
    return {
        str(path.relative_to(root)): bool(path.stat().st_mode & 0o100)
        for path in root.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(root).parts
    }


def state(repository: GitRepository) -> dict[Path, tuple[int, int, bytes]]:
    """All files of a repository, git's included, but for objects and this project's refs."""
    own = ("objects", "hydra-docker")
    return {
        path: found
        for path, found in everything(repository.root).items()
        if not set(own) & set(path.relative_to(repository.root).parts)
    }


def hidden(repository: GitRepository) -> list[str]:
    return repository.git("for-each-ref", "--format=%(refname)", "refs/hydra-docker").splitlines()


class TestContent:
    def test_every_kind_of_change(self, repo: GitRepository, tmp_path: Path) -> None:
        """Edits, staged or not, deletions, modes, renames, links and new files are in it."""
        for name in ("edited", "deleted", "moved", "staged", "tool", "to_link", "to_folder/x"):
            repo.write(f"src/{name}.py", f"the file {name}, long enough to be told from others\n")
        repo.write("folder/to_file")
        repo.write("folder_to_link/inner.py")
        repo.write("unstaged.py", "committed, then only in the working tree\n")
        repo.commit(__gitignore="*.ckpt\n")
        repo.write("src/edited.py", "edited\n")
        (repo.root / "src" / "deleted.py").unlink()
        repo.git("mv", "src/moved.py", "src/elsewhere.py")
        repo.write("src/staged.py", "staged\n")
        repo.git("add", "src/staged.py")
        repo.write("src/staged.py", "edited once more\n")
        (repo.root / "src" / "tool.py").chmod(0o755)
        (repo.root / "src" / "to_link.py").unlink()
        (repo.root / "src" / "to_link.py").symlink_to("edited.py")
        shutil.rmtree(repo.root / "src" / "to_folder")
        repo.write("src/to_folder", "a file now\n")
        shutil.rmtree(repo.root / "folder")
        repo.write("folder", "a file now\n")
        repo.git("mv", "folder_to_link", "real")
        (repo.root / "folder_to_link").symlink_to("real")
        (repo.root / "model.py").unlink()
        repo.write("model.py/__init__.py", "a folder now\n")
        repo.git("rm", "--quiet", "--cached", "unstaged.py")
        repo.write("promised.py", "intent to add\n")
        repo.git("add", "--intent-to-add", "promised.py")
        repo.write("new/deep/file.py", "untracked\n")
        repo.write("new/run.sh", "#!/bin/sh\n").chmod(0o755)
        (repo.root / "broken").symlink_to("/nowhere")
        repo.write("weights.ckpt", "ignored")

        source = snap(repo)

        expected = working_tree(repo)
        del expected["weights.ckpt"]
        assert exported(source, tmp_path / "out") == expected
        ours = {name: bit for name, bit in modes(repo.root).items() if name in expected}
        assert modes(tmp_path / "out") == ours

    def test_source(self, repo: GitRepository) -> None:
        """The source is the snapshot, with the commit it stands on and the paths that differ."""
        parent = repo.git("rev-parse", "HEAD")
        repo.write("train.py", "print('edited')\n")
        repo.write("new\nline.py")
        source = snap(repo)
        assert source == Source(
            root=repo.root,
            commit=source.commit,
            branch="main",
            remote_url=None,
            parent=parent,
            changed=(r"'new\nline.py'", "train.py"),
        )
        assert (source.dirty, source.base) == (True, parent)
        assert commit_time(source) == COMMIT_TIME
        clean = pin_at(repo.root, dirty="ignore")
        assert (clean.dirty, clean.base) == (False, parent)

    def test_nothing_uncommitted(self, repo: GitRepository) -> None:
        """Without changes it is HEAD that runs, and no ref is made."""
        assert snap(repo) == pin_at(repo.root)
        assert hidden(repo) == []

    def test_only_the_index_differs(self, repo: GitRepository) -> None:
        """What was staged and then taken back in the working tree is no change."""
        repo.write("train.py", "staged\n")
        repo.git("add", "train.py")
        repo.write("train.py", "print('hello')\n")
        assert snap(repo) == Source(repo.root, repo.git("rev-parse", "HEAD"), "main", None)
        assert hidden(repo) == []

    def test_another_revision(self, repo: GitRepository) -> None:
        """Who names a commit that is not checked out gets that one."""
        old = repo.git("rev-parse", "HEAD")
        repo.commit(train__py="pass\n")
        repo.write("train.py", "being edited\n")
        assert snap(repo, revision=old) == Source(repo.root, old, None, None)

    def test_named_by_its_id(self, repo: GitRepository) -> None:
        """An earlier snapshot can be named as any commit, and is known as what it is."""
        repo.write("train.py", "edited\n")
        source = snap(repo)
        repo.write("train.py", "edited once more\n")
        named = pin_at(repo.root, source.commit[:10])
        assert named == replace(source, branch=None)
        assert patch(named) == patch(source)

    def test_the_same_commit_by_another_name(self, repo: GitRepository) -> None:
        """A tag of the commit that is checked out is the commit that is being edited."""
        repo.git("tag", "v1")
        repo.write("train.py", "being edited\n")
        assert snap(repo, revision="v1").commit == snap(repo).commit

    def test_odd_names(self, repo: GitRepository, tmp_path: Path) -> None:
        """Newlines, quotes, patterns, tabs and undecodable bytes do not get in the way."""
        names = [
            *("new\nline.py", 'quo"te.py', "tab\t.py", "größe 訓練.py", " led and trailed "),
            *("[a]*.py", ":(top)x", "-n", "a,b", os.fsdecode(b"latin-\xe9.py")),
        ]
        for name in names[::2]:
            repo.write(f"tracked/{name}", "committed\n")
        repo.commit()
        for name in names[::2]:
            repo.write(f"tracked/{name}", "edited\n")
        for name in names:
            repo.write(name, f"{len(name)}\n")
        source = snap(repo)
        assert exported(source, tmp_path / "out") == working_tree(repo)

    def test_edit_of_the_same_size_at_once(self, repo: GitRepository) -> None:
        """An edit that neither size nor time tells from the commit is found."""
        for text in ("a = 1\n", "a = 2\n"):
            file = repo.write("model.py", text)
            os.utime(file, (COMMIT_TIME, COMMIT_TIME))
            if text == "a = 1\n":
                repo.commit()
                os.utime(repo.root / ".git" / "index", (COMMIT_TIME, COMMIT_TIME))
        assert "modified: model.py" in str(refused_by_default(repo))
        assert snap(repo).changed == ("model.py",)

    def test_what_git_cannot_keep(self, repo: GitRepository, tmp_path: Path) -> None:
        """Pipes and sockets are left out; one in the place of a file is no file."""
        os.mkfifo(repo.root / "pipe")
        os.chdir(repo.root)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket")
        (repo.root / "model.py").unlink()
        os.mkfifo(repo.root / "model.py")
        (repo.root / "empty").mkdir()
        assert exported(snap(repo), tmp_path / "out") == {"train.py": b"print('hello')\n"}

    def test_modes_that_do_not_count(self, repo: GitRepository) -> None:
        """Where git is told not to look at modes, a snapshot does not."""
        repo.git("config", "core.fileMode", "false")
        (repo.root / "model.py").chmod(0o755)
        repo.write("train.py", "edited\n")
        assert snap(repo).changed == ("train.py",)

    def test_sparse_checkout(self, repo: GitRepository, tmp_path: Path) -> None:
        """Files that a sparse checkout leaves out of the working tree are not deleted by it."""
        repo.write("data/a.py", "x\n")
        repo.write("src/b.py", "y\n")
        repo.commit()
        repo.git("sparse-checkout", "set", "--cone", "--sparse-index", "src")
        repo.write("src/b.py", "edited\n")
        source = snap(repo)
        assert source.changed == ("src/b.py",)
        assert exported(source, tmp_path / "out")["data/a.py"] == b"x\n"

    def test_no_index(self, repo: GitRepository) -> None:
        """Where the index is gone, the files are compared with HEAD."""
        (repo.root / ".git" / "index").unlink()
        repo.write("train.py", "edited\n")
        assert snap(repo).changed == ("train.py",)
        assert not (repo.root / ".git" / "index").exists()

    def test_unreadable_index_features(self, repo: GitRepository) -> None:
        """A split index and an untracked cache work, and nothing is written beside them."""
        repo.git("update-index", "--split-index")
        repo.git("update-index", "--force-untracked-cache")
        repo.git("status")
        repo.write("train.py", "edited\n")
        before = state(repo).keys()
        assert snap(repo).changed == ("train.py",)
        assert state(repo).keys() == before


def refused_by_default(repository: GitRepository) -> str:
    with pytest.raises(SourceError) as caught:
        pin_at(repository.root)
    return str(caught.value)


class TestWhatGoesIn:
    def test_outputs_stay_out(self, repo: GitRepository, tmp_path: Path) -> None:
        """Output folders, tracking stores and bytecode are in no snapshot; config YAML is."""
        repo.commit(store__db="", conf__yaml="")
        repo.write("train.py", "edited\n")
        repo.write("store.db", "grown\n")
        repo.write("__pycache__/train.cpython-311.pyc")
        repo.write("multirun/1/multirun.yaml")
        repo.write("multirun/1/0/best.py")
        repo.write("outputs/2/.hydra/config.yaml")
        repo.write("outputs/2/.git/HEAD")
        repo.write("mine/0/train.log")
        repo.write("mlflow-store/mlflow.db")
        (repo.root / "mlflow.db").symlink_to("mlflow-store/mlflow.db")
        repo.write("conf/model.yaml", "lr: 1\n")
        own = (repo.root / "mine", repo.root / "store.db")
        source = snap(repo, config_dirs=(repo.root / "conf",), own_paths=own)
        assert source.changed == ("conf/model.yaml", "train.py")
        assert exported(source, tmp_path / "out")["store.db"] == b""

    def test_config_only(self, repo: GitRepository) -> None:
        """Where only config YAML and outputs have changed, HEAD is run."""
        repo.write("conf/model.yaml", "lr: 1\n")
        repo.write("multirun/1/multirun.yaml")
        head = repo.git("rev-parse", "HEAD")
        source = snap(repo, config_dirs=(repo.root / "conf",))
        assert source == Source(repo.root, head, "main", None)
        assert hidden(repo) == []

    def test_large_files(self, repo: GitRepository) -> None:
        """Large untracked files are refused, every one by name, and nothing is written."""
        repo.write("grown.py", "")
        repo.commit(__gitignore="*.ckpt\n")
        for name in ("b.bin", "data/größe.bin", "new\nline.bin"):
            repo.write(name, "x" * 2049)
        for name in ("just.bin", "best.ckpt", "multirun/0/.hydra/x", "multirun/0/x.bin"):
            repo.write(name, "x" * (2048 if name == "just.bin" else 4096))
        repo.write("grown.py", "x" * 4096)
        before = everything(repo.root)
        assert refused(repo, snapshot_limit=2048) == (
            f"{repo.root} has untracked files that are larger than "
            "hydra.launcher.snapshot_limit=2k:\n"
            "  b.bin (2k)\n"
            "  data/größe.bin (2k)\n"
            "  'new\\nline.bin' (2k)\n"
            "Files that are no code belong in .gitignore (jobs get data by "
            "hydra.launcher.volumes); for those that are, raise hydra.launcher.snapshot_limit, or "
            "commit them."
        )
        assert everything(repo.root) == before
        assert "b.bin" in snap(repo, snapshot_limit=2049).changed

    def test_nested_repository(self, repo: GitRepository) -> None:
        """A repository inside that is no submodule is refused by name; in outputs it stays out."""
        init(repo.root / "vendored").commit(a__py="")
        init(repo.root / "deep" / "empty")
        assert refused(repo) == (
            f"{repo.root} has git repositories in it that are not part of it, so a snapshot cannot "
            "hold their files:\n"
            "  deep/empty/\n"
            "  vendored/\n"
            "Add them with `git submodule add`, or to .gitignore."
        )
        assert hidden(repo) == []

    def test_ignored_script(self, repo: GitRepository) -> None:
        """A script that .gitignore names is in no snapshot, and the message says why."""
        repo.commit(__gitignore="scratch_*\n")
        script = repo.write("scratch_1.py")
        repo.write("train.py", "edited\n")
        source = snap(repo)
        with pytest.raises(SourceError) as caught:
            require_file(source, script)
        assert str(caught.value) == (
            f"{script} is not in the snapshot {source.commit[:10]} of the working tree: it is in "
            ".gitignore, or in a folder of outputs."
        )


class TestConversions:
    def test_line_endings(self, repo: GitRepository, tmp_path: Path) -> None:
        """What comes out has the bytes of the working tree, where a checkout would give them."""
        repo.write(".gitattributes", "*.txt text eol=crlf\n*.sh text eol=lf\n*.bin -text\n")
        repo.git("config", "core.safecrlf", "true")
        repo.commit()
        repo.write("dos.txt").write_bytes(b"a\r\nb\r\n")
        repo.write("unix.sh").write_bytes(b"a\nb\n")
        repo.write("any.bin").write_bytes(b"a\r\nb\nc\0\r")
        repo.write("plain.py").write_bytes(b"a\r\nb\n")
        assert exported(snap(repo), tmp_path / "out") == working_tree(repo)

    @pytest.mark.parametrize("autocrlf", ["true", "input"])
    def test_autocrlf(self, repo: GitRepository, tmp_path: Path, autocrlf: str) -> None:
        """core.autocrlf converts as in a commit; what it does not keep is no error."""
        repo.git("config", "core.autocrlf", autocrlf)
        repo.git("config", "core.safecrlf", "true")
        repo.write("new.py").write_bytes(b"a\r\nb\r\n")
        repo.write("bytes.npy").write_bytes(b"\0a\r\nb\n")
        result = exported(snap(repo), tmp_path / "out")
        assert result["new.py"] == (b"a\r\nb\r\n" if autocrlf == "true" else b"a\nb\n")
        assert result["bytes.npy"] == b"\0a\r\nb\n"

    def test_attributes_of_archives(self, repo: GitRepository, tmp_path: Path) -> None:
        """``export-ignore`` and ``export-subst`` do not count; attributes not yet committed do."""
        repo.write(".gitattributes", "secret.py export-ignore\nversion.py export-subst\n")
        repo.write("secret.py", "x = 1\n")
        repo.write("version.py", "version = '$Format:%H$'\n")
        assert exported(snap(repo), tmp_path / "out") == working_tree(repo)

    def test_filters(self, repo: GitRepository, tmp_path: Path) -> None:
        """Filters clean what goes in, and smudge what comes out."""
        repo.git("config", "filter.shout.clean", "tr A-Z a-z")
        repo.git("config", "filter.shout.smudge", "tr a-z A-Z")
        repo.write(".gitattributes", "*.loud filter=shout\n")
        repo.write("word.loud", "HELLO\n")
        source = snap(repo)
        assert repo.git("show", f"{source.commit}:word.loud") == "hello"
        assert exported(source, tmp_path / "out") == working_tree(repo)

    def test_failing_filter(self, repo: GitRepository) -> None:
        """A filter that must work and does not is an error that names the file."""
        repo.write(".gitattributes", "*.secret filter=broken\n")
        repo.git("config", "filter.broken.clean", "false")
        repo.git("config", "filter.broken.required", "true")
        repo.write("a.secret", "hello\n")
        message = refused(repo)
        assert message.startswith(f"`git update-index` failed in {repo.root}:\n")
        assert "a.secret" in message
        assert hidden(repo) == []

    def test_lfs(self, repo: GitRepository, tmp_path: Path) -> None:
        """With git-lfs the snapshot has a pointer, and what comes out the contents."""
        fake_lfs(repo, tmp_path / "lfs")
        repo.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
        repo.write("weights.bin", "the weights\n")
        source = snap(repo)
        assert repo.git("show", f"{source.commit}:weights.bin").startswith(
            "version https://git-lfs.github.com/spec/v1\n"
        )
        assert exported(source, tmp_path / "out") == working_tree(repo)

    def test_without_lfs(self, repo: GitRepository) -> None:
        """Without git-lfs a file of its is refused by name, before git would take it as it is."""
        repo.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
        repo.commit()
        repo.write("data/weights.bin", "the weights\n")
        repo.write("small.py")
        before = everything(repo.root)
        assert refused(repo) == (
            f"{repo.root} has changed files that belong in Git LFS, and git-lfs is not set up "
            "here:\n"
            "  data/weights.bin\n"
            "Install git-lfs, then run `git lfs install`."
        )
        assert everything(repo.root) == before


def fake_lfs(repository: GitRepository, store: Path) -> None:
    """Set up what git-lfs does: contents in a store of their own, pointers in git."""
    store.mkdir()
    clean = (
        f"cd {store} && cat > new && oid=$(sha256sum < new | cut -d' ' -f1) && "
        "size=$(wc -c < new) && mv new $oid && "
        "printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:%s\\nsize %s\\n' "
        "$oid $size"
    )
    smudge = f"cd {store} && cat $(sed -n 's/^oid sha256://p')"
    repository.git("config", "filter.lfs.clean", clean)
    repository.git("config", "filter.lfs.smudge", smudge)
    repository.git("config", "filter.lfs.required", "true")


class TestInTheMiddleOfSomething:
    @pytest.fixture
    def two_branches(self, repo: GitRepository) -> GitRepository:
        """``main`` and ``side`` have edited, deleted and added the same files each in its way."""
        repo.commit(both__py="0\n", gone_here__py="0\n", gone_there__py="0\n")
        repo.git("checkout", "--quiet", "-b", "side")
        (repo.root / "gone_there.py").unlink()
        repo.commit(both__py="side\n", gone_here__py="side\n", added__py="side\n", new__py="1\n")
        repo.git("checkout", "--quiet", "main")
        (repo.root / "gone_here.py").unlink()
        repo.commit(both__py="main\n", gone_there__py="main\n", added__py="main\n")
        return repo

    @pytest.mark.parametrize(
        "command",
        [
            ("merge", "side"),
            ("rebase", "side"),
            ("cherry-pick", "side"),
            ("revert", "HEAD~1"),
            ("stash",),
            ("bisect", "start"),
        ],
        ids=lambda command: command[0],
    )
    def test_conflicts(
        self, two_branches: GitRepository, tmp_path: Path, command: tuple[str, ...]
    ) -> None:
        """The files are taken as they lie there, and what is in progress can go on."""
        two_branches.write("model.py", "not in the stash\n" if command[0] != "stash" else "in it\n")
        if command[0] != "stash":
            two_branches.commit()
        try_git(two_branches, *command)
        two_branches.write("train.py", "edited in the middle\n")
        before, status = state(two_branches), status_of(two_branches)

        source = snap(two_branches)

        assert state(two_branches) == before
        assert status_of(two_branches) == status
        assert source.parent == two_branches.git("rev-parse", "HEAD")
        assert exported(source, tmp_path / "out") == working_tree(two_branches)

    def test_resolved_by_deleting(self, two_branches: GitRepository, tmp_path: Path) -> None:
        """A file in conflict that is not in the working tree is not in the snapshot."""
        try_git(two_branches, "merge", "side")
        (two_branches.root / "both.py").unlink()
        assert exported(snap(two_branches), tmp_path / "out") == working_tree(two_branches)
        assert "both.py" not in working_tree(two_branches)

    def test_conflict_in_an_output(self, two_branches: GitRepository, tmp_path: Path) -> None:
        """A conflict in a file that stays out otherwise does not get in the way."""
        try_git(two_branches, "merge", "side")
        own = (two_branches.root / "both.py",)
        source = snap(two_branches, own_paths=own)
        assert exported(source, tmp_path / "out") == working_tree(two_branches)


def try_git(repository: GitRepository, *command: str) -> None:
    """Run a command that may stop at a conflict."""
    subprocess.run(("git", *command), cwd=repository.root, check=False, capture_output=True)


def status_of(repository: GitRepository) -> str:
    return repository.git("--no-optional-locks", "status", "--porcelain=v2", "--branch", "-z")


class TestNothingElseChanges:
    def test_all_files(self, repo: GitRepository, tmp_path: Path) -> None:
        """Index, HEAD, branches, reflogs, stash, settings and files keep every byte and time.

        That another git command has locked them does not matter.
        """
        repo.write("model.py", "stashed\n")
        repo.git("stash")
        repo.write("train.py", "staged\n")
        repo.git("add", "train.py")
        repo.write("train.py", "edited\n")
        repo.write("new.py")
        log = tmp_path / "hook-ran"
        hooks = (
            *("pre-commit", "commit-msg", "post-commit", "prepare-commit-msg", "pre-auto-gc"),
            *("post-index-change", "post-checkout", "reference-transaction", "fsmonitor-watchman"),
        )
        for hook in hooks:
            repo.write(f".git/hooks/{hook}", f"#!/bin/sh\necho {hook} >> {log}\n").chmod(0o755)
        repo.git("config", "core.fsmonitor", f"touch {log}; false")
        repo.git("config", "commit.gpgSign", "true")
        repo.git("config", "gpg.program", "false")
        log.unlink(missing_ok=True)
        for busy in ("index", "HEAD", "packed-refs"):
            repo.write(f".git/{busy}.lock")
        before = state(repo)

        source = snap(repo)

        assert state(repo) == before
        assert not log.exists()
        assert hidden(repo) == [f"{REFS}/{source.commit}"]

    def test_plain_commands_do_not_show_it(self, repo: GitRepository, tmp_path: Path) -> None:
        """It is no branch, no tag, not pushed and not cloned."""
        repo.write("train.py", "edited\n")
        source = snap(repo)
        remote = GitRepository(tmp_path / "remote")
        repo.git("init", "--quiet", "--bare", str(remote.root))
        repo.git("push", "--quiet", "--all", str(remote.root))
        repo.git("push", "--quiet", "--tags", str(remote.root))
        repo.git("clone", "--quiet", f"file://{repo.root}", str(tmp_path / "clone"))
        assert repo.git("branch", "--all") == "* main"
        assert repo.git("tag") == ""
        for other in (remote, GitRepository(tmp_path / "clone")):
            assert hidden(other) == []
            with pytest.raises(subprocess.CalledProcessError):
                other.git("cat-file", "-e", source.commit)

    def test_garbage_collection(self, repo: GitRepository, tmp_path: Path) -> None:
        """`git gc --prune=now` keeps it, when nothing else leads to its files any more."""
        repo.write("train.py", "edited\n")
        source = snap(repo)
        repo.git("checkout", "--quiet", "train.py")
        repo.git("reflog", "expire", "--all", "--expire=now")
        repo.git("gc", "--quiet", "--prune=now")
        repo.git("pack-refs", "--all")
        assert exported(source, tmp_path / "out")["train.py"] == b"edited\n"

    def test_age(self, repo: GitRepository) -> None:
        """The hidden ref's reflog tells when a snapshot was made: its own date is its parent's."""
        repo.git("config", "core.logAllRefUpdates", "false")
        repo.write("train.py", "edited\n")
        (repo.root / "clock").touch()
        now = int((repo.root / "clock").stat().st_mtime)
        (repo.root / "clock").unlink()
        ref = f"{REFS}/{snap(repo).commit}"
        (made,) = repo.git("reflog", "show", "--format=%gd", "--date=unix", ref).splitlines()
        assert now <= int(made.partition("@{")[2].removesuffix("}")) <= now + 60
        assert repo.git("log", "-1", "--format=%ct", ref) == str(COMMIT_TIME)


PROGRAM = """
import sys
from pathlib import Path
from hydra_plugins.hydra_docker_launcher._source import pin
sys.stdin.read()
print(pin(
    Path(sys.argv[1]), revision="HEAD", dirty="snapshot", snapshot_limit=100, config_dirs=(),
    own_paths=(),
).commit)
"""


class TestSameSnapshot:
    def test_known_id(self, repo: GitRepository) -> None:
        """The id follows from tree and parent alone, so it is the same for ever."""
        repo.write("train.py", "edited\n")
        source = snap(repo)
        assert source.parent == "25a8d93550cc9a1a58437444f3e75dbfdab52895"
        assert source.commit == "a1aa1d98ff57b4e17ce7609e2eecb72d33693eff"
        assert repo.git("cat-file", "commit", source.commit) == (
            f"tree {repo.git('rev-parse', source.commit + '^{tree}')}\n"
            f"parent {source.parent}\n"
            "author hydra-docker-launcher <snapshot@hydra-docker-launcher.invalid> "
            f"{COMMIT_TIME} +0000\n"
            "committer hydra-docker-launcher <snapshot@hydra-docker-launcher.invalid> "
            f"{COMMIT_TIME} +0000\n"
            "\n"
            f"Uncommitted changes on {source.parent}\n"
            "\n"
            "The working tree as hydra/launcher=docker found it (hydra.launcher.dirty=snapshot)."
        )

    def test_again(self, repo: GitRepository, monkeypatch: pytest.MonkeyPatch) -> None:
        """The same content gives the same commit: staged or not, later, by somebody else."""
        repo.write("train.py", "edited\n")
        repo.write("new.py")
        first = snap(repo)
        repo.git("add", "--all")
        os.utime(repo.root / "train.py", (COMMIT_TIME, COMMIT_TIME))
        repo.git("config", "i18n.commitEncoding", "latin1")
        repo.git("config", "user.name", "Berta")
        monkeypatch.setenv("GIT_AUTHOR_NAME", "Berta")
        monkeypatch.setenv("GIT_COMMITTER_DATE", "1800000000 +0900")
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        assert snap(repo) == first
        assert hidden(repo) == [f"{REFS}/{first.commit}"]
        repo.write("new.py", "x")
        second = snap(repo)
        assert second.commit != first.commit
        assert len(hidden(repo)) == 2

    def test_two_sweeps_at_once(self, repo: GitRepository) -> None:
        """Sweeps that start at the same time get the same commit, and one ref."""
        repo.write("train.py", "edited\n")
        for number in range(20):
            repo.write(f"new-{number}.py", f"{number}\n")
        before = state(repo)
        command = (sys.executable, "-c", PROGRAM, str(repo.root))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes = [
            subprocess.Popen(command, env=environment, text=True, **pipes) for _ in range(4)
        ]
        for process in processes:
            process.stdin.close()
        answers = {process.stdout.read().strip() for process in processes}
        errors = "".join(process.stderr.read() for process in processes)
        assert [process.wait() for process in processes] == [0] * 4, errors
        (commit,) = answers
        assert hidden(repo) == [f"{REFS}/{commit}"]
        assert state(repo) == before
        assert repo.git("fsck", "--strict") == ""


def detached(repo: GitRepository, folder: Path) -> GitRepository:
    repo.git("checkout", "--quiet", "--detach")
    return repo


def shallow(repo: GitRepository, folder: Path) -> GitRepository:
    repo.commit(model__py="layers = 3\n")
    repo.git("clone", "--quiet", "--depth=1", f"file://{repo.root}", str(folder / "clone"))
    return GitRepository(folder / "clone")


def worktree(repo: GitRepository, folder: Path) -> GitRepository:
    repo.git("worktree", "add", "--quiet", "-b", "side", str(folder / "side"))
    repo.write("model.py", "changed in the main working tree\n")
    return GitRepository(folder / "side")


def worktree_of_a_bare_one(repo: GitRepository, folder: Path) -> GitRepository:
    repo.git("clone", "--quiet", "--bare", str(repo.root), str(folder / "bare.git"))
    bare = GitRepository(folder / "bare.git")
    bare.git("worktree", "add", "--quiet", "-b", "side", str(folder / "side"))
    return GitRepository(folder / "side")


def in_a_submodule(repo: GitRepository, folder: Path) -> GitRepository:
    around = init(folder / "around")
    around.add_submodule(repo, "libs/project")
    around.commit()
    return GitRepository(around.root / "libs" / "project")


def with_remote(repo: GitRepository, folder: Path) -> GitRepository:
    repo.git("clone", "--quiet", str(repo.root), str(folder / "clone"))
    return GitRepository(folder / "clone")


def partial(repo: GitRepository, folder: Path) -> GitRepository:
    repo.git("config", "uploadpack.allowFilter", "true")
    url = f"file://{repo.root}"
    repo.git("clone", "--quiet", "--filter=blob:none", url, str(folder / "clone"))
    return GitRepository(folder / "clone")


def name_clash(repo: GitRepository, folder: Path) -> GitRepository:
    repo.git("tag", "main")
    return repo


def renamed_root(repo: GitRepository, folder: Path) -> GitRepository:
    root = folder / "meine Läufe $HOME\n訓練"
    repo.root.rename(root)
    return GitRepository(root)


def empty_commit(repo: GitRepository, folder: Path) -> GitRepository:
    empty = init(folder / "empty")
    empty.commit()
    empty.commit()
    return empty


def sha256(repo: GitRepository, folder: Path) -> GitRepository:
    (folder / "sha256").mkdir()
    other = GitRepository(folder / "sha256")
    other.git("init", "--quiet", "--object-format=sha256")
    other.commit(train__py="print('hello')\n")
    return other


def linked_git_dir(repo: GitRepository, folder: Path) -> GitRepository:
    (repo.root / ".git").rename(folder / "elsewhere.git")
    repo.write(".git", f"gitdir: {folder / 'elsewhere.git'}\n")
    return repo


def merge_commit(repo: GitRepository, folder: Path) -> GitRepository:
    repo.git("checkout", "--quiet", "-b", "side")
    repo.commit(side__py="")
    repo.git("checkout", "--quiet", "main")
    repo.git("merge", "--quiet", "--no-ff", "--no-edit", "side")
    return repo


KINDS = (
    *(detached, shallow, worktree, worktree_of_a_bare_one, in_a_submodule, with_remote),
    *(partial, name_clash, renamed_root, empty_commit, sha256, linked_git_dir, merge_commit),
)


class TestOddRepositories:
    @pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
    def test_kinds(
        self,
        repo: GitRepository,
        tmp_path: Path,
        make: Callable[[GitRepository, Path], GitRepository],
    ) -> None:
        """Commit and snapshot come out as the working tree was; the patch leads between them."""
        odd = make(repo, tmp_path)
        clean = pin_at(odd.root)
        assert clean.commit == odd.git("rev-parse", "HEAD@{0}")
        assert exported(clean, tmp_path / "clean") == working_tree(odd)
        odd.write("train.py", "print('edited')\n")
        odd.write("new file.py", "x = 1\n")
        (odd.root / "model.py").unlink(missing_ok=True)
        before = state(odd)

        source = snap(odd)

        assert state(odd) == before
        assert (source.parent, source.branch) == (clean.commit, clean.branch)
        assert exported(source, tmp_path / "snapshot") == working_tree(odd)
        changes = patch(source)
        odd.git("update-ref", "-d", f"{REFS}/{source.commit}")
        odd.git("reset", "--quiet", "--hard")
        odd.git("clean", "--quiet", "-d", "--force")
        odd.git("prune", "--expire=now")
        with pytest.raises(subprocess.CalledProcessError):
            odd.git("cat-file", "-e", source.commit)
        assert restore_snapshot(source, changes) == source
        assert exported(source, tmp_path / "restored") == content(tmp_path / "snapshot")

    def test_repository_of_another_user(
        self, repo: GitRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is refused by git until the user trusts it, and then as any other."""
        repo.write("train.py", "edited\n")
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own test hook
        assert f"git config --global --add safe.directory {repo.root}" in refused(repo)
        with Path(os.environ["GIT_CONFIG_GLOBAL"]).open("a") as config:
            config.write(f"[safe]\n\tdirectory = {repo.root}\n")
        assert exported(pin_at(repo.root, dirty="ignore"), tmp_path / "clean") == {
            "train.py": b"print('hello')\n",
            "model.py": b"layers = 2\n",
        }
        assert exported(snap(repo), tmp_path / "out") == working_tree(repo)

    def test_no_name_of_the_user(
        self, repo: GitRepository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody needs to have told git a name."""
        for role in ("AUTHOR", "COMMITTER"):
            for key in ("NAME", "EMAIL", "DATE"):
                monkeypatch.delenv(f"GIT_{role}_{key}")
        repo.git("config", "user.useConfigOnly", "true")
        repo.write("train.py", "edited\n")
        assert snap(repo).changed == ("train.py",)

    def test_no_commit(self, tmp_path: Path) -> None:
        """A snapshot stands on a commit: a repository without any asks for a first one."""
        new = init(tmp_path / "new")
        new.write("train.py")
        assert refused(new) == (
            f"{new.root} has no commit yet: run `git add` and `git commit` there."
        )

    def test_inside_a_git_hook(
        self, repo: GitRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a hook finds in its environment does not lead to another repository or index."""
        repo.write("train.py", "edited\n")
        expected = snap(repo)
        other = init(tmp_path / "other")
        other.commit(other__py="")
        before = everything(other.root)
        for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
            monkeypatch.setenv(name, str(other.root / ".git"))
        assert snap(repo) == expected
        assert everything(other.root) == before


class TestPatch:
    def test_of_a_commit(self, repo: GitRepository) -> None:
        """A commit that is no snapshot has none, and nothing to restore."""
        source = pin_at(repo.root)
        assert patch(source) is None
        with pytest.raises(SourceError, match="is no snapshot"):
            restore_snapshot(source, b"")

    def test_applied_by_hand(self, repo: GitRepository, tmp_path: Path) -> None:
        """`git apply --index` on the parent gives the snapshot's tree, whatever is in the files."""
        repo.write("bytes.bin").write_bytes(bytes(range(256)))
        repo.write("latin.py").write_bytes("größe\r\n".encode("latin-1"))
        repo.write("no_newline.py", "x")
        repo.write("trailing.py", "x  \n\n\n")
        repo.commit()
        parent = repo.git("rev-parse", "HEAD")
        repo.write("bytes.bin").write_bytes(bytes(range(255, -1, -1)) * 20)
        repo.write("latin.py").write_bytes("größer\r\n\ralone\r\n".encode("latin-1"))
        repo.write("no_newline.py", "y")
        repo.write("trailing.py", "x \t \n\n\n\n#| not a section\n")
        repo.write(os.fsdecode(b"caf\xe9 \xff\n.py"), "#|= {}\n")
        repo.write("empty.py")
        repo.write("run.sh").chmod(0o755)
        (repo.root / "link").symlink_to("größe")
        (repo.root / "model.py").unlink()
        source = snap(repo)
        repo.git("clone", "--quiet", str(repo.root), str(tmp_path / "clone"))
        clone = GitRepository(tmp_path / "clone")
        (tmp_path / "changes.patch").write_bytes(patch(source))

        clone.git("checkout", "--quiet", parent)
        clone.git("apply", "--index", str(tmp_path / "changes.patch"))

        assert clone.git("write-tree") == repo.git("rev-parse", f"{source.commit}^{{tree}}")
        assert working_tree(clone) == working_tree(repo)

    def test_settings_of_the_user(
        self, repo: GitRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """How the user likes to see a diff does not change the patch."""
        repo.write("model.py", "layers = 3\n\n\n\nx = 1\n")
        repo.commit()
        repo.write("model.py", "layers = 3\n\n\n\nx = 2\n")
        source = snap(repo)
        expected = patch(source)
        (tmp_path / "order").write_text("*.py\n")
        for name, value in {
            "diff.external": "echo external",
            "diff.noprefix": "true",
            "diff.mnemonicPrefix": "true",
            "diff.context": "1",
            "diff.suppressBlankEmpty": "true",
            "diff.renames": "copies",
            "diff.algorithm": "patience",
            "diff.wordRegex": ".",
            "diff.relative": "true",
            "diff.orderFile": str(tmp_path / "order"),
            "diff.py.textconv": "echo converted",
            "diff.py.command": "echo commanded",
            "color.ui": "always",
            "color.diff": "always",
            "core.pager": "echo paged",
            "core.quotePath": "false",
            "core.abbrev": "4",
            "apply.whitespace": "fix",
        }.items():
            repo.git("config", name, value)
        repo.write(".git/info/attributes", "*.py diff=py\n")
        monkeypatch.setenv("GIT_EXTERNAL_DIFF", "echo external")
        monkeypatch.setenv("GIT_DIFF_OPTS", "--unified=0")
        assert patch(source) == expected
        assert expected.decode() == (
            "diff --git a/model.py b/model.py\n"
            f"index {repo.git('rev-parse', 'HEAD:model.py')}.."
            f"{repo.git('rev-parse', f'{source.commit}:model.py')} 100644\n"
            "--- a/model.py\n"
            "+++ b/model.py\n"
            "@@ -2,4 +2,4 @@ layers = 3\n"
            " \n"
            " \n"
            " \n"
            "-x = 1\n"
            "+x = 2\n"
        )

    def test_restored_in_another_clone(self, repo: GitRepository, tmp_path: Path) -> None:
        """Parent and patch give the very same commit elsewhere, and change nothing else there."""
        repo.write("train.py", "edited\n")
        repo.write("new.py", "trailing \n")
        source = snap(repo)
        repo.git("clone", "--quiet", f"file://{repo.root}", str(tmp_path / "clone"))
        clone = GitRepository(tmp_path / "clone")
        clone.git("config", "apply.whitespace", "error")
        clone.git("config", "core.autocrlf", "true")
        clone.write("train.py", "being edited there\n")
        before = state(clone)

        there = restore_snapshot(replace(source, root=clone.root), patch(source))

        assert there == replace(source, root=clone.root)
        assert state(clone) == before
        assert hidden(clone) == [f"{REFS}/{source.commit}"]
        assert files(there) == {"train.py", "model.py", "new.py"}
        assert restore_snapshot(there, b"not looked at: it is here") == there

    def test_another_patch(self, repo: GitRepository, tmp_path: Path) -> None:
        """A patch that gives something else, or does not apply, is refused, and leaves no ref."""
        repo.git("clone", "--quiet", f"file://{repo.root}", str(tmp_path / "clone"))
        repo.write("train.py", "edited\n")
        source = snap(repo)
        there = replace(source, root=tmp_path / "clone")
        changed = patch(source).replace(b"+edited", b"+changed")
        with pytest.raises(SourceError) as caught:
            restore_snapshot(there, changed)
        assert str(caught.value).startswith(
            f"The patch on commit {source.parent[:10]} does not give the snapshot "
            f"{source.commit[:10]} but "
        )
        with pytest.raises(SourceError, match="`git apply` failed"):
            restore_snapshot(there, patch(source).replace(b"-print", b"-prunt"))
        assert hidden(GitRepository(tmp_path / "clone")) == []

    def test_no_parent(self, repo: GitRepository, tmp_path: Path) -> None:
        """Where the parent is missing, the message says so."""
        repo.git("clone", "--quiet", f"file://{repo.root}", str(tmp_path / "clone"))
        repo.commit(model__py="x")
        repo.write("train.py", "edited\n")
        source = snap(repo)
        with pytest.raises(SourceError) as caught:
            restore_snapshot(replace(source, root=tmp_path / "clone"), patch(source))
        assert str(caught.value) == (
            f"Commit {source.parent[:10]}, which the snapshot {source.commit[:10]} was made on, is "
            f"not in {tmp_path / 'clone'}: fetch it first."
        )


class TestSubmodules:
    @pytest.fixture
    def nested(self, repo: GitRepository, tmp_path: Path) -> GitRepository:
        """``repo`` with a submodule, libs/library, that has one itself, inner."""
        inner = init(tmp_path / "inner")
        inner.commit(deep__py="deep = 1\n")
        library = init(tmp_path / "library")
        library.commit(core__py="x = 1\n")
        library.add_submodule(inner, "inner")
        library.commit()
        repo.add_submodule(library, "libs/library")
        repo.git("submodule", "--quiet", "update", "--init", "--recursive")
        repo.git("config", "-f", ".gitmodules", "submodule.libs/library.ignore", "all")
        repo.commit()
        return repo

    @pytest.mark.parametrize("name", ["core.py", "new.py", "inner/deep.py", "inner/new.py"])
    def test_changes_inside(self, nested: GitRepository, tmp_path: Path, name: str) -> None:
        """What is uncommitted inside a submodule is in a snapshot of its own, to any depth."""
        library = GitRepository(nested.root / "libs" / "library")
        (library.root / name).write_text("edited\n")
        nested.write("train.py", "edited\n")
        before = state(nested)

        source = snap(nested)

        assert state(nested) == before
        assert source.changed == (f"libs/library/{name}", "train.py")
        inside = nested.git("rev-parse", f"{source.commit}:libs/library")
        assert hidden(library) == [f"{REFS}/{inside}"]
        assert exported(source, tmp_path / "out") == working_tree(nested)
        assert snap(nested) == source

    def test_restored_in_another_clone(self, nested: GitRepository, tmp_path: Path) -> None:
        """The patch has the submodules' changes in it, and makes them again in another clone."""
        nested.write("libs/library/core.py", "edited\r\n")
        nested.write("libs/library/new.py").write_bytes(bytes(range(256)))
        nested.write("libs/library/inner/deep.py", "edited\n\n")
        nested.write("train.py", "edited\n")
        source = snap(nested)
        text = patch(source)
        clone = GitRepository(tmp_path / "clone")
        nested.git("clone", "--quiet", f"file://{nested.root}", str(clone.root))
        there = replace(source, root=clone.root)
        with pytest.raises(SourceError, match="`git submodule update --init --recursive`"):
            restore_snapshot(there, text)
        clone.git("submodule", "--quiet", "update", "--init", "--recursive")

        assert restore_snapshot(there, text) == there

        assert exported(there, tmp_path / "out") == working_tree(nested)
        (tmp_path / "changes.patch").write_bytes(text)
        clone.git("apply", "--index", str(tmp_path / "changes.patch"))
        assert clone.git("write-tree") == nested.git("rev-parse", f"{source.commit}^{{tree}}")

    def test_another_commit(self, nested: GitRepository, tmp_path: Path) -> None:
        """A submodule with another commit checked out is at that one; a new commit needs no ref."""
        library = GitRepository(nested.root / "libs" / "library")
        commit = library.commit(core__py="x = 2\n")
        source = snap(nested)
        assert nested.git("rev-parse", f"{source.commit}:libs/library") == commit
        assert source.changed == ("libs/library",)
        assert hidden(library) == []
        assert exported(source, tmp_path / "out")["libs/library/core.py"] == b"x = 2\n"

    def test_added_and_removed(self, nested: GitRepository, tmp_path: Path) -> None:
        """A submodule that is added but not committed is in it; one that is gone is not."""
        other = init(tmp_path / "other")
        other.commit(other__py="")
        nested.add_submodule(other, "libs/other")
        shutil.rmtree(nested.root / "libs" / "library")
        assert exported(snap(nested), tmp_path / "out") == working_tree(nested)

    def test_outputs_inside(self, nested: GitRepository) -> None:
        """Outputs and bytecode inside a submodule stay out."""
        nested.write("train.py", "edited\n")
        nested.write("libs/library/__pycache__/core.pyc")
        nested.write("libs/library/outputs/1/.hydra/config.yaml")
        nested.write("libs/library/mine/0/log")
        own = (nested.root / "libs" / "library" / "mine",)
        assert snap(nested, own_paths=own).changed == ("train.py",)

    def test_large_files_inside(self, nested: GitRepository) -> None:
        """A large untracked file inside a submodule is refused by its path from the root."""
        nested.write("libs/library/inner/big.bin", "x" * 3000)
        assert "\n  libs/library/inner/big.bin (2.9k)\n" in refused(nested, snapshot_limit=2048)

    def test_not_initialised(self, nested: GitRepository, tmp_path: Path) -> None:
        """A submodule that was never checked out stays at its recorded commit."""
        nested.git("clone", "--quiet", str(nested.root), str(tmp_path / "clone"))
        clone = GitRepository(tmp_path / "clone")
        clone.write("train.py", "edited\n")
        assert snap(clone).changed == ("train.py",)
