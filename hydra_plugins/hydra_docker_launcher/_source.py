"""Source: a git revision becomes a commit and that commit's files.

Nothing here changes the user's branches, index, stash or files, nor runs a hook. A snapshot or a
fetched commit adds objects and a hidden ref. (Where a clone is partial, git itself may fetch
objects that are missing.)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from . import _patch, _remotes, _revision, _snapshot
from ._changes import (
    INSIDE_SUBMODULE,
    Change,
    counted,
    listing,
    parse,
    printable,
    written_by_runs,
)
from ._checkout import TreeFile, check_out, list_files, locate
from ._errors import SourceError
from ._private import without_credentials
from ._repository import Repository, own_environment, tree_path


@dataclass(frozen=True, slots=True)
class Source:
    """One commit of one repository.

    ``root`` is the absolute real path of the repository's top folder, also as jobs see it;
    ``clone`` is where it is on this host, if not there. ``commit`` has 40 hex digits.
    ``left_out`` lists uncommitted changes (paths relative to ``root``) that the sweep runs without
    (``dirty=ignore``). ``commit`` can be a snapshot of uncommitted changes (``dirty=snapshot``):
    then ``parent`` is the commit that they were made on, and ``changed`` lists their paths.
    """

    root: Path
    commit: str
    branch: str | None
    remote_url: str | None
    left_out: tuple[str, ...] = ()
    clone: Path | None = None
    parent: str | None = None
    changed: tuple[str, ...] = ()

    @property
    def repository(self) -> Path:
        """The top folder of the repository on this host."""
        return self.clone or self.root

    @property
    def dirty(self) -> bool:
        """Whether the code is in no commit of the user's."""
        return self.parent is not None

    @property
    def base(self) -> str:
        """The commit of the user's that the code is, or was made on."""
        return self.parent or self.commit


@own_environment()
def pin(
    location: Path,
    *,
    revision: str,
    dirty: str,
    config_dirs: tuple[Path, ...],
    own_paths: tuple[Path, ...],
    snapshot_limit: int = 0,
) -> Source:
    """Resolve ``revision`` in the repository that contains ``location`` (a script or a folder).

    Uncommitted changes that would change the code raise with ``dirty="error"``, become ``left_out``
    with ``dirty="ignore"``, and a commit on top with ``dirty="snapshot"``, in which untracked files
    may have ``snapshot_limit`` bytes. They are looked for only when ``revision`` is the commit
    that is checked out: who names another one asks for that one, not for what is being edited.
    """
    repository = Repository.containing(location)
    commit = _revision.resolve(repository, revision)
    checked_out = repository.run("rev-parse", "HEAD", may_fail=True).line == commit
    changes: tuple[Change, ...] = ()
    if checked_out:
        every = _changes(repository)
        changes = counted(every, repository.root, config_dirs=config_dirs, own_paths=own_paths)
    if changes and dirty == "error":
        raise SourceError(
            f"{repository.root} has uncommitted changes, and the jobs would run commit "
            f"{commit[:10]} without them:\n{listing(changes)}\n"
            "Commit or stash them, run them as they are (hydra.launcher.dirty=snapshot), or run "
            "the commit without them (hydra.launcher.dirty=ignore). Files that are no code belong "
            "in .gitignore."
        )
    source = Source(
        root=repository.root,
        commit=commit,
        branch=_revision.branch(repository, revision, checked_out=checked_out),
        remote_url=_remotes.remote_url(repository),
    )
    if changes and dirty == "snapshot":
        leave_out = written_by_runs(repository.root, own_paths)
        made = _snapshot.take(repository, leave_out=leave_out, limit=snapshot_limit)
        return source if made == commit else _on_top(source, made)
    source = replace(source, left_out=tuple(printable(change.path) for change in changes))
    if not _snapshot.is_kept(repository, commit):
        return source
    parent = repository.run("rev-parse", "--verify", f"{commit}^").line  # an earlier snapshot
    return _on_top(replace(source, commit=parent), commit)


def _on_top(source: Source, snapshot: str) -> Source:
    parent = source.commit
    paths = _patch.changed_paths(Repository(source.repository), parent, snapshot)
    changed = tuple(printable(path) for path in paths)
    return replace(source, commit=snapshot, parent=parent, changed=changed)


@own_environment()
def patch(source: Source) -> bytes | None:
    """Return what `git apply --index` makes a snapshot of its parent with; None of no snapshot."""
    if source.parent is None:
        return None
    return _patch.make(Repository(source.repository), source.parent, source.commit)


@own_environment()
def restore_snapshot(source: Source, text: bytes) -> Source:
    """Make the snapshot ``source`` in a clone that does not have it, out of its patch.

    ``source`` needs root, commit and parent. Raises where the parent is not here, or where
    something else than the same commit comes out.
    """
    repository = Repository(source.repository)
    if source.parent is None:
        raise SourceError(f"Commit {source.commit[:10]} is no snapshot: there is nothing to apply.")
    if not _snapshot.is_kept(repository, source.commit):
        if not repository.has(source.parent):
            raise SourceError(
                f"Commit {source.parent[:10]}, which the snapshot {source.commit[:10]} was made "
                f"on, is not in {source.repository}: fetch it first."
            )
        _patch.restore(repository, commit=source.commit, parent=source.parent, text=text)
    return _on_top(replace(source, commit=source.parent), source.commit)


