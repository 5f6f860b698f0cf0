"""Patch: a snapshot as text, on top of its parent, and made again from it in any clone."""

from __future__ import annotations

import io
import json
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from . import _snapshot
from ._changes import printable
from ._checkout import submodule_repositories
from ._errors import SourceError
from ._repository import Repository

#: Whatever the user likes to see in a diff, and to have mended when one is applied.
_AS_IT_IS = (
    *("-r", "-p", "-U3", "--binary", "--full-index", "--no-color", "--no-renames"),
    *("--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/"),
    *("--ignore-submodules=none", "--submodule=short"),
)
_EXACTLY = ("apply.whitespace=nowarn", "apply.ignoreWhitespace=no")


def changed_paths(repository: Repository, parent: str, commit: str) -> tuple[str, ...]:
    """Return the paths in which a snapshot differs from its parent, also inside submodules."""
    differing = _tree_differences(repository, parent, commit)
    inner = {path: _made_inside(repository, commit, path, new) for path, new in differing.items()}
    paths: list[str] = []
    for path, made in inner.items():
        if made is None:
            paths.append(path)
        else:
            paths += [f"{path}/{below}" for below in changed_paths(*made)]
    return tuple(paths)


def make(repository: Repository, parent: str, commit: str) -> bytes:
    """Return what `git apply --index` needs to make the snapshot's tree of its parent's.

    What was uncommitted in a submodule follows in comments (``#|``), which git skips: a line that
    names the submodule and its commit, then the patch on that.
    """
    answer = repository.run(
        "diff-tree",
        *(*_AS_IT_IS, parent, commit),
        settings=("core.quotePath=true", "diff.suppressBlankEmpty=false"),
        variables={"GIT_DIFF_OPTS": ""},
    )
    sections = [os.fsencode(answer.out)]
    for path, new in _tree_differences(repository, parent, commit).items():
        made = _made_inside(repository, commit, path, new)
        if made is not None:
            named = json.dumps({"submodule": path, "commit": made.parent})
            lines = io.BytesIO(make(*made)).readlines()
            sections.append(f"#|= {named}\n".encode() + b"".join(b"#|" + line for line in lines))
    return b"".join(sections)


def restore(repository: Repository, *, commit: str, parent: str, text: bytes) -> None:
    """Make a snapshot again out of its parent and its patch. Raises where it is not the same."""
    own, inside = _sections(text)
    with tempfile.TemporaryDirectory(prefix="hydra-docker-") as scratch:
        index = Path(scratch, "index")
        repository.run("read-tree", parent, index=index)
        if own.strip():
            repository.run("apply", "--cached", index=index, stdin=own, settings=_EXACTLY)
        tree = repository.run("write-tree", index=index, settings=_snapshot.SETTINGS).line
    made = _snapshot.commit_on(repository, tree, parent)
    if made != commit:
        raise SourceError(
            f"The patch on commit {parent[:10]} does not give the snapshot {commit[:10]} but "
            f"{made[:10]}: it is not the patch of that snapshot, or was changed since."
        )
    for path, base, below in inside:
        entry = repository.entry(commit, path)
        candidates = submodule_repositories(repository, commit, path)
        found = next((candidate for candidate in candidates if candidate.has(base)), None)
        if entry is None or found is None:
            raise SourceError(
                f"Commit {base[:10]} of the submodule {printable(path)} is not here: run `git "
                f"submodule update --init --recursive` in {repository.root}, at commit "
                f"{parent[:10]}."
            )
        restore(found, commit=entry.id, parent=base, text=below)
    _snapshot.keep(repository, commit)


class _Made(NamedTuple):
    """A snapshot in a submodule's repository."""

    repository: Repository
    parent: str
    commit: str


def _made_inside(repository: Repository, commit: str, path: str, new: str) -> _Made | None:
    """Return the snapshot that a path has become, None where it is no submodule's."""
    if not new:
        return None
    for candidate in submodule_repositories(repository, commit, path):
        if _snapshot.is_kept(candidate, new):
            return _Made(candidate, candidate.run("rev-parse", f"{new}^").line, new)
    return None


def _tree_differences(repository: Repository, parent: str, commit: str) -> dict[str, str]:
    """Return the paths that differ, with the commit that a submodule's has become (else "")."""
    compare = ("-r", "-z", "--raw", "--no-renames", "--no-abbrev", "--ignore-submodules=none")
    fields = iter(repository.run("diff-tree", *compare, parent, commit).fields)
    differing = {}
    for described in fields:
        _, mode, _, new, _ = described.split(" ")
        differing[next(fields)] = new if mode == _snapshot.GITLINK else ""
    return differing


def _sections(text: bytes) -> tuple[bytes, list[tuple[str, str, bytes]]]:
    """Return a patch's own part, and of each submodule its path, commit and patch."""
    own: list[bytes] = []
    inside: list[tuple[str, str, list[bytes]]] = []
    for line in io.BytesIO(text).readlines():  # a lone \r ends none
        if line.startswith(b"#|= "):
            named = json.loads(line.removeprefix(b"#|= "))
            inside.append((named["submodule"], named["commit"], []))
        elif line.startswith(b"#|") and inside:
            inside[-1][2].append(line.removeprefix(b"#|"))
        else:
            own.append(line)
    return b"".join(own), [(path, base, b"".join(lines)) for path, base, lines in inside]
