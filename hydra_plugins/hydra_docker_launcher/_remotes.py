"""Remotes: where else a commit can be had from, and how it gets here."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from ._errors import SourceError
from ._private import without_credentials
from ._repository import Repository

FETCHED = "refs/hydra-docker/fetched/"

_QUIETLY = (
    "--quiet",
    "--no-tags",
    "--no-prune",
    "--no-write-fetch-head",
    "--no-auto-maintenance",
    "--no-recurse-submodules",
    "--refmap=",  # leaves origin's branches where they are
    "--end-of-options",
)


def default_remote(repository: Repository) -> str | None:
    """Return ``origin``, or else the first remote, None where there is none."""
    remotes = repository.run("remote").lines
    if not remotes:
        return None
    return "origin" if "origin" in remotes else remotes[0]


def remote_url(repository: Repository) -> str | None:
    """Return the URL of the default remote, without password or token."""
    name = default_remote(repository)
    if name is None:
        return None
    url = repository.run("remote", "get-url", name, may_fail=True).line
    return without_credentials(url) or None


def branches_with(repository: Repository, commit: str, remote: str) -> tuple[str, ...]:
    """Return the branches of a remote that had the commit when it was last fetched or pushed to."""
    tracking = tuple(_tracking(repository, remote))
    if not tracking:
        return ()
    folders = [here.partition("*")[0].rpartition("/")[0] for _, here in tracking]
    ask = ("--contains", commit, "--format=%(refname)%00%(symref)")
    found = []
    for line in repository.run("for-each-ref", *ask, *folders).lines:
        ref, _, target = line.partition("\0")
        names = (_name_there(ref, there, here) for there, here in tracking if not target)
        found += [name.removeprefix("refs/heads/") for name in names if name is not None]
    return tuple(dict.fromkeys(found))


def _tracking(repository: Repository, remote: str) -> Iterator[tuple[str, str]]:
    """Yield where refs of a remote are, and where they come to here (``refs/remotes/origin/*``)."""
    ask = ("config", "-z", "--get-all", f"remote.{remote}.fetch")
    for refspec in repository.run(*ask, may_fail=True).fields:
        there, _, here = refspec.removeprefix("+").partition(":")
        # A mirror's refs are the user's own as well: they tell nothing of the remote.
        if not refspec.startswith("^") and here and not here.startswith("refs/heads/"):
            yield there, here


def _name_there(ref: str, there: str, here: str) -> str | None:
    """Return the remote's name of what is ``ref`` here, None where a refspec does not say so."""
    before, star, after = here.partition("*")
    if not star:
        return there if ref == here else None
    if not (ref.startswith(before) and ref.endswith(after)):
        return None
    return there.replace("*", ref.removeprefix(before).removesuffix(after))


def fetch(repository: Repository, commit: str, *, remote: str, branch: str | None) -> None:
    """See that a commit is here: asked for by its id, else by its branch, else by all refs.

    ``remote`` is a name or a URL. No branch, tag or FETCH_HEAD changes; a hidden ref keeps the
    commit. Raises where the remote cannot be read or does not have it.
    """
    if repository.has(commit):
        return
    said = ""
    for refs in _ways_to_ask(repository, commit, remote, branch):
        answer = repository.run("fetch", *_QUIETLY, remote, *refs, may_fail=True)
        said = answer.err.strip()
        if repository.has(commit):
            # Its reflog tells when that was.
            noted = ("--create-reflog", "-m", "fetched by hydra/launcher=docker")
            now = {"GIT_COMMITTER_DATE": f"@{int(time.time())} +0000"}
            repository.run("update-ref", *noted, FETCHED + commit, commit, variables=now)
            return
    shallow = repository.run("rev-parse", "--is-shallow-repository").line == "true"
    hint = " The clone is shallow: `git fetch --unshallow` gets older commits." if shallow else ""
    raise SourceError(
        f"Commit {commit} is not in {repository.root}, and {without_credentials(remote)} does not "
        "give it: it was never pushed there, or that remote cannot be read from here."
        f"{hint}\n{without_credentials(said)}".rstrip()
    )


def _ways_to_ask(
    repository: Repository, commit: str, remote: str, branch: str | None
) -> Iterator[tuple[str, ...]]:
    yield (commit,)  # which not every server allows
    if branch is not None:
        yield (f"refs/heads/{branch}",)
    ask = ("--quiet", "--refs", "--heads", "--tags", "--end-of-options", remote)
    every = repository.run("ls-remote", *ask, may_fail=True).lines
    if every:
        yield tuple(line.partition("\t")[2] for line in every)


def address(repository: Repository, remote: str) -> str:
    """Return the URL of a remote, by its name or by a URL, as git would use it.

    It may have a password in it. A relative path is made absolute. Raises ``SourceError`` where
    there is no such remote.
    """
    names = repository.run("remote").lines
    if remote not in names and not re.search(r"[/:]", remote):
        there = f"there are {', '.join(names)}" if names else "the repository has none"
        raise SourceError(
            f"hydra.launcher.remote={remote}: {repository.root} has no such remote; {there}. Add "
            f"it (git remote add {remote} URL), or name another remote or a URL."
        )
    asked = ("remote", "get-url") if remote in names else ("ls-remote", "--get-url")
    url = repository.run(*asked, "--end-of-options", remote).line
    is_path = "://" not in url and ":" not in url.split("/")[0]
    return str((repository.root / url).resolve()) if is_path else url


def refs_with(repository: Repository, commit: str, remote: str) -> tuple[str, ...]:
    """Return the refs of a remote that have a commit, as they are called there.

    They are looked for where the last fetch or push has noted them; where none has it, the remote
    is asked for its branches and tags. Raises ``SourceError`` where it then does not answer.
    """
    if remote in repository.run("remote").lines:
        found = branches_with(repository, commit, remote)
        if found:
            return tuple(f"refs/heads/{name}" for name in found)
    return tuple(
        ref
        for tip, ref in _advertised(repository, remote)
        if repository.run("merge-base", "--is-ancestor", commit, tip, may_fail=True).status == 0
    )


def _advertised(repository: Repository, remote: str) -> Iterator[tuple[str, str]]:
    """Yield the tips of a remote's branches and tags, and their refs."""
    answer = repository.run(
        "ls-remote", "--heads", "--tags", "--end-of-options", remote, may_fail=True
    )
    if answer.status != 0:
        raise SourceError(
            f"hydra.launcher.remote={remote}: it was asked for its branches, and does not answer:\n"
            f"{without_credentials(answer.err)}"
        )
    for line in answer.lines:
        tip, ref = line.split("\t", 1)
        yield tip, ref.removesuffix("^{}")
