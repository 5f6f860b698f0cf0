"""Source: pinning a revision, what counts as uncommitted, and the export of a commit's files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

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
    export,
    files,
    read_text,
    read_texts,
    require_file,
    tree,
)

LFS_POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


@pytest.fixture(autouse=True)
def _only_this_git_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def repo(tmp_path: Path) -> GitRepository:
    """A repository with a committed script, and nothing uncommitted."""
    repository = init(tmp_path / "project")
    repository.commit(train__py="print('hello')\n", model__py="layers = 2\n")
    return repository


def left_out(repository: GitRepository, *config_dirs: Path, own: tuple[Path, ...] = ()) -> set[str]:
    source = pin_at(repository.root, dirty="ignore", config_dirs=config_dirs, own_paths=own)
    return set(source.left_out)


def error_of(location: Path, revision: str = "HEAD") -> str:
    with pytest.raises(SourceError) as caught:
        pin_at(location, revision)
    return str(caught.value)


def listed_changes(repository: GitRepository) -> list[str]:
    """The lines of the error for uncommitted changes that name one."""
    lines = error_of(repository.root).splitlines()
    return [line.strip() for line in lines if line.startswith("  ")]


class TestPin:
    def test_script(self, repo: GitRepository) -> None:
        """A script is pinned to the commit that is checked out in its repository."""
        assert pin_at(repo.root / "train.py") == Source(
            root=repo.root, commit=repo.git("rev-parse", "HEAD"), branch="main", remote_url=None
        )

    def test_folder_below_the_root(self, repo: GitRepository) -> None:
        """A location deep in the tree belongs to the repository around it."""
        repo.write("src/deep/a.py")
        commit = repo.commit()
        assert pin_at(repo.root / "src" / "deep") == Source(repo.root, commit, "main", None)

    def test_linked_script(self, repo: GitRepository, tmp_path: Path) -> None:
        """A script that is reached by a link belongs to the repository of its real path."""
        link = tmp_path / "train.py"
        link.symlink_to(repo.root / "train.py")
        assert pin_at(link).root == repo.root

    def test_revisions(self, repo: GitRepository) -> None:
        """A revision is what git understands: branch, tag, annotated tag, short id, ancestor."""
        first = repo.git("rev-parse", "HEAD")
        repo.git("tag", "light")
        repo.git("tag", "--annotate", "annotated", "--message", "a release")
        repo.git("branch", "feature/x")
        second = repo.commit(train__py="print('changed')\n")
        revisions = (
            "light",
            "annotated",
            "feature/x",
            first[:8],
            first,
            "HEAD~1",
            "HEAD^",
            "main~",
        )
        assert {pin_at(repo.root, revision).commit for revision in revisions} == {first}
        assert {pin_at(repo.root, revision).commit for revision in ("main", "@")} == {second}

    def test_branch(self, repo: GitRepository) -> None:
        """The branch is the one that was named, else the one that is checked out at the commit."""
        repo.git("branch", "other")
        repo.git("tag", "old")
        assert pin_at(repo.root, "old").branch == "main"
        assert pin_at(repo.root, "other").branch == "other"
        repo.commit(train__py="pass\n")
        assert pin_at(repo.root, "old").branch is None
        assert pin_at(repo.root, "other").branch == "other"

    def test_detached_head(self, repo: GitRepository) -> None:
        """With a detached HEAD there is no branch."""
        commit = repo.git("rev-parse", "HEAD")
        repo.git("checkout", "--quiet", "--detach")
        assert pin_at(repo.root) == Source(repo.root, commit, None, None)

    def test_worktree(self, repo: GitRepository, tmp_path: Path) -> None:
        """A linked worktree is a root of its own, with its own branch and its own changes."""
        repo.git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
        side = GitRepository(tmp_path / "side")
        repo.write("model.py", "changed in the main working tree")
        commit = side.commit(train__py="pass\n")
        source = pin_at(side.root / "train.py")
        assert source == Source(side.root, commit, "side", None)
        assert exported(source, tmp_path / "out") == {
            "train.py": b"pass\n",
            "model.py": b"layers = 2\n",
        }

    def test_shallow_clone(self, repo: GitRepository, tmp_path: Path) -> None:
        """A shallow clone has its last commit; for an older one the error says how to get it."""
        commit = repo.commit(train__py="pass\n")
        repo.git("clone", "--quiet", "--depth=1", f"file://{repo.root}", str(tmp_path / "clone"))
        source = pin_at(tmp_path / "clone")
        assert source == Source(tmp_path / "clone", commit, "main", f"file://{repo.root}")
        assert exported(source, tmp_path / "out")["train.py"] == b"pass\n"
        assert "`git fetch --unshallow`" in error_of(tmp_path / "clone", "HEAD~1")

    def test_spaces_and_unicode(self, tmp_path: Path) -> None:
        """Paths with spaces and letters of any script, of repository and files, work."""
        repository = init(tmp_path / "meine Läufe $HOME 訓練")
        repository.write("ein Ordner/größe 訓練.py", "größe = 1\n")
        commit = repository.commit()
        repository.write("ein Ordner/größe 訓練.py", "größe = 2\n")
        source = pin_at(repository.root / "ein Ordner" / "größe 訓練.py", dirty="ignore")
        assert source == Source(
            repository.root, commit, "main", None, ("ein Ordner/größe 訓練.py",)
        )
        assert exported(source, tmp_path / "out") == {
            "ein Ordner/größe 訓練.py": "größe = 1\n".encode()
        }

    def test_submodule(self, repo: GitRepository, tmp_path: Path) -> None:
        """A script in a submodule is pinned to the submodule's commit, not to that around it."""
        library = init(tmp_path / "library")
        commit = library.commit(run__py="pass\n")
        repo.add_submodule(library, "libs/library")
        inside = repo.root / "libs" / "library"
        assert pin_at(inside / "run.py") == Source(inside, commit, "main", str(library.root))

    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("https://ada:secret@example.org/team/code.git", "https://example.org/team/code.git"),
            ("https://ghp_token@example.org/team/code.git", "https://example.org/team/code.git"),
            ("https://ada:se@c#r?et@example.org:8443/code", "https://example.org:8443/code"),
            ("https://example.org/@team/code.git", "https://example.org/@team/code.git"),
            ("ssh://git:secret@example.org:22/code.git", "ssh://git@example.org:22/code.git"),
            ("git@example.org:team/code.git", "git@example.org:team/code.git"),
            ("/srv/git/a@b.git", "/srv/git/a@b.git"),
        ],
    )
    def test_remote_url(self, repo: GitRepository, url: str, shown: str) -> None:
        """The remote's URL is recorded without password or token; the user of ssh stays."""
        repo.git("remote", "add", "origin", url)
        assert pin_at(repo.root).remote_url == shown

    def test_which_remote(self, repo: GitRepository) -> None:
        """The remote is ``origin``; without one, the first."""
        repo.git("remote", "add", "backup", "https://backup.example.org")
        assert pin_at(repo.root).remote_url == "https://backup.example.org"
        repo.git("remote", "add", "origin", "https://origin.example.org")
        assert pin_at(repo.root).remote_url == "https://origin.example.org"