@own_environment()
def require_file(source: Source, path: Path) -> None:
    """Raise unless ``path`` (absolute, below the root) is a file in the commit."""
    real = path.parent.resolve() / path.name
    if not real.is_relative_to(source.root):
        raise SourceError(f"{path} is not in the repository {source.root}: no commit of it has it.")
    below = tree_path(real.relative_to(source.root))
    entry = Repository(source.repository).entry(source.commit, below)
    if (entry is None or entry.type != "blob") and source.dirty:
        raise SourceError(
            f"{path} is not in the snapshot {source.commit[:10]} of the working tree: it is in "
            ".gitignore, or in a folder of outputs."
        )
    if entry is None or entry.type != "blob":
        raise SourceError(
            f"{path} is not in commit {source.commit[:10]}: it is untracked, or newer than the "
            "commit. Run `git add` and `git commit` on it, or name a commit that has it with "
            "hydra.launcher.commit."
        )


@own_environment()
def is_tracked(path: Path) -> bool:
    """Whether a file is in a repository that knows it (in its index)."""
    try:
        repository = Repository.containing(path)
    except SourceError:
        return False
    below = tree_path(path.relative_to(repository.root))
    return bool(repository.run("ls-files", "-z", "--", below).fields)


@own_environment()
def files(source: Source, folder: PurePath | str = "") -> frozenset[str]:
    """Return the paths, relative to the root, of the files and links below ``folder``."""
    entries = Repository(source.repository).entries(source.commit, tree_path(folder))
    return frozenset(entry.path for entry in entries if entry.type == "blob")


@own_environment()
def tree(source: Source, folder: PurePath | str = "") -> tuple[TreeFile, ...]:
    """Return the files and links below ``folder``, submodules included, relative to it."""
    return tuple(list_files(Repository(source.repository), source.commit, tree_path(folder)))


@own_environment()
def attributes(source: Source, folder: PurePath | str) -> tuple[str, ...]:
    """Return the content ids of the .gitattributes in the folders above ``folder``.

    They have a say in what a checkout of it holds.
    """
    repository, commit, below = locate(
        Repository(source.repository), source.commit, tree_path(folder)
    )
    above = [str(PurePath(place, ".gitattributes")) for place in PurePath(below).parents]
    entries = [repository.entry(commit, path) for path in above]
    return tuple(entry.id for entry in entries if entry is not None)


@own_environment()
def read_text(source: Source, path: PurePath | str) -> str | None:
    """Return a file's text as the commit has it, no filter applied; None where it has none.

    A symbolic link is not followed: None. A file of a submodule is one of the commit.
    """
    whole = PurePath(tree_path(path))
    folder = tree_path(whole.parent)
    repository, commit, folder = locate(Repository(source.repository), source.commit, folder)
    entry = repository.entry(commit, tree_path(PurePath(folder, whole.name)))
    if entry is None or entry.mode not in {"100644", "100755"}:
        return None
    return os.fsencode(repository.run("cat-file", "blob", entry.id).out).decode(errors="replace")


@own_environment()
def read_texts(source: Source, paths: Iterable[PurePath | str]) -> dict[str, str]:
    """Return the texts of many files, as ``read_text`` does; those that the commit has."""
    repository = Repository(source.repository)
    wanted = {tree_path(path) for path in paths}
    regular = {
        entry.path: entry.id
        for entry in (repository.entries(source.commit, "") if wanted else ())
        if entry.path in wanted and entry.mode in {"100644", "100755"}
    }
    contents = repository.blobs(regular.values())
    return {path: contents[blob].decode(errors="replace") for path, blob in regular.items()}


@own_environment()
def commit_time(source: Source) -> int:
    """Return when the commit was made, in seconds since the epoch."""
    log = ("log", "-1", "--no-show-signature", "--format=%ct")
    return int(Repository(source.repository).run(*log, source.commit).line)


@own_environment()
def export(source: Source, destination: Path, folder: PurePath | str = "") -> None:
    """Write the commit's files below ``folder`` into the empty directory ``destination``.

    They are what a fresh checkout would hold: modes, links, line endings and smudge filters, with
    submodules at their recorded commits. Attributes that concern `git archive` alone do not count.
    """
    check_out(
        Repository(source.repository), source.commit, destination.resolve(), tree_path(folder)
    )


def _changes(repository: Repository) -> Iterator[Change]:
    """Yield every difference from HEAD, in the index, the working tree and inside submodules."""
    form = ("--porcelain=v2", "-z", "--untracked-files=all", "--ignore-submodules=none")
    for change in parse(repository.run("status", *form).out):
        if change.kind == INSIDE_SUBMODULE:
            submodule = Repository(repository.root / change.path)
            yield from (inner.inside(change.path) for inner in _changes(submodule))
        else:
            yield change


# ---- remotes ---------------------------------------------------------------------------------


@own_environment()
def is_pushed(source: Source) -> bool | None:
    """Whether the commit, or a snapshot's parent, is on a branch of a remote; None: no remote."""
    repository = Repository(source.repository)
    remotes = repository.run("remote").lines
    if not remotes:
        return None
    return any(_remotes.branches_with(repository, source.base, remote) for remote in remotes)


@own_environment()
def push_command(source: Source) -> str:
    """Return the command that gives others the commit, or a snapshot's parent."""
    remote = _remotes.default_remote(Repository(source.repository)) or "origin"
    return f"git push {remote} {source.branch or f'{source.base[:12]}:refs/heads/<a new branch>'}"


@own_environment()
def remote_address(source: Source, remote: str) -> str:
    """Return the URL of a remote, by its name or by a URL; see ``_remotes.address``."""
    return _remotes.address(Repository(source.repository), remote)


@own_environment()
def remote_refs_with(source: Source, remote: str) -> tuple[str, ...]:
    """Return the refs of a remote that have the commit; see ``_remotes.refs_with``."""
    return _remotes.refs_with(Repository(source.repository), source.commit, remote)


def without_password(url: str) -> str:
    """Return a URL without what may be a secret: a password, and the user but for ssh."""
    return without_credentials(url)
