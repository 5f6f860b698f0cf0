"""Past source: a repository of this host that has a past commit, fetched where none has it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from . import _remotes
from ._errors import ReproduceError, SourceError
from ._repository import Repository, own_environment
from ._source import Source, restore_snapshot


@own_environment()
def locate(
    source: Source,
    here: Sequence[Path],
    remote: str | None,
    cache: Path,
    patch: bytes | None = None,
) -> Source:
    """Return ``source`` with the place of a repository that has its commit.

    The folders ``here`` are looked at first, then ``remote`` (an address) is cloned, or its clone
    below ``cache`` brought up to date. Of a snapshot, its parent is looked for, and ``patch`` makes
    it again there. Raises ``ReproduceError`` where none has the commit.
    """
    tried: dict[str, str] = {}
    for folder in dict.fromkeys(here):
        repository = _repository(folder)
        if repository is None:
            tried[str(folder)] = "no repository"
        elif _has(repository, source.commit):
            return replace(source, clone=repository.root)
        else:
            tried[str(repository.root)] = "does not have it"
    address = remote or source.remote_url
    if address is not None:
        try:
            clone = _fetched(address, source.commit, cache)
        except SourceError as error:
            tried[address] = _last_line(error)
        else:
            if clone is not None:
                return replace(source, clone=clone)
            tried[address] = "does not give it: it was never pushed there, or is on no branch now"
    places = "".join(f"\n  {place}: {what}" for place, what in tried.items())
    raise ReproduceError(
        f"Commit {source.commit[:12]} of {source.root} is not to be had. Tried:{places}\n"
        "Run this in a clone that has it, or name one with --repository, or the address of one "
        "with --remote."
    )


def _repository(folder: Path) -> Repository | None:
    try:
        return Repository.containing(folder)
    except SourceError:
        return None


def _fetched(address: str, commit: str, cache: Path) -> Path | None:
    """Return a clone of ``address`` that has ``commit``; None where it does not have it."""
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / hashlib.sha256(address.encode()).hexdigest()[:16]
    with _alone(folder.with_suffix(".lock")):
        if not folder.exists():
            _clone(address, folder)
        clone = Repository(folder)
        if not _has(clone, commit):
            clone.run("fetch", "--quiet", "--tags", "origin")
        if not _has(clone, commit):  # no branch has it any more; servers may give it all the same
            clone.run("fetch", "--quiet", "origin", commit, may_fail=True)
        if not _has(clone, commit):
            return None
        if clone.entry(commit, ".gitmodules") is not None:
            clone.run("checkout", "--quiet", "--force", "--detach", commit)
            # What could not be had is named when the commit's files are written out.
            update = ("submodule", "update", "--init", "--recursive", "--quiet")
            clone.run(*update, may_fail=True)
    return folder


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
        yield
    finally:
        os.close(handle)


def _last_line(error: SourceError) -> str:
    """Return the last thing that git said, which is why it gave up."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith("fatal:")]
    return (fatal or lines)[-1]