class TestNoSuchSource:
    def test_not_a_repository(self, tmp_path: Path) -> None:
        """A script in no repository: the error says how to make one."""
        script = tmp_path / "train.py"
        script.touch()
        assert error_of(script).startswith(
            f"{script} is not in a git repository, so its code cannot be pinned to a commit. "
            "Run `git init`, `git add` and `git commit` in the project's folder."
        )

    def test_missing_location(self, tmp_path: Path) -> None:
        """A location in a folder that does not exist is named."""
        assert error_of(tmp_path / "a" / "b.py") == f"{tmp_path / 'a' / 'b.py'} does not exist."

    def test_no_commit(self, tmp_path: Path) -> None:
        """A repository without any commit asks for a first one."""
        repository = init(tmp_path / "new")
        assert error_of(repository.root) == (
            f"{repository.root} has no commit yet: run `git add` and `git commit` there."
        )

    def test_bare_repository(self, tmp_path: Path) -> None:
        """A bare repository has nothing to launch from."""
        bare = tmp_path / "bare.git"
        bare.mkdir()
        GitRepository(bare).git("init", "--quiet", "--bare")
        assert error_of(bare).startswith(
            f"{bare} is in a bare repository, which has no working tree to launch from. "
            "Clone it, or add a working tree with `git worktree add`."
        )

    def test_repository_of_another_user(
        self, repo: GitRepository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What git refuses to read for its owner comes with the command that allows it."""
        monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own test hook
        message = error_of(repo.root / "train.py")
        assert message.startswith(f"{repo.root / 'train.py'} is in a repository of another user")
        assert f"git config --global --add safe.directory {repo.root}" in message

    def test_unknown_revision(self, repo: GitRepository) -> None:
        """An unknown revision is named, with the branches and tags that look like it."""
        repo.git("branch", "develop")
        repo.git("tag", "release-1.0")
        unknown = f"in {repo.root} is no commit: there is no such branch, tag or id."
        assert error_of(repo.root, "devlop~2") == (
            f"hydra.launcher.commit=devlop~2 {unknown} Did you mean develop?"
        )
        assert error_of(repo.root, "release-1.1") == (
            f"hydra.launcher.commit=release-1.1 {unknown} Did you mean release-1.0?"
        )
        assert error_of(repo.root, "xyz") == f"hydra.launcher.commit=xyz {unknown}"

    def test_branch_of_the_remote_only(self, repo: GitRepository, tmp_path: Path) -> None:
        """A branch that was never checked out here is offered by its remote's name."""
        repo.git("branch", "x")
        repo.git("clone", "--quiet", str(repo.root), str(tmp_path / "clone"))
        assert error_of(tmp_path / "clone", "x").endswith("Did you mean origin/x?")

    @pytest.mark.parametrize(
        "revision", ["", "HEAD..HEAD", "^HEAD", "--all", "HEAD:train.py", "-n"]
    )
    def test_no_single_commit(self, repo: GitRepository, revision: str) -> None:
        """Ranges, exclusions, options and files are no commit."""
        assert f"hydra.launcher.commit={revision} in {repo.root} is no commit" in error_of(
            repo.root, revision
        )

    def test_branch_and_tag_of_one_name(self, repo: GitRepository) -> None:
        """A name that is a branch and a tag is refused, with the two ways to write it out."""
        repo.git("config", "core.warnAmbiguousRefs", "false")
        repo.git("tag", "v1")
        repo.commit(train__py="pass\n")
        repo.git("branch", "v1")
        assert error_of(repo.root, "v1~0") == (
            f"hydra.launcher.commit=v1 in {repo.root} is ambiguous: it can be tags/v1 or heads/v1. "
            "Write out which one is meant."
        )
        assert pin_at(repo.root, "heads/v1") == Source(
            repo.root, repo.git("rev-parse", "HEAD"), "v1", None
        )

    def test_branch_named_like_an_id(self, repo: GitRepository) -> None:
        """A branch whose name is also the beginning of a commit's id is refused."""
        name = repo.git("rev-parse", "HEAD")[:7]
        repo.git("branch", name)
        assert f"it can be heads/{name} or the id of a commit." in error_of(repo.root, name)

    def test_ambiguous_id(self, repo: GitRepository) -> None:
        """A short id of several commits is refused, and git lists them."""
        stream = "".join(
            f"commit refs/heads/many\ncommitter A <a@b> {COMMIT_TIME + i} +0000\ndata 0\n\n"
            for i in range(1200)
        )
        command = ("git", "fast-import", "--quiet")
        subprocess.run(command, cwd=repo.root, input=stream.encode(), check=True)
        ids = repo.git("rev-list", "--all").splitlines()
        seen: dict[str, str] = {}
        first, second = next(
            (seen[one[:4]], one) for one in ids if seen.setdefault(one[:4], one) != one
        )
        message = error_of(repo.root, first[:4])
        assert message.startswith(
            f"hydra.launcher.commit={first[:4]} in {repo.root} is ambiguous. "
            "Give more digits of the id:\n"
        )
        assert first[:5] in message
        assert second[:5] in message

    def test_no_git_executable(self, tmp_path: Path) -> None:
        """Without git on PATH, importing the module says to install it."""
        program = (
            "from hydra_plugins.hydra_docker_launcher._errors import SourceError\n"
            "try:\n    import hydra_plugins.hydra_docker_launcher._source\n"
            "except SourceError as error:\n    print(error)\n"
        )
        environment = {"PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            (sys.executable, "-c", program), env=environment, check=True, capture_output=True
        )
        assert done.stdout.decode().startswith(
            "The launcher pins the code to a commit with git, and cannot use it: install git and "
            "see that it is on PATH."
        )

    def test_git_executable_gone(
        self, repo: GitRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A git that vanished after the import is reported the same way."""
        monkeypatch.setenv("PATH", str(tmp_path))
        assert error_of(repo.root).startswith("git cannot be run: see that it is on PATH.")


class TestUncommittedChanges:
    def test_every_kind(self, repo: GitRepository) -> None:
        """The error lists each change with what it is, and the ways out."""
        for name in ("a", "b", "c", "d", "e"):
            repo.write(f"{name}.py", f"the file {name}, long enough to be told from others\n")
        commit = repo.commit()
        repo.write("a.py", "changed\n")
        (repo.root / "b.py").unlink()
        repo.git("mv", "c.py", "z.py")
        repo.write("d.py", "staged\n")
        repo.git("add", "d.py")
        (repo.root / "e.py").chmod(0o755)
        repo.write("new.py")
        repo.write("staged.py")
        repo.git("add", "staged.py")
        assert error_of(repo.root) == (
            f"{repo.root} has uncommitted changes, and the jobs would run commit {commit[:10]} "
            "without them:\n"
            "  modified: a.py\n"
            "  deleted: b.py\n"
            "  modified: d.py\n"
            "  modified: e.py\n"
            "  added: staged.py\n"
            "  renamed: c.py -> z.py\n"
            "  untracked: new.py\n"
            "Commit or stash them, run them as they are (hydra.launcher.dirty=snapshot), or run "
            "the commit without them (hydra.launcher.dirty=ignore). Files that are no code belong "
            "in .gitignore."
        )
        assert left_out(repo) == {"a.py", "b.py", "d.py", "e.py", "staged.py", "z.py", "new.py"}

    def test_long_list(self, repo: GitRepository) -> None:
        """The error names twenty files and counts the others; ``left_out`` has all."""
        for number in range(25):
            repo.write(f"f{number:02}.py")
        names = [f"untracked: f{number:02}.py" for number in range(20)]
        assert listed_changes(repo) == [*names, "and 5 more"]
        assert left_out(repo) == {f"f{number:02}.py" for number in range(25)}

    def test_merge_conflict(self, repo: GitRepository) -> None:
        """A file in conflict is named as unmerged."""
        repo.git("checkout", "--quiet", "-b", "side")
        repo.commit(model__py="layers = 3\n")
        repo.git("checkout", "--quiet", "main")
        repo.commit(model__py="layers = 4\n")
        with pytest.raises(subprocess.CalledProcessError):
            repo.git("merge", "side")
        assert listed_changes(repo) == ["unmerged: model.py"]

    def test_link_instead_of_a_file(self, repo: GitRepository) -> None:
        """A file that became a link is modified."""
        (repo.root / "model.py").unlink()
        (repo.root / "model.py").symlink_to("train.py")
        assert listed_changes(repo) == ["modified: model.py"]

    def test_users_status_settings(self, repo: GitRepository) -> None:
        """What the user's git config hides from `git status` counts all the same."""
        repo.git("config", "status.showUntrackedFiles", "no")
        repo.git("config", "status.renames", "false")
        repo.write("new.py")
        repo.git("mv", "model.py", "net.py")
        assert listed_changes(repo) == ["renamed: model.py -> net.py", "untracked: new.py"]

    def test_ignored_files(self, repo: GitRepository) -> None:
        """Files that .gitignore names do not count."""
        repo.commit(__gitignore="*.ckpt\n")
        repo.write("weights.ckpt")
        assert left_out(repo) == set()

    def test_another_revision(self, repo: GitRepository) -> None:
        """Who names a commit that is not checked out asks for it, whatever is being edited."""
        old = repo.git("rev-parse", "HEAD")
        repo.commit(train__py="pass\n")
        repo.write("train.py", "being edited\n")
        assert pin_at(repo.root, old) == Source(repo.root, old, None, None)
        assert pin_at(repo.root, old, dirty="ignore").left_out == ()

    def test_the_same_commit_by_another_name(self, repo: GitRepository) -> None:
        """A tag of the commit that is checked out does not hide what is being edited."""
        repo.git("tag", "v1")
        repo.write("train.py", "being edited\n")
        with pytest.raises(SourceError, match=r"modified: train\.py"):
            pin_at(repo.root, "v1")

    def test_odd_names(self, repo: GitRepository) -> None:
        """Newlines, quotes, arrows, tabs and undecodable bytes do not break the list."""
        names = [
            "new\nline.py",
            'quo"te.py',
            "a -> b.py",
            "tab\t.py",
            os.fsdecode(b"latin-\xe9.py"),
        ]
        for name in names:
            repo.write(name)
        shown = {r"'new\nline.py'", 'quo"te.py', "a -> b.py", r"'tab\t.py'", r"'latin-\udce9.py'"}
        assert left_out(repo) == shown
        assert set(listed_changes(repo)) == {f"untracked: {name}" for name in shown}
        repo.commit()
        assert files(pin_at(repo.root)) == {"train.py", "model.py", *names}

    def test_nested_repository(self, repo: GitRepository) -> None:
        """A repository inside this one that is no submodule counts as untracked."""
        init(repo.root / "vendored").commit(a__py="")
        assert left_out(repo) == {"vendored/"}


class TestSubmoduleChanges:
    @pytest.fixture
    def library(self, repo: GitRepository, tmp_path: Path) -> GitRepository:
        """The working tree of a submodule of ``repo``, which is committed there."""
        original = init(tmp_path / "library")
        original.commit(core__py="x = 1\n")
        repo.add_submodule(original, "libs/library")
        repo.commit()
        return GitRepository(repo.root / "libs" / "library")

    @pytest.mark.usefixtures("library")
    def test_clean(self, repo: GitRepository) -> None:
        """A submodule as it was committed is no change."""
        assert pin_at(repo.root).left_out == ()

    def test_another_commit(self, repo: GitRepository, library: GitRepository) -> None:
        """A submodule in which another commit is checked out counts, committed or staged."""
        library.commit(core__py="x = 2\n")
        assert listed_changes(repo) == ["submodule: libs/library"]
        repo.git("add", "libs/library")
        assert listed_changes(repo) == ["submodule: libs/library"]

    def test_changes_inside(self, repo: GitRepository, library: GitRepository) -> None:
        """What is uncommitted inside a submodule is named, even if .gitmodules says ignore."""
        repo.git("config", "-f", ".gitmodules", "submodule.libs/library.ignore", "all")
        repo.commit()
        library.write("core.py", "x = 3\n")
        library.write("new.py")
        assert listed_changes(repo) == [
            "modified: libs/library/core.py (inside submodule libs/library)",
            "untracked: libs/library/new.py (inside submodule libs/library)",
        ]
        assert left_out(repo) == {"libs/library/core.py", "libs/library/new.py"}

    def test_exceptions_inside(self, repo: GitRepository, library: GitRepository) -> None:
        """The exceptions for bytecode, configs and outputs hold inside a submodule too."""
        library.write("__pycache__/core.pyc")
        library.write("outputs/1/.hydra/config.yaml")
        library.write("conf/a.yaml")
        assert left_out(repo, library.root / "conf") == set()

    def test_nested(self, repo: GitRepository, library: GitRepository, tmp_path: Path) -> None:
        """Changes in a submodule's submodule are found."""
        inner = init(tmp_path / "inner")
        inner.commit(deep__py="")
        library.add_submodule(inner, "inner")
        library.commit()
        repo.commit()
        (library.root / "inner" / "deep.py").write_text("changed\n")
        assert listed_changes(repo) == [
            "modified: libs/library/inner/deep.py (inside submodule libs/library/inner)"
        ]

    def test_removed(self, repo: GitRepository, library: GitRepository) -> None:
        """A submodule whose folder is gone counts."""
        shutil.rmtree(library.root)
        assert listed_changes(repo) == ["submodule: libs/library"]

    @pytest.mark.usefixtures("library")
    def test_not_initialised(self, repo: GitRepository, tmp_path: Path) -> None:
        """A submodule that was never checked out is no change."""
        repo.git("clone", "--quiet", str(repo.root), str(tmp_path / "clone"))
        assert pin_at(tmp_path / "clone").left_out == ()


class TestWhatDoesNotCount:
    def test_yaml_of_config_dirs(self, repo: GitRepository) -> None:
        """YAML at or below a config source does not count: new, changed, deleted or renamed."""
        for name in ("changed.yaml", "deleted.yml", "deep/renamed.yaml"):
            repo.write(f"conf/{name}", f"name: {name}, long enough to be told from others\n")
        repo.commit()
        repo.write("conf/changed.yaml", "lr: 1\n")
        (repo.root / "conf" / "deleted.yml").unlink()
        repo.git("mv", "conf/deep/renamed.yaml", "conf/deep/other.yaml")
        repo.write("conf/new.YAML", "lr: 2\n")
        assert left_out(repo, repo.root / "conf") == set()

    def test_other_files_of_config_dirs(self, repo: GitRepository) -> None:
        """Anything but YAML counts there, and YAML counts elsewhere."""
        repo.write("conf/resolvers.py")
        repo.write("data/labels.yaml")
        repo.write("config_of_another.yaml")
        assert left_out(repo, repo.root / "conf") == {
            "conf/resolvers.py",
            "data/labels.yaml",
            "config_of_another.yaml",
        }

    def test_yaml_that_leaves_config_dirs(self, repo: GitRepository) -> None:
        """A file renamed from a config source to elsewhere, or the other way, counts."""
        repo.write("conf/a.yaml", "a file that is long enough to be recognised again\n")
        repo.commit()
        repo.git("mv", "conf/a.yaml", "labels.yaml")
        assert listed_changes(repo) == ["renamed: conf/a.yaml -> labels.yaml"]
        assert left_out(repo, repo.root / "conf") == {"labels.yaml"}

    def test_config_dir_by_a_link(self, repo: GitRepository, tmp_path: Path) -> None:
        """A config source that is named by a link is the folder behind it."""
        repo.write("conf/a.yaml")
        (tmp_path / "link").symlink_to(repo.root)
        assert left_out(repo, tmp_path / "link" / "conf") == set()

    def test_own_paths(self, repo: GitRepository) -> None:
        """What the sweep writes does not count, tracked or not: folder, file or link."""
        repo.commit(store__db="")
        repo.write("store.db", "grown\n")
        repo.write("results/0/train.log")
        repo.write("mlflow-store/mlflow.db")
        (repo.root / "mlflow.db").symlink_to("mlflow-store/mlflow.db")
        own = ("store.db", "results", "mlflow-store", "mlflow.db")
        assert left_out(repo, own=tuple(repo.root / name for name in own)) == set()
        assert left_out(repo, own=(repo.root / "mlflow.db",)) == {"store.db", "results/0/train.log"}

    def test_own_path_around_the_repository(self, repo: GitRepository) -> None:
        """A sweep that writes straight into the root, or above it, does not hide every change."""
        repo.write("train.py", "being edited\n")
        assert left_out(repo, own=(repo.root, repo.root.parent)) == {"train.py"}

    def test_output_folders(self, repo: GitRepository) -> None:
        """Untracked files in folders that earlier runs and sweeps made do not count."""
        repo.write("multirun/1/multirun.yaml")
        repo.write("multirun/1/0/checkpoints/best.py")
        repo.write("outputs/2/.hydra/config.yaml")
        repo.write("outputs/2/train.log")
        repo.write("study/sweep.json")  # a sweeper that writes no multirun.yaml
        repo.write("study/results.yaml")
        repo.write("elsewhere/mlflow-store/mlflow.db")
        repo.write("elsewhere/mlflow-store/artifacts/0/notes.py")
        (repo.root / "elsewhere" / "mlflow.db").symlink_to("mlflow-store/mlflow.db")
        repo.write("outputs/notes.py")
        assert left_out(repo) == {"outputs/notes.py"}

    def test_tracked_files_of_output_folders(self, repo: GitRepository) -> None:
        """A tracked file counts even where Hydra has written beside it."""
        repo.write("src/code.py", "x = 1\n")
        repo.commit()
        repo.write("src/.hydra/config.yaml")
        repo.write("src/code.py", "x = 2\n")
        assert left_out(repo) == {"src/code.py"}

    def test_notes(self, repo):
        """What `hydra-docker note` has written down; a config of another name counts."""
        repo.write("config-0123abcd.yaml")
        repo.write("sub/changes-0123abcd.patch")
        repo.write("config-new.yaml")
        assert left_out(repo) == {"config-new.yaml"}

    def test_root_is_no_output_folder(self, repo: GitRepository) -> None:
        """Hydra's files in the root itself do not make all of the repository an output folder."""
        repo.write(".hydra/config.yaml")
        repo.write("multirun.yaml")
        repo.write("new.py")
        assert left_out(repo) == {".hydra/config.yaml", "multirun.yaml", "new.py"}

    def test_bytecode(self, repo: GitRepository) -> None:
        """``__pycache__`` folders do not count at any depth."""
        repo.write("__pycache__/train.cpython-311.pyc")
        repo.write("src/deep/__pycache__/a.cpython-311.pyc")
        assert left_out(repo) == set()


class TestTree:
    def test_require_file(self, repo: GitRepository) -> None:
        """A script of the commit passes, also by a linked folder; a newer one is refused."""
        source = pin_at(repo.root)
        require_file(source, repo.root / "train.py")
        link = repo.root.parent / "link"
        link.symlink_to(repo.root)
        require_file(source, link / "train.py")
        new = repo.write("new.py")
        with pytest.raises(SourceError) as caught:
            require_file(source, new)
        assert str(caught.value) == (
            f"{new} is not in commit {source.commit[:10]}: it is untracked, or newer than the "
            "commit. Run `git add` and `git commit` on it, or name a commit that has it with "
            "hydra.launcher.commit."
        )

    def test_require_file_of_a_folder(self, repo: GitRepository) -> None:
        """A folder is no file, and neither is the root."""
        repo.write("src/a.py")
        repo.commit()
        for folder in (repo.root / "src", repo.root):
            with pytest.raises(SourceError, match="is not in commit"):
                require_file(pin_at(repo.root), folder)

    def test_require_file_outside(self, repo: GitRepository, tmp_path: Path) -> None:
        """A path outside the repository is in none of its commits."""
        with pytest.raises(SourceError, match="is not in the repository"):
            require_file(pin_at(repo.root), tmp_path / "train.py")

    def test_files(self, repo: GitRepository) -> None:
        """The commit's files are listed by their path from the root, whatever the disk has."""
        repo.write("docker/Dockerfile")
        repo.write("docker/deep/[a]*.txt")
        repo.write("docker-2/Dockerfile")
        (repo.root / "link").symlink_to("train.py")
        repo.commit()
        source = pin_at(repo.root)
        repo.write("docker/new")
        (repo.root / "train.py").unlink()
        below = {"docker/Dockerfile", "docker/deep/[a]*.txt"}
        assert files(source) == {"train.py", "model.py", "link", "docker-2/Dockerfile", *below}
        assert files(source, "docker") == below
        assert files(source, PurePosixPath("docker/")) == below
        assert files(source, "missing") == frozenset()
        for pattern in ("docker/*", ":(top)docker", ":/docker"):
            assert files(source, pattern) == frozenset()

    def test_tree(self, repo: GitRepository) -> None:
        """Paths below a folder, with modes and content ids, and where links lead."""
        repo.write("docker/Dockerfile", "FROM a\n")
        repo.write("docker/deep/run.sh", "").chmod(0o755)
        (repo.root / "docker" / "link").symlink_to("deep/run.sh")
        repo.commit()
        expected = [
            ("Dockerfile", "100644", None),
            ("deep/run.sh", "100755", None),
            ("link", "120000", "deep/run.sh"),
        ]
        found = tree(pin_at(repo.root), "docker")
        assert [(file.path, file.mode, file.link) for file in found] == expected
        assert [file.id for file in found] == [
            repo.git("rev-parse", f"HEAD:docker/{path}") for path, _, _ in expected
        ]
        assert "docker/Dockerfile" in [file.path for file in tree(pin_at(repo.root))]

    def test_read_text(self, repo: GitRepository) -> None:
        """A file's text is that of the commit; what is no file has none."""
        (repo.root / "link").symlink_to("train.py")
        (repo.root / "bytes").write_bytes(b"a\xff\r\n\n")
        repo.write("src/a.py", "größe\n\n")
        repo.commit()
        source = pin_at(repo.root)
        repo.write("src/a.py", "edited\n")
        assert read_text(source, "src/a.py") == "größe\n\n"
        assert read_text(source, "bytes") == "a\N{REPLACEMENT CHARACTER}\r\n\n"
        assert [read_text(source, path) for path in ("link", "src", "missing")] == [None] * 3

    def test_read_texts(self, repo: GitRepository) -> None:
        """Many files at once; what is no file, or not in the commit, is left out."""
        (repo.root / "link").symlink_to("train.py")
        (repo.root / "bytes").write_bytes(b"a\xff\r\n\n")
        texts = {"src/a b.py": "größe\n\n", "same": "größe\n\n", "empty": "", "ü": "\0\n"}
        for path, text in texts.items():
            repo.write(path, text)
        repo.commit()
        source = pin_at(repo.root)
        repo.write("same", "edited\n")
        assert read_texts(source, ["bytes", "link", "src", "missing", *texts]) == {
            "bytes": "a\N{REPLACEMENT CHARACTER}\r\n\n",
            **texts,
        }
        assert read_texts(source, []) == {}

    @pytest.mark.parametrize("path", ["..", "../other", "src/../../other", "/etc"])
    def test_path_outside(self, repo: GitRepository, path: str) -> None:
        """A path that leaves the repository is refused."""
        with pytest.raises(SourceError, match="is not a path inside the repository"):
            files(pin_at(repo.root), path)

    def test_commit_time(self, repo: GitRepository) -> None:
        """The commit's time is in seconds since the epoch."""
        assert commit_time(pin_at(repo.root)) == COMMIT_TIME


class TestExport:
    def test_as_a_checkout(self, repo: GitRepository, tmp_path: Path) -> None:
        """Modes, links, line endings and odd names come out as in a fresh clone."""
        repo.write("run.sh", "#!/bin/sh\n").chmod(0o755)
        repo.write("src/dos.txt", "a\nb\n")
        repo.write("new\nline.py", "x\n")
        repo.write(".gitattributes", "*.txt text eol=crlf\n")
        (repo.root / "link").symlink_to("src/dos.txt")
        (repo.root / "broken").symlink_to("/nowhere")
        repo.commit()
        result = exported(pin_at(repo.root), tmp_path / "out")
        assert result == {
            ".gitattributes": b"*.txt text eol=crlf\n",
            "train.py": b"print('hello')\n",
            "model.py": b"layers = 2\n",
            "run.sh": b"#!/bin/sh\n",
            "src/dos.txt": b"a\r\nb\r\n",
            "new\nline.py": b"x\n",
            "link": "src/dos.txt",
            "broken": "/nowhere",
        }
        assert (tmp_path / "out" / "run.sh").stat().st_mode & 0o111 == 0o111
        assert (tmp_path / "out" / "train.py").stat().st_mode & 0o111 == 0
        repo.git("clone", "--quiet", str(repo.root), str(tmp_path / "clone"))
        shutil.rmtree(tmp_path / "clone" / ".git")
        assert result == content(tmp_path / "clone")

    def test_attributes_of_archives(self, repo: GitRepository, tmp_path: Path) -> None:
        """``export-ignore`` and ``export-subst`` are for `git archive` and do not count here."""
        repo.write(".gitattributes", "secret.py export-ignore\nversion.py export-subst\n")
        repo.commit(secret__py="x = 1\n", version__py="version = '$Format:%H$'\n")
        result = exported(pin_at(repo.root), tmp_path / "out")
        assert result["secret.py"] == b"x = 1\n"
        assert result["version.py"] == b"version = '$Format:%H$'\n"

    def test_smudge_filter(self, repo: GitRepository, tmp_path: Path) -> None:
        """A filter that the user configured is applied."""
        repo.git("config", "filter.shout.smudge", "tr a-z A-Z")
        repo.write(".gitattributes", "*.loud filter=shout\n")
        repo.commit(word__loud="hello\n")
        assert exported(pin_at(repo.root), tmp_path / "out")["word.loud"] == b"HELLO\n"

    def test_failing_filter(self, repo: GitRepository, tmp_path: Path) -> None:
        """A filter that must work and does not is an error, and nothing is left behind."""
        repo.write(".gitattributes", "*.secret filter=broken\n")
        repo.commit(a__secret="hello\n")
        repo.git("config", "filter.broken.clean", "cat")
        repo.git("config", "filter.broken.smudge", "false")
        repo.git("config", "filter.broken.required", "true")
        source = pin_at(repo.root)
        (tmp_path / "out").mkdir()
        with pytest.raises(SourceError, match=r"(?s)`git checkout-index` failed.*a\.secret"):
            export(source, tmp_path / "out")
        assert content(tmp_path / "out") == {}

    def test_the_commit_only(self, repo: GitRepository, tmp_path: Path) -> None:
        """Nothing of the working tree or the index leaks in, nor its .gitattributes."""
        source = pin_at(repo.root)
        repo.write("train.py", "edited\n")
        repo.write("new.py")
        repo.write("staged.py")
        repo.git("add", "staged.py")
        repo.write(".gitattributes", "*.py text eol=crlf\n")
        assert exported(source, tmp_path / "out") == {
            "train.py": b"print('hello')\n",
            "model.py": b"layers = 2\n",
        }

    def test_older_commit(self, repo: GitRepository, tmp_path: Path) -> None:
        """An older commit comes out as it was, with its own .gitattributes."""
        repo.write(".gitattributes", "*.py text eol=crlf\n")
        repo.commit()
        repo.git("tag", "v1")
        repo.git("rm", "--quiet", "model.py", ".gitattributes")
        repo.commit()
        assert exported(pin_at(repo.root, "v1"), tmp_path / "out") == {
            ".gitattributes": b"*.py text eol=crlf\n",
            "train.py": b"print('hello')\r\n",
            "model.py": b"layers = 2\r\n",
        }

    def test_folder(self, repo: GitRepository, tmp_path: Path) -> None:
        """A folder comes out by itself, under the attributes of the folders above it."""
        repo.write(".gitattributes", "*.txt text eol=crlf\n")
        repo.write("docker/gpu/Dockerfile", "FROM a\n")
        repo.write("docker/gpu/etc/a.txt", "a\n")
        repo.write("docker/other", "x")
        repo.commit()
        assert exported(pin_at(repo.root), tmp_path / "out", "docker/gpu") == {
            "Dockerfile": b"FROM a\n",
            "etc/a.txt": b"a\r\n",
        }
        assert {child.name for child in (tmp_path / "out").iterdir()} == {"Dockerfile", "etc"}

    def test_missing_folder(self, repo: GitRepository, tmp_path: Path) -> None:
        """A folder that the commit does not have is named."""
        source = pin_at(repo.root)
        with pytest.raises(SourceError) as caught:
            export(source, tmp_path, "docker")
        assert str(caught.value) == (
            f"Commit {source.commit[:10]} of {repo.root} has no folder docker."
        )

    def test_sparse_checkout(self, repo: GitRepository, tmp_path: Path) -> None:
        """Files that a sparse checkout leaves out of the working tree are exported."""
        repo.write("data/a.py", "x\n")
        repo.write("src/b.py", "y\n")
        repo.commit()
        repo.git("sparse-checkout", "set", "--cone", "--sparse-index", "src")
        assert not (repo.root / "data").exists()
        assert exported(pin_at(repo.root), tmp_path / "out") == {
            "train.py": b"print('hello')\n",
            "model.py": b"layers = 2\n",
            "data/a.py": b"x\n",
            "src/b.py": b"y\n",
        }

    def test_empty_commit(self, tmp_path: Path) -> None:
        """A commit without files gives an empty folder."""
        repository = init(tmp_path / "empty")
        repository.commit()
        assert exported(pin_at(repository.root), tmp_path / "out") == {}

    def test_lfs_pointers(self, repo: GitRepository, tmp_path: Path) -> None:
        """Files whose contents are in Git LFS and not here are named, not passed as pointers."""
        repo.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
        repo.write("data/weights.bin", LFS_POINTER)
        repo.write("data/small.bin", "committed as it is")
        repo.write("about-lfs.txt", LFS_POINTER)
        repo.commit()
        source = pin_at(repo.root)
        (tmp_path / "out").mkdir()
        with pytest.raises(SourceError) as caught:
            export(source, tmp_path / "out")
        assert str(caught.value) == (
            f"{repo.root} has files whose contents are in Git LFS and not here:\n"
            "  data/weights.bin\n"
            "Install git-lfs, then run `git lfs install` and `git lfs pull`."
        )
        repo.git("rm", "--quiet", "--cached", "data/weights.bin")
        (repo.root / "data" / "weights.bin").unlink()
        repo.commit()
        result = exported(pin_at(repo.root), tmp_path / "without")
        assert result["data/small.bin"] == b"committed as it is"


IN_SUBMODULES = {
    "libs/library/core.py": b"x = 1\n",
    "libs/library/notes.txt": b"a\r\n",
    "libs/library/inner/deep.py": b"deep = 1\n",
}


class TestExportOfSubmodules:
    @pytest.fixture
    def nested(self, repo: GitRepository, tmp_path: Path) -> GitRepository:
        """``repo`` with a submodule, libs/library, that has one itself, inner."""
        inner = init(tmp_path / "inner")
        inner.commit(deep__py="deep = 1\n")
        library = init(tmp_path / "library")
        library.write(".gitattributes", "*.txt text eol=crlf\n")
        library.commit(core__py="x = 1\n", notes__txt="a\n")
        library.add_submodule(inner, "inner")
        library.commit()
        repo.add_submodule(library, "libs/library")
        repo.git("submodule", "--quiet", "update", "--init", "--recursive")
        repo.commit()
        return repo

    def code(self, source: Source, destination: Path, folder: str = "") -> dict[str, bytes | str]:
        """What is exported, but for git's own files."""
        everything = exported(source, destination, folder)
        return {name: text for name, text in everything.items() if ".git" not in name}

    def test_recursively(self, nested: GitRepository, tmp_path: Path) -> None:
        """Submodules are exported at their recorded commits, to any depth."""
        source = pin_at(nested.root)
        (nested.root / "libs" / "library" / "core.py").write_text("edited\n")
        assert self.code(source, tmp_path / "out") == {
            "train.py": b"print('hello')\n",
            "model.py": b"layers = 2\n",
            **IN_SUBMODULES,
        }
        assert files(source) == {".gitmodules", "train.py", "model.py"}
        listed = [file.path for file in tree(source, "libs/library") if ".git" not in file.path]
        assert listed == ["core.py", "inner/deep.py", "notes.txt"]
        assert [file.path for file in tree(source, "libs/library/inner")] == ["deep.py"]

    def test_folder(self, nested: GitRepository, tmp_path: Path) -> None:
        """Submodules below an exported folder lie where they lie in it."""
        assert self.code(pin_at(nested.root), tmp_path / "out", "libs") == {
            name.removeprefix("libs/"): text for name, text in IN_SUBMODULES.items()
        }

    def test_without_a_working_tree(self, nested: GitRepository, tmp_path: Path) -> None:
        """A submodule that is gone from the working tree comes from git's own folder."""
        nested.git("tag", "with-library")
        nested.git("rm", "--quiet", "libs/library")
        shutil.rmtree(nested.root / "libs", ignore_errors=True)
        nested.commit()
        assert self.code(pin_at(nested.root, "with-library"), tmp_path / "out") == {
            "train.py": b"print('hello')\n",
            "model.py": b"layers = 2\n",
            **IN_SUBMODULES,
        }

    def test_in_a_worktree(self, nested: GitRepository, tmp_path: Path) -> None:
        """In a linked worktree a submodule comes from the main repository's store."""
        nested.git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"))
        assert self.code(pin_at(tmp_path / "side"), tmp_path / "out") == {
            "train.py": b"print('hello')\n",
            "model.py": b"layers = 2\n",
            **IN_SUBMODULES,
        }

    def test_not_here(self, nested: GitRepository, tmp_path: Path) -> None:
        """A submodule that was never fetched is named, with the command that fetches it."""
        nested.git("clone", "--quiet", str(nested.root), str(tmp_path / "clone"))
        recorded = nested.git("rev-parse", "HEAD:libs/library")
        (tmp_path / "out").mkdir()
        with pytest.raises(SourceError) as caught:
            export(pin_at(tmp_path / "clone"), tmp_path / "out")
        assert str(caught.value) == (
            f"Commit {recorded[:10]} of the submodule libs/library is not here. Run "
            f"`git submodule update --init --recursive` in {tmp_path / 'clone'}; for a commit that "
            "is not checked out, also `git fetch` in the submodule."
        )


class TestRepositoryIsUntouched:
    def test_nothing_is_written(self, repo: GitRepository, tmp_path: Path) -> None:
        """No function changes a byte below the root, whatever hooks and monitors there are."""
        library = init(tmp_path / "library")
        library.commit(core__py="x = 1\n")
        repo.add_submodule(library, "library")
        repo.commit()
        for hook in ("post-index-change", "post-checkout", "reference-transaction"):
            repo.write(f".git/hooks/{hook}", f"#!/bin/sh\ntouch {repo.root}/hook-ran\n").chmod(
                0o755
            )
        os.utime(repo.root / "train.py", (COMMIT_TIME, COMMIT_TIME))
        os.utime(repo.root / "library" / "core.py", (COMMIT_TIME, COMMIT_TIME))
        repo.write("model.py", "layers = 3\n")
        status = repo.git("--no-optional-locks", "status", "--porcelain")
        repo.git("config", "core.fsmonitor", f"touch {repo.root}/monitor-ran; false")
        repo.git("config", "submodule.recurse", "true")
        before = everything(repo.root)

        source = pin_at(repo.root / "train.py", dirty="ignore")
        require_file(source, repo.root / "train.py")
        files(source)
        tree(source, "")
        read_text(source, "train.py")
        commit_time(source)
        assert exported(source, tmp_path / "out")["library/core.py"] == b"x = 1\n"

        assert everything(repo.root) == before
        repo.git("config", "--unset", "core.fsmonitor")
        assert repo.git("--no-optional-locks", "status", "--porcelain") == status

    def test_inside_a_git_hook(
        self, repo: GitRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What a hook finds in its environment does not lead to another repository."""
        other = init(tmp_path / "other")
        other.commit(other__py="")
        expected = pin_at(repo.root)
        hook = {
            "GIT_DIR": str(other.root / ".git"),
            "GIT_WORK_TREE": str(other.root),
            "GIT_INDEX_FILE": str(other.root / ".git" / "index"),
            "GIT_OBJECT_DIRECTORY": str(other.root / ".git" / "objects"),
            "GIT_PREFIX": "src/",
            "GIT_ICASE_PATHSPECS": "1",
        }
        for name, value in hook.items():
            monkeypatch.setenv(name, value)
        assert pin_at(repo.root) == expected
        assert files(expected) == {"train.py", "model.py"}
        assert tree(expected, "missing") == ()
        assert set(exported(expected, tmp_path / "out")) == {"train.py", "model.py"}
        assert {name: os.environ[name] for name in hook} == hook

    def test_source_is_enough(self, repo: GitRepository, tmp_path: Path) -> None:
        """A source names its commit by id: what is checked out later does not matter."""
        source = pin_at(repo.root)
        repo.commit(train__py="later\n")
        assert exported(source, tmp_path / "out")["train.py"] == b"print('hello')\n"
