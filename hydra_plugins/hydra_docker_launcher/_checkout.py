"""Checkout: a commit's files, written into a folder as git would check them out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from ._changes import printable
from ._errors import SourceError
from ._repository import Entry, Repository

_LINK = "120000"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file of a commit: its path, git's mode and content id, and where it leads if a link."""

    path: str
    mode: str
    id: str
    link: str | None = None


def list_files(repository: Repository, commit: str, folder: str) -> list[TreeFile]:
    """Return what ``check_out`` would write, submodules included."""
    repository, commit, folder = locate(repository, commit, folder)
    below = f"{folder}/" if folder else ""
    found = []
    for entry in repository.entries(commit, folder):
        path = entry.path.removeprefix(below)
        if entry.type == "commit":
            inner = list_files(_submodule(repository, commit, entry), entry.id, "")
            found += [replace(file, path=f"{path}/{file.path}") for file in inner]
        else:
            link = None
            if entry.mode == _LINK:
                link = repository.run("cat-file", "blob", entry.id).out
            found.append(TreeFile(path, entry.mode, entry.id, link))
    return found


def locate(repository: Repository, commit: str, folder: str) -> tuple[Repository, str, str]:
    """Return the repository, commit and folder in it that a folder, maybe of a submodule, is."""
    parts = PurePath(folder).parts
    for end in range(1, len(parts) + 1):
        entry = repository.entry(commit, str(PurePath(*parts[:end])))
        if entry is not None and entry.type == "commit":
            inner = _submodule(repository, commit, entry)
            rest = str(PurePath(*parts[end:])) if parts[end:] else ""
            return locate(inner, entry.id, rest)
    return repository, commit, folder


def check_out(repository: Repository, commit: str, destination: Path, folder: str) -> None:
    """Write the commit's files below ``folder``, submodules included, into ``destination``."""
    repository, commit, folder = locate(repository, commit, folder)
    entries = repository.entries(commit, folder)
    if folder and not entries:
        raise SourceError(f"Commit {commit[:10]} of {repository.root} has no folder {folder}.")
    with tempfile.TemporaryDirectory(dir=destination) as staging:
        _write(repository, commit, Path(staging), [entry.path for entry in entries])
        for child in (Path(staging) / folder).iterdir():
            child.rename(destination / child.name)
    for entry in entries:
        if entry.type == "commit":
            below = destination / PurePath(entry.path).relative_to(folder)
            check_out(_submodule(repository, commit, entry), entry.id, below, "")


def _write(repository: Repository, commit: str, work_tree: Path, paths: list[str]) -> None:
    """Write files of a commit into a working tree of its own, by an index of its own.

    In a working tree of its own, git takes .gitattributes from the commit, not from what the user
    is editing.
    """
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        repository.run("read-tree", commit, index=index)
        write = ("checkout-index", "-z", "--stdin")
        repository.run(*write, index=index, work_tree=work_tree, paths=paths)
        ask = ("check-attr", "-z", "--stdin", "--cached", "filter")
        filters = repository.run(*ask, index=index, work_tree=work_tree, paths=paths).fields
    pointers = [
        path
        for path, value in zip(filters[0::3], filters[2::3], strict=True)
        if value == "lfs" and _is_pointer(work_tree / path)
    ]
    if pointers:
        raise SourceError(
            f"{repository.root} has files whose contents are in Git LFS and not here:\n"
            + "".join(f"  {printable(path)}\n" for path in pointers)
            + "Install git-lfs, then run `git lfs install` and `git lfs pull`."
        )


def _is_pointer(file: Path) -> bool:
    if file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as content:
        return content.read(len(_LFS_POINTER)) == _LFS_POINTER


def _submodule(repository: Repository, commit: str, entry: Entry) -> Repository:
    """Return the local repository that has the commit which is recorded for a submodule."""
    for candidate in submodule_repositories(repository, commit, entry.path):
        if candidate.has(entry.id):
            return candidate
    raise SourceError(
        f"Commit {entry.id[:10]} of the submodule {printable(entry.path)} is not here. Run "
        f"`git submodule update --init --recursive` in {repository.root}; for a commit that is not "
        "checked out, also `git fetch` in the submodule."
    )


def submodule_repositories(repository: Repository, commit: str, path: str) -> Iterator[Repository]:
    """Yield where a submodule may be: in the working tree, or below the git folder by its name."""
    work_tree = repository.root / path
    if (work_tree / ".git").exists():
        yield Repository(work_tree)
    modules = ("config", "-z", f"--blob={commit}:.gitmodules", "--get-regexp", r"\.path$")
    for field in repository.run(*modules, may_fail=True).fields:
        key, _, value = field.partition("\n")
        name = key.removeprefix("submodule.").removesuffix(".path")
        if value != path or ".." in PurePath(name).parts:
            continue
        for option in ("--git-dir", "--git-common-dir"):
            git_dir = repository.root / repository.run("rev-parse", option).line / "modules" / name
            if (git_dir / "HEAD").is_file():
                yield Repository(git_dir, git_dir)
