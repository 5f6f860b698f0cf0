"""Context: which files of the commit a build needs.

Where a Dockerfile says which files it copies, the others neither count nor travel.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ._checkout import TreeFile
from ._dockerignore import Dockerignore, expression

#: The time of every file that is sent: the same content makes the same image. 2000-01-01, because
#: zip files (and so wheels) know no time before 1980.
TIME = 946_684_800
_WILD = re.compile(r"[*?\[]")
_MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class Context:
    """The files and folders that are sent, relative to the context folder, and sorted."""

    files: tuple[TreeFile, ...]
    folders: tuple[str, ...]

    def names(self) -> frozenset[str]:
        return frozenset(file.path for file in self.files)


def select(files: Sequence[TreeFile], sources: Iterable[str], ignore: Dockerignore) -> Context:
    """Return what ``sources`` (paths and patterns; ``""`` is everything) mean in ``files``.

    As the builders do it: a folder stands for all that is below it, a source that is a symbolic
    link for what it leads to as well, and what is ignored is not there.
    """
    kept = [file for file in files if not ignore.ignores(file.path)]
    folders = {parent for file in files for parent in _above(file.path)}
    there = {folder for folder in folders if not ignore.ignores(folder)}
    there |= {parent for file in kept for parent in _above(file.path)}
    links = {file.path: file.link for file in kept if file.link is not None}
    taken = _places([file.path for file in kept] + sorted(there), sources, links)
    chosen = [file for file in kept if _is_below(file.path, taken)]
    below = {folder for folder in there if _is_below(folder, taken)}
    above = {
        parent for path in [*below, *(file.path for file in chosen)] for parent in _above(path)
    }
    return Context(tuple(sorted(chosen, key=lambda file: file.path)), tuple(sorted(below | above)))


def keep_only(context: Context, folder: Path) -> None:
    """Remove from a folder what is not in the context; give the rest modes and times of its own.

    The launching user's umask and the time of day have no say in what an image is.
    """
    files = {file.path: file for file in context.files}
    for place, folders, names in os.walk(folder, topdown=False):
        for name in (*folders, *names):
            path = Path(place, name)
            relative = path.relative_to(folder).as_posix()
            if relative in files:
                if not path.is_symlink():
                    path.chmod(0o755 if files[relative].mode == "100755" else 0o644)
            elif path.is_symlink() or path.is_file():
                path.unlink()
            elif relative in context.folders:
                path.chmod(0o755)
            else:
                shutil.rmtree(path)
            if path.is_symlink() or path.exists():
                os.utime(path, (TIME, TIME), follow_symlinks=False)
    folder.chmod(0o755)


@contextmanager
def packed(folder: Path, dockerfile: str, text: str) -> Iterator[tuple[BinaryIO, str]]:
    """Pack a folder and a Dockerfile for the engine's builder; give the archive and its name in it.

    No COPY can see the Dockerfile unless it is in the folder: the builder removes what the
    archive's .dockerignore names of the two.
    """
    extra = {}
    if not (folder / ".dockerignore").exists():
        dockerfile = ".hydra-docker.Dockerfile"
        extra = {dockerfile: text, ".dockerignore": f"{dockerfile}\n.dockerignore\n"}
    elif not (folder / dockerfile).exists():
        extra = {dockerfile: text}
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for path in sorted(folder.rglob("*")):
                archive.add(path, str(path.relative_to(folder)), recursive=False, filter=_of_root)
            for name, content in extra.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content.encode())
                archive.addfile(entry, io.BytesIO(content.encode()))
        file.seek(0)
        yield file, dockerfile


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _places(paths: Sequence[str], sources: Iterable[str], links: dict[str, str]) -> set[str]:
    """Return the paths that sources name, with those that symbolic links lead to."""
    places: set[str] = set()
    for source in sources:
        wild = _WILD.search(source)
        if wild is None:
            places |= _followed(source, links)
            continue
        matches = expression(source).fullmatch
        for path in filter(matches, paths):
            places |= _followed(path, links)
        # Where the folder in front of the first wildcard is a link, all that it leads to.
        fixed = _followed(source[: wild.start()].rpartition("/")[0], links)
        places |= fixed if len(fixed) > 1 else set()
    return places


def leads_to(path: str, files: Iterable[TreeFile]) -> str:
    """Return the path of the file that a path means, which may be a symbolic link to it."""
    links = {file.path: file.link for file in files if file.link is not None}
    return next(iter(_followed(path, links) - set(links)), path)


def _followed(path: str, links: dict[str, str]) -> set[str]:
    """Return where a path leads to, and the links on the way, all as the context has them."""
    found: set[str] = set()
    for _ in range(_MOST_LINKS):
        link = next((part for part in (*_above(path), path) if part in links), None)
        if link is None:
            break
        found.add(link)
        rest = path[len(link) :]
        target = posixpath.join("/", posixpath.dirname(link), links[link])
        path = posixpath.normpath(target + rest).lstrip("/")
    return {*found, path}


def _is_below(path: str, places: set[str]) -> bool:
    return "" in places or path in places or any(parent in places for parent in _above(path))


def _above(path: str) -> list[str]:
    """Return the folders that a path is in, the outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
