"""Hidden refs of a repository and of its submodules: when they were made, and what names them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from . import _gc_plan
from ._changes import printable
from ._gc_plan import FoundRef, Terms, Thing
from ._remotes import FETCHED
from ._repository import Repository, own_environment
from ._snapshot import GITLINK, REFS


@own_environment()
def judged(repository: Repository, named: Mapping[str, str], terms: Terms) -> list[Thing]:
    """Judge the hidden refs of a repository; what one that stays needs of a submodule stays too."""
    things = _gc_plan.refs(_found(repository), named, terms)
    kept = [thing.keys[2] for thing in things if not thing.goes]
    links = {
        link: f"{printable(path)} of {commit[:12]} is this commit"
        for commit in kept
        for path, link in _links(repository, commit)
    }
    for submodule in _submodules(repository):
        things += judged(submodule, {**links, **named}, terms)
    return things


@own_environment()
def worktrees(repository: Repository) -> list[Path]:
    """Return the working trees that share the refs of a repository, itself the first."""
    listed = repository.run("worktree", "list", "--porcelain", "-z", may_fail=True).fields
    paths = [Path(line.removeprefix("worktree ")) for line in listed if line[:9] == "worktree "]
    return list(dict.fromkeys([repository.root, *(path for path in paths if path.is_dir())]))


@own_environment()
def remove(thing: Thing) -> None:
    """Remove a hidden ref, unless it leads elsewhere by now. Raises ``SourceError``."""
    root, ref, commit = thing.keys
    repository = Repository(Path(root))
    repository.run("update-ref", "-d", ref, commit, settings=("core.filesRefLockTimeout=10000",))


def _found(repository: Repository) -> Iterator[FoundRef]:
    listed = repository.run("for-each-ref", "--format=%(refname) %(objectname)", REFS, FETCHED)
    for line in listed.lines:
        ref, _, commit = line.partition(" ")
        yield FoundRef(repository.root, ref, commit, _made(repository, ref))


def _made(repository: Repository, ref: str) -> float | None:
    """Return when a ref was made: by its reflog, else by its file, else it was before the packing.

    Git forgets the entries of reflogs after 90 days, and packs refs into one file.
    """
    ask = ("-1", "--walk-reflogs", "--date=unix", "--format=%gd", ref)
    noted = re.search(r"@\{(\d+)\}$", repository.run("log", *ask, may_fail=True).line)
    if noted is not None:
        return float(noted[1])
    for name in (ref, "packed-refs"):
        try:
            return repository.path(name).stat().st_mtime
        except OSError:
            continue
    return None


def _links(repository: Repository, commit: str) -> Iterable[tuple[str, str]]:
    if repository.has(commit):
        for entry in repository.entries(commit, ""):
            if entry.mode == GITLINK:
                yield entry.path, entry.id


def _submodules(repository: Repository) -> Iterator[Repository]:
    for line in repository.run("ls-files", "-z", "--stage").fields:
        described, _, path = line.partition("\t")
        root = repository.root / path
        if described.startswith(GITLINK) and (root / ".git").exists():
            yield Repository(root)
