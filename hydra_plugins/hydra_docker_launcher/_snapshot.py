"""Snapshot: the working tree as a commit of its own, which only a hidden ref leads to.

The commit follows from its tree and its parent alone (``commit_on``): the same content gives the
same commit, at any time, for any user, in any clone. Its own date therefore says nothing about its
age; the hidden ref's reflog does: one entry, from when the snapshot was first made.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ._changes import UNTRACKED, printable
from ._errors import SourceError
from ._repository import Repository
from ._units import show_size

REFS = "refs/hydra-docker/snapshots/"

_AUTHOR = ("hydra-docker-launcher", "snapshot@hydra-docker-launcher.invalid")
_MESSAGE = (
    "Uncommitted changes on {parent}\n\n"
    "The working tree as hydra/launcher=docker found it (hydra.launcher.dirty=snapshot).\n"
)
GITLINK = "160000"
SETTINGS = (
    "core.safecrlf=false",  # a line ending that a checkout would not give back is no error
    "core.splitIndex=false",  # would be written beside the user's index
    "core.untrackedCache=false",
)

#: By path (relative to the outermost root) and kind of change: is it for no snapshot?
Condition = Callable[[str, str], bool]


class _Submodule(NamedTuple):
    path: str
    tree: _WorkingTree


@dataclass(frozen=True, slots=True)
class _WorkingTree:
    """What the working tree of a repository has beyond a copy of its index.

    ``place`` is the path from the outermost root, "" or with a slash at its end; the other paths
    are relative to the repository's own root.
    """

    repository: Repository
    place: str
    head: str
    index: Path
    present: tuple[str, ...]
    untracked: tuple[str, ...]
    gone: tuple[str, ...]
    submodules: tuple[_Submodule, ...]

    def everywhere(self) -> Iterator[_WorkingTree]:
        yield self
        for submodule in self.submodules:
            yield from submodule.tree.everywhere()


def take(repository: Repository, *, leave_out: Condition, limit: int) -> str:
    """Commit the working tree, and those of submodules in their own repositories.

    Returns the id; it is that of HEAD where the working tree has nothing beyond it. Raises before
    anything is written where an untracked file has more than ``limit`` bytes, or is a repository.
    """
    with tempfile.TemporaryDirectory(prefix="hydra-docker-") as scratch:
        tree = _look(repository, "", Path(scratch), leave_out)
        _refuse_large(tree, limit)
        _refuse_repositories(tree)
        _refuse_unfiltered(tree)
        return _take(tree)


def _look(repository: Repository, place: str, scratch: Path, leave_out: Condition) -> _WorkingTree:
    index = Path(tempfile.mkdtemp(dir=scratch), "index")
    head = repository.run("rev-parse", "--verify", "HEAD^{commit}").line
    _copy_index(repository, index)
    present: list[str] = []
    gone: list[str] = []
    submodules: list[_Submodule] = []
    for path, unmerged in _differing(repository, index).items():
        if leave_out(place + path, "modified") and not unmerged:
            continue
        kind = _kind(repository.root / path)
        if kind == "repository":
            inner = Repository(repository.root / path)
            tree = _look(inner, f"{place}{path}/", scratch, leave_out)
            submodules.append(_Submodule(path, tree))
        else:
            (present if kind == "file" else gone).append(path)
    others = repository.run("ls-files", "-z", "--others", "--exclude-standard", index=index).fields
    return _WorkingTree(
        repository=repository,
        place=place,
        head=head,
        index=index,
        present=tuple(present),
        untracked=tuple(path for path in others if not leave_out(place + path, UNTRACKED)),
        gone=tuple(gone),
        submodules=tuple(submodules),
    )


def _copy_index(repository: Repository, copy: Path) -> None:
    """Copy the index with its time, by which git knows which of its entries may be out of date."""
    try:
        with repository.path("index").open("rb") as file:
            written = os.fstat(file.fileno())
            copy.write_bytes(file.read())
    except FileNotFoundError:
        repository.run("read-tree", "HEAD", index=copy)
        return
    os.utime(copy, ns=(written.st_atime_ns, written.st_mtime_ns))


def _differing(repository: Repository, index: Path) -> dict[str, bool]:
    """Return tracked paths that may differ from the index, and whether they are in conflict."""
    compare = ("diff-files", "-z", "--raw", "--no-renames", "--ignore-submodules=none")
    fields = iter(repository.run(*compare, index=index, settings=SETTINGS).fields)
    differing: dict[str, bool] = {}
    for described in fields:
        path = next(fields)
        differing[path] = differing.get(path, False) or described.endswith("U")
    return differing


def _kind(file: Path) -> str:
    """Say what git can keep of a path: a file (or link), a repository, or nothing."""
    try:
        mode = file.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    if stat.S_ISDIR(mode):
        return "repository" if (file / ".git").exists() else "nothing"
    return "file" if stat.S_ISREG(mode) or stat.S_ISLNK(mode) else "nothing"


def _refuse_large(tree: _WorkingTree, limit: int) -> None:
    sizes = {
        part.place + path: _size(part.repository.root / path)
        for part in tree.everywhere()
        for path in part.untracked
    }
    large = [f"  {printable(path)} ({show_size(n)})\n" for path, n in sizes.items() if n > limit]
    if large:
        raise SourceError(
            f"{tree.repository.root} has untracked files that are larger than "
            f"hydra.launcher.snapshot_limit={show_size(limit)}:\n{''.join(large)}"
            "Files that are no code belong in .gitignore (jobs get data by hydra.launcher.volumes);"
            " for those that are, raise hydra.launcher.snapshot_limit, or commit them."
        )


def _size(file: Path) -> int:
    """Return the size of a file or link; 0 of a folder, and of what has gone in the meantime."""
    try:
        found = file.lstat()
    except FileNotFoundError:
        return 0
    return 0 if stat.S_ISDIR(found.st_mode) else found.st_size


def _refuse_repositories(tree: _WorkingTree) -> None:
    nested = [
        f"  {printable(part.place + path)}\n"
        for part in tree.everywhere()
        for path in part.untracked
        if path.endswith("/")
    ]
    if nested:
        raise SourceError(
            f"{tree.repository.root} has git repositories in it that are not part of it, so a "
            f"snapshot cannot hold their files:\n{''.join(nested)}"
            "Add them with `git submodule add`, or to .gitignore."
        )


def _refuse_unfiltered(tree: _WorkingTree) -> None:
    """Raise for files of Git LFS where git-lfs is missing: git would take them as they are."""
    unfiltered = []
    for part in tree.everywhere():
        run, paths = part.repository.run, (*part.present, *part.untracked)
        set_up = ("config", "--get-regexp", r"^filter\.lfs\.(clean|process)$")
        if not paths or run(*set_up, may_fail=True).status == 0:
            continue
        ask = ("check-attr", "-z", "--stdin", "filter")
        fields = run(*ask, index=part.index, paths=paths).fields
        named = zip(fields[0::3], fields[2::3], strict=True)
        unfiltered += [f"  {printable(part.place + path)}\n" for path, it in named if it == "lfs"]
    if unfiltered:
        raise SourceError(
            f"{tree.repository.root} has changed files that belong in Git LFS, and git-lfs is not "
            f"set up here:\n{''.join(unfiltered)}Install git-lfs, then run `git lfs install`."
        )


def _take(tree: _WorkingTree) -> str:
    """Write what was found: contents by git itself, so filters and attributes hold."""
    repository, index = tree.repository, tree.index

    def update(*options: str, paths: tuple[str, ...]) -> None:
        if paths:
            arguments = ("-z", *options)
            repository.run("update-index", *arguments, index=index, paths=paths, settings=SETTINGS)

    links = tuple(f"{GITLINK} {_take(inner)} 0\t{path}" for path, inner in tree.submodules)
    update("--force-remove", "--stdin", paths=tree.gone)
    update("--index-info", paths=links)
    everything = ("--add", "--remove", "--replace", "--stdin")
    update(*everything, paths=(*tree.present, *tree.untracked))
    written = repository.run("write-tree", index=index, settings=SETTINGS).line
    if written == repository.tree_of(tree.head):
        return tree.head
    commit = commit_on(repository, written, tree.head)
    keep(repository, commit)
    return commit


def commit_on(repository: Repository, tree: str, parent: str) -> str:
    """Make the one commit that a snapshot with this tree and parent is. Its date is the parent's.

    Nothing here may ever change: recorded ids would no longer come out.
    """
    ask = ("log", "-1", "--no-show-signature", "--format=%ct", parent)
    date = repository.run(*ask, variables={"GIT_NO_REPLACE_OBJECTS": "1"}).line
    arguments = ("--no-gpg-sign", tree, "-p", parent)
    return repository.run(
        "commit-tree",
        *arguments,
        stdin=_MESSAGE.format(parent=parent).encode(),
        settings=("i18n.commitEncoding=UTF-8",),
        variables=_signed(f"@{date} +0000"),
    ).line


def is_kept(repository: Repository, commit: str) -> bool:
    """Whether a commit is a snapshot that this repository has, submodules' parts included."""
    ask = ("rev-parse", "--verify", "--quiet", REFS + commit)
    return repository.run(*ask, may_fail=True).status == 0


def keep(repository: Repository, commit: str) -> None:
    """Let a hidden ref lead to the commit; who does the same at the same time waits."""
    arguments = ("--create-reflog", "-m", "made by hydra/launcher=docker", REFS + commit, commit)
    repository.run(
        "update-ref",
        *arguments,
        settings=("core.filesRefLockTimeout=10000",),
        variables=_signed(f"@{int(time.time())} +0000"),
    )


def _signed(date: str) -> dict[str, str]:
    name, address = _AUTHOR
    return {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", name), ("EMAIL", address), ("DATE", date))
    }
