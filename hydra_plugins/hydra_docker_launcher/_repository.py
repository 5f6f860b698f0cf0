"""Repository: git commands and the trees of commits. The only module that imports ``git``."""

from __future__ import annotations

import os
import posixpath
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import NamedTuple

from ._errors import SourceError

try:
    import git
except ImportError as error:  # GitPython looks for the executable when it is imported
    raise SourceError(
        "The launcher pins the code to a commit with git, and cannot use it: install git and see "
        f"that it is on PATH.\n{error}"
    ) from error

# What a git hook finds in its environment: it would lead git to another repository or index.
# (`git rev-parse --local-env-vars` without what is configuration; and how paths are read.)
_MISLEADING = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_ATTR_SOURCE",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_GLOB_PATHSPECS",
    "GIT_GRAFT_FILE",
    "GIT_ICASE_PATHSPECS",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
_ENVIRONMENT_LOCK = threading.RLock()
_NO_VARIABLES: Mapping[str, str] = MappingProxyType({})

_CONFIGURATION = (
    "core.fsmonitor=false",  # monitors and hooks would write into the repository
    f"core.hooksPath={os.devnull}",
    "core.warnAmbiguousRefs=true",
    "protocol.ext.allow=never",  # its addresses are commands
    "status.renames=true",
)
_WHY_NOT = {  # by what git says
    "dubious ownership": "{0} is in a repository of another user, and git refuses to read it. If "
    "you trust that user, run the command that git names here:",
    "must be run in a work tree": "{0} is in a bare repository, which has no working tree to "
    "launch from. Clone it, or add a working tree with `git worktree add`.",
    "not a git repository": "{0} is not in a git repository, so its code cannot be pinned to a "
    "commit. Run `git init`, `git add` and `git commit` in the project's folder.",
}


@contextmanager
def own_environment() -> Iterator[None]:
    """Hide from git what the caller's environment says of another repository or index."""
    with _ENVIRONMENT_LOCK:
        hidden = {name: os.environ.pop(name) for name in _MISLEADING if name in os.environ}
        try:
            yield
        finally:
            os.environ.update(hidden)


class Answer(NamedTuple):
    """How a git command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The output of a command that prints one line."""
        return self.out.removesuffix("\n")

    @property
    def lines(self) -> list[str]:
        """The output of a command that prints names which have no line breaks."""
        return self.out.split("\n")[:-1]

    @property
    def fields(self) -> list[str]:
        """The output of a command with ``-z``."""
        return self.out.split("\0")[:-1]


class Entry(NamedTuple):
    """A line of a commit's tree; ``type`` is blob, tree or, for a submodule, commit."""

    mode: str
    type: str
    id: str
    path: str


class Repository:
    """One repository, and git commands that leave its files, index, branches and hooks alone.

    ``git_dir`` is for a repository without a working tree, as submodules have in .git/modules.
    """

    def __init__(self, root: Path, git_dir: Path | None = None) -> None:
        self.root = root
        self._git = git.Git(root)
        self._git.update_environment(GIT_OPTIONAL_LOCKS="0", GIT_TERMINAL_PROMPT="0")
        options = {"C": root, "c": _CONFIGURATION, "literal_pathspecs": True}
        if git_dir is not None:
            options |= {"git_dir": git_dir, "work_tree": root}
        self._git.set_persistent_git_options(**options)

    @classmethod
    def containing(cls, location: Path) -> Repository:
        """Find the repository that a script or a folder is in, by its real path."""
        real = location.resolve()
        folder = real if real.is_dir() else real.parent
        if not folder.is_dir():
            raise SourceError(f"{location} does not exist.")
        top = cls(folder).run("rev-parse", "--show-toplevel", may_fail=True)
        if top.status == 0:
            return cls(Path(top.line))
        reasons = (reason for said, reason in _WHY_NOT.items() if said in top.err)
        reason = next(reasons, "git cannot use the repository of {0}:")
        raise SourceError(f"{reason.format(location)}\n{top.err}")

    def run(
        self,
        command: str,
        *arguments: str,
        may_fail: bool = False,
        index: Path | None = None,
        work_tree: Path | None = None,
        paths: Iterable[str] = (),
        stdin: bytes = b"",
        settings: tuple[str, ...] = (),
        variables: Mapping[str, str] = _NO_VARIABLES,
    ) -> Answer:
        """Run a command, with another index or working tree, with ``paths`` or ``stdin`` to read.

        ``settings`` are ``name=value`` of git's configuration, ``variables`` of its environment.
        A command that fails raises with what git says, unless it ``may_fail``.
        """
        own_index = {} if index is None else {"GIT_INDEX_FILE": str(index)}
        with tempfile.TemporaryFile() as file:
            file.write(b"".join(os.fsencode(path) + b"\0" for path in paths) or stdin)
            file.seek(0)
            try:
                status, out, err = getattr(self._git(work_tree=work_tree, c=settings), command)(
                    *arguments,
                    istream=file,
                    env={**variables, **own_index},
                    with_exceptions=False,
                    with_extended_output=True,
                    strip_newline_in_stdout=False,
                )
            except git.GitCommandNotFound as error:
                raise SourceError(f"git cannot be run: see that it is on PATH.\n{error}") from error
        if status != 0 and not may_fail:
            raise SourceError(f"`git {command}` failed in {self.root}:\n{err}")
        return Answer(status, out, err)

    def path(self, name: str) -> Path:
        """Return where git keeps a file such as ``index`` (a worktree has its own)."""
        return Path(self.root, self.run("rev-parse", "--git-path", name).line)

    def has(self, commit: str) -> bool:
        return self.run("cat-file", "-e", f"{commit}^{{commit}}", may_fail=True).status == 0

    def tree_of(self, commit: str) -> str:
        return self.run("rev-parse", "--verify", f"{commit}^{{tree}}").line

    def entries(self, commit: str, folder: str) -> list[Entry]:
        """Return all files, links and submodules below a folder of a commit."""
        below = (f"{folder}/",) if folder else ()
        return self._tree("-r", commit, *below)

    def entry(self, commit: str, path: str) -> Entry | None:
        """Return what a commit has at ``path``, None where it has nothing there."""
        if not path:
            return Entry("040000", "tree", self.tree_of(commit), "")
        return next(iter(self._tree(commit, path)), None)

    def blobs(self, ids: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of files by their object ids, all with one command."""
        wanted = list(dict.fromkeys(ids))
        contents: dict[str, bytes] = {}
        if not wanted:
            return contents
        lines = "".join(f"{blob}\n" for blob in wanted)
        out = os.fsencode(self.run("cat-file", "--batch", stdin=lines.encode()).out)
        position = 0
        for blob in wanted:
            end = out.index(b"\n", position)
            size = int(out[position:end].split(b" ")[2])
            contents[blob] = out[end + 1 : end + 1 + size]
            position = end + 2 + size
        return contents

    def _tree(self, *arguments: str) -> list[Entry]:
        entries = []
        for field in self.run("ls-tree", "-z", "--full-tree", *arguments).fields:
            described, path = field.split("\t", 1)
            mode, kind, object_id = described.split(" ")
            entries.append(Entry(mode, kind, object_id, path))
        return entries


def tree_path(path: PurePath | str) -> str:
    """Return a path of a commit's tree as git writes it; the root is the empty string."""
    normal = posixpath.normpath(path)
    if normal.startswith(("/", "../")) or normal == "..":
        raise SourceError(f"{path} is not a path inside the repository.")
    return "" if normal == "." else normal
