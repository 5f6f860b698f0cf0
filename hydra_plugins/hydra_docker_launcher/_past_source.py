"""Past source: a repository of this host that has a past commit, fetched where none has it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from . import _remotes, _source
from ._errors import ReproduceError, SourceError
from ._repository import Repository, own_environment
from ._source import Source


@dataclass(frozen=True, slots=True)
class FoundSource:
    """The code of then, and in a sentence how it was had, if not from where it was."""

    source: Source
    remark: str | None = None


@dataclass(frozen=True, slots=True)
class Places:
    """Where a commit may be: folders of this host, then ``remote``, an address.

    What is cloned is kept below ``cache``.
    """

    here: tuple[Path, ...]
    remote: str | None
    cache: Path


@own_environment()
def locate(source: Source, places: Places, patch: bytes | None = None) -> FoundSource:
    """Return ``source`` with the place of a repository that has its commit.

    ``patch`` makes a snapshot out of its parent, where only that is there. Raises
    ``ReproduceError`` where neither is to be had, and says what was tried.
    """
    repositories = {folder: _repository(folder) for folder in dict.fromkeys(places.here)}
    tried: dict[str, str] = {}
    for folder, repository in repositories.items():
        if repository is None:
            tried[str(folder)] = "no repository"
        elif repository.has(source.commit):
            return FoundSource(_placed(source, repository, patch))
        else:
            tried[str(repository.root)] = "does not have it"
    needed = source.commit if source.parent is None or patch is None else source.parent
    for repository in filter(None, repositories.values()):
        if repository.has(needed):
            return _restored(source, repository, patch)
    address = places.remote or _address(source)
    if address is not None:
        shown = _source.without_password(address)
        try:
            clone = _fetched(address, needed, source.branch, places.cache)
        except SourceError as error:
            tried[shown] = _source.without_password(_last_line(error))
        else:
            if needed == source.commit:
                return FoundSource(_placed(source, clone, patch), f"the commit is from {shown}")
            return _restored(source, clone, patch)
    what = "" if needed == source.commit else f", and the patch is one of {needed[:12]}"
    shown_places = "".join(f"\n  {place}: {said}" for place, said in tried.items())
    raise ReproduceError(
        f"Commit {source.commit[:12]} of {source.root} is not to be had{what}. Tried:"
        f"{shown_places or ' nothing'}\n"
        "Run this in a clone that has it, or name one with --repository, or the address of one "
        "with --remote."
    )


def _address(source: Source) -> str | None:
    """Return the remote of then; one that was a relative path, from where the repository was."""
    url = source.remote_url
    if url is None or "://" in url or ":" in url.split("/")[0]:
        return url
    return os.path.normpath(source.root / url)


def _repository(folder: Path) -> Repository | None:
    try:
        return Repository.containing(folder)
    except SourceError:
        return None


def _placed(source: Source, repository: Repository, patch: bytes | None) -> Source:
    placed = replace(source, clone=repository.root)
    if source.parent is None or patch is None or not repository.has(source.parent):
        return placed
    return _source.restore_snapshot(placed, patch)  # whose hidden ref may be gone


def _restored(source: Source, repository: Repository, patch: bytes | None) -> FoundSource:
    made = _placed(source, repository, patch)
    parent = (source.parent or "")[:12]
    return FoundSource(made, f"the commit was made again: {parent} with the patch of the run")


def _fetched(address: str, commit: str, branch: str | None, cache: Path) -> Repository:
    """Return a clone of ``address`` that has ``commit``. Raises ``SourceError`` where none can."""
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = cache / hashlib.sha256(address.encode()).hexdigest()[:16]
    with _alone(folder.with_suffix(".lock")):
        if not folder.exists():
            _clone(address, folder)
        clone = Repository(folder)
        if not clone.has(commit):
            clone.run("fetch", "--quiet", "--tags", "origin", may_fail=True)
            _remotes.fetch(clone, commit, remote="origin", branch=branch)
        if clone.entry(commit, ".gitmodules") is not None:
            clone.run("checkout", "--quiet", "--force", "--detach", commit)
            # What could not be had is named when the commit's files are written out.
            update = ("submodule", "update", "--init", "--recursive", "--quiet")
            clone.run(*update, may_fail=True)
    return clone


def _clone(address: str, folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        arguments = ("--no-checkout", "--quiet", "--", address, str(partial))
        Repository(folder.parent).run("clone", *arguments)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one process at a time clone and fetch."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.utime(handle)  # when the clone was last used (hydra-docker gc)
        yield
    finally:
        os.close(handle)


def _last_line(error: SourceError) -> str:
    """Return why git gave up, which it says last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith("fatal:")]
    return (fatal or lines[:1])[-1]
