"""Source: a git revision becomes a commit and that commit's files.

Nothing here writes to the user's repository: no refreshed index, no hook, no ref. (Where a clone is
partial, git itself may fetch objects that are missing.)
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from ._changes import INSIDE_SUBMODULE, Change, counted, listing, parse, printable
from ._checkout import check_out
from ._errors import SourceError
from ._repository import Repository, own_environment, tree_path

_OBJECT_ID = re.compile(r"[0-9a-f]{40,64}")
_URL_CREDENTIALS = re.compile(r"(?P<scheme>[\w+.-]+)://(?P<user>[^/@:]*)[^/]*@")


@dataclass(frozen=True, slots=True)
class Source:
    """One commit of one repository.

    ``root`` is the absolute real path of the repository's top folder, ``commit`` its 40 hex digits.
    ``left_out`` lists uncommitted changes (paths relative to ``root``) that the sweep runs without
    (``dirty=ignore``).
    """

    root: Path
    commit: str
    branch: str | None
    remote_url: str | None
    left_out: tuple[str, ...] = ()


@own_environment()
def pin(
    location: Path,
    *,
    revision: str,
    dirty: str,
    config_dirs: tuple[Path, ...],
    own_paths: tuple[Path, ...],
) -> Source:
    """Resolve ``revision`` in the repository that contains ``location`` (a script or a folder).

    Uncommitted changes that would change the code raise with ``dirty="error"`` and become
    ``left_out`` with ``dirty="ignore"``. They are looked for only when ``revision`` is the commit
    that is checked out: who names another one asks for that one, not for what is being edited.
    """
    repository = Repository.containing(location)
    commit = _resolve(repository, revision)
    checked_out = repository.run("rev-parse", "HEAD", may_fail=True).line == commit
    changes: tuple[Change, ...] = ()
    if checked_out:
        every = _changes(repository)
        changes = counted(every, repository.root, config_dirs=config_dirs, own_paths=own_paths)
    if changes and dirty != "ignore":
        raise SourceError(
            f"{repository.root} has uncommitted changes, and the jobs would run commit "
            f"{commit[:10]} without them:\n{listing(changes)}\n"
            "Commit or stash them, or run the commit without them (hydra.launcher.dirty=ignore). "
            "Files that are no code belong in .gitignore."
        )
    return Source(
        root=repository.root,
        commit=commit,
        branch=_branch(repository, revision, checked_out=checked_out),
        remote_url=_remote_url(repository),
        left_out=tuple(printable(change.path) for change in changes),
    )


@own_environment()
def require_file(source: Source, path: Path) -> None:
    """Raise unless ``path`` (absolute, below the root) is a file in the commit."""
    real = path.parent.resolve() / path.name
    if not real.is_relative_to(source.root):
        raise SourceError(f"{path} is not in the repository {source.root}: no commit of it has it.")
    below = tree_path(real.relative_to(source.root))
    entry = Repository(source.root).entry(source.commit, below)
    if entry is None or entry.type != "blob":
        raise SourceError(
            f"{path} is not in commit {source.commit[:10]}: it is untracked, or newer than the "
            "commit. Run `git add` and `git commit` on it, or name a commit that has it with "
            "hydra.launcher.commit."
        )


@own_environment()
def files(source: Source, folder: PurePath | str = "") -> frozenset[str]:
    """Return the paths, relative to the root, of the files and links below ``folder``."""
    entries = Repository(source.root).entries(source.commit, tree_path(folder))
    return frozenset(entry.path for entry in entries if entry.type == "blob")


@own_environment()
def folder_id(source: Source, folder: PurePath | str) -> str | None:
    """Return the object id of a folder of the commit: equal ids mean equal files in it.

    None where the commit has no such folder; a submodule is none.
    """
    entry = Repository(source.root).entry(source.commit, tree_path(folder))
    return entry.id if entry is not None and entry.type == "tree" else None


@own_environment()
def read_text(source: Source, path: PurePath | str) -> str | None:
    """Return a file's text as the commit has it, no filter applied; None where it has none.

    A symbolic link is not followed: None.
    """
    repository = Repository(source.root)
    entry = repository.entry(source.commit, tree_path(path))
    if entry is None or entry.mode not in {"100644", "100755"}:
        return None
    return os.fsencode(repository.run("cat-file", "blob", entry.id).out).decode(errors="replace")


@own_environment()
def commit_time(source: Source) -> int:
    """Return when the commit was made, in seconds since the epoch."""
    log = ("log", "-1", "--no-show-signature", "--format=%ct")
    return int(Repository(source.root).run(*log, source.commit).line)


@own_environment()
def export(source: Source, destination: Path, folder: PurePath | str = "") -> None:
    """Write the commit's files below ``folder`` into the empty directory ``destination``.

    They are what a fresh checkout would hold: modes, links, line endings and smudge filters, with
    submodules at their recorded commits. Attributes that concern `git archive` alone do not count.
    """
    check_out(Repository(source.root), source.commit, destination.resolve(), tree_path(folder))


def _resolve(repository: Repository, revision: str) -> str:
    """Return the commit that a revision names; gitrevisions(7) says what that can be."""
    answer = repository.run("rev-parse", "--verify", f"{revision}^{{commit}}", may_fail=True)
    name = re.search(r"refname '(.+)' is ambiguous", answer.err)
    if name is not None:
        raise SourceError(_ambiguous(repository, name[1]))
    if "is ambiguous" in answer.err:
        named = _named(repository, revision)
        raise SourceError(f"{named} is ambiguous. Give more digits of the id:\n{answer.err}")
    if answer.status != 0 or _OBJECT_ID.fullmatch(answer.line) is None:
        raise SourceError(_unknown(repository, revision))
    return answer.line


def _named(repository: Repository, revision: str) -> str:
    return f"hydra.launcher.commit={revision} in {repository.root}"


def _ambiguous(repository: Repository, name: str) -> str:
    known = repository.run("for-each-ref", "--format=%(refname)").lines
    forms = (f"tags/{name}", f"heads/{name}", f"remotes/{name}", f"remotes/{name}/HEAD")
    meanings = [form for form in forms if f"refs/{form}" in known]
    if len(meanings) == 1:
        meanings.append("the id of a commit")
    return (
        f"{_named(repository, name)} is ambiguous: it can be {' or '.join(meanings)}. "
        "Write out which one is meant."
    )


def _unknown(repository: Repository, revision: str) -> str:
    names = repository.run("for-each-ref", "--format=%(refname:short)").lines
    if not names and repository.run("rev-parse", "--verify", "HEAD", may_fail=True).status != 0:
        return f"{repository.root} has no commit yet: run `git add` and `git commit` there."
    message = f"{_named(repository, revision)} is no commit: there is no such branch, tag or id."
    base = re.split(r"[~^@:]", revision)[0]
    elsewhere = [name for name in names if name.endswith(f"/{base}")]
    near = dict.fromkeys([*elsewhere, *difflib.get_close_matches(base, names)])
    if near:
        message += f" Did you mean {' or '.join(near)}?"
    if repository.run("rev-parse", "--is-shallow-repository").line == "true":
        message += " The clone is shallow: `git fetch --unshallow` gets the older commits."
    return message


def _branch(repository: Repository, revision: str, *, checked_out: bool) -> str | None:
    """Return the branch that a revision names, else the one that is checked out at its commit."""
    for name in (revision, "HEAD") if checked_out else (revision,):
        full = repository.run("rev-parse", "--symbolic-full-name", name, may_fail=True).line
        if full.startswith("refs/heads/"):
            return full.removeprefix("refs/heads/")
    return None


def _remote_url(repository: Repository) -> str | None:
    """Return the URL of ``origin``, or else of the first remote, without password or token."""
    remotes = repository.run("remote").lines
    if not remotes:
        return None
    name = "origin" if "origin" in remotes else remotes[0]
    url = repository.run("remote", "get-url", name, may_fail=True).line
    return _URL_CREDENTIALS.sub(_without_credentials, url) or None


def _without_credentials(match: re.Match[str]) -> str:
    """Drop the user as well, which may be a token, but for ssh, which needs it."""
    user = f"{match['user']}@" if "ssh" in match["scheme"] else ""
    return f"{match['scheme']}://{user}"


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
def remote_url(source: Source, remote: str) -> str:
    """Return the URL of a remote, by its name or by a URL, as git would use it.

    It may have a password in it. A relative path is made absolute. Raises ``SourceError`` where
    there is no such remote.
    """
    repository = Repository(source.root)
    names = repository.run("remote").lines
    if remote not in names and not re.search(r"[/:]", remote):
        there = f"there are {', '.join(names)}" if names else "the repository has none"
        raise SourceError(
            f"hydra.launcher.remote={remote}: {source.root} has no such remote; {there}. Add it "
            f"(git remote add {remote} URL), or name another remote or a URL."
        )
    asked = ("remote", "get-url") if remote in names else ("ls-remote", "--get-url")
    url = repository.run(*asked, remote).line
    is_path = "://" not in url and ":" not in url.split("/")[0]
    return str((source.root / url).resolve()) if is_path else url


@own_environment()
def remote_branches(source: Source, remote: str) -> tuple[str, ...]:
    """Return the refs of a remote that have the commit, as they are called there.

    They are looked for where the last fetch or push has noted them; where none has it, the remote
    is asked for its branches and tags. Raises ``SourceError`` where it then does not answer.
    """
    repository = Repository(source.root)
    names = repository.run("remote").lines
    if remote in names:
        tracked = f"refs/remotes/{remote}/"
        has = ("--format=%(refname)", f"--contains={source.commit}", tracked)
        refs = repository.run("for-each-ref", *has).lines
        found = [ref.removeprefix(tracked) for ref in refs if ref != f"{tracked}HEAD"]
        if found:
            return tuple(f"refs/heads/{name}" for name in found)
    return tuple(
        ref
        for tip, ref in _advertised(repository, remote)
        if repository.run("merge-base", "--is-ancestor", source.commit, tip, may_fail=True).status
        == 0
    )


def without_password(url: str) -> str:
    """Return a URL without what may be a secret: a password, and the user but for ssh."""
    return _URL_CREDENTIALS.sub(_without_credentials, url)


def _advertised(repository: Repository, remote: str) -> Iterator[tuple[str, str]]:
    """Yield the tips of a remote's branches and tags, and their refs."""
    answer = repository.run("ls-remote", "--heads", "--tags", remote, may_fail=True)
    if answer.status != 0:
        raise SourceError(
            f"hydra.launcher.remote={remote}: it was asked for its branches, and does not answer:\n"
            f"{without_password(answer.err)}"
        )
    for line in answer.lines:
        tip, ref = line.split("\t", 1)
        yield tip, ref.removesuffix("^{}")
