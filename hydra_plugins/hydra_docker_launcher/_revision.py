"""Revision: what the user names becomes a commit, or an error that says what was meant."""

from __future__ import annotations

import difflib
import re

from ._errors import SourceError
from ._repository import Repository

_OBJECT_ID = re.compile(r"[0-9a-f]{40,64}")


def resolve(repository: Repository, revision: str) -> str:
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


def branch(repository: Repository, revision: str, *, checked_out: bool) -> str | None:
    """Return the branch that a revision names, else the one that is checked out at its commit."""
    for name in (revision, "HEAD") if checked_out else (revision,):
        full = repository.run("rev-parse", "--symbolic-full-name", name, may_fail=True).line
        if full.startswith("refs/heads/"):
            return full.removeprefix("refs/heads/")
    return None
