"""Recipe: which Dockerfile of the pinned commit is built, or what one is made from."""

from __future__ import annotations

import posixpath
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import hydra

from . import _requirements, _source
from ._checkout import TreeFile
from ._context import leads_to
from ._errors import ImageError, OptionError
from ._options import Build
from ._source import Source

NO_IMAGE = (
    "There is no image to run the jobs in: hydra.launcher.image is not set, and commit {commit} "
    "has no Dockerfile {where}.\nName an image (hydra.launcher.image=…), or commit a Dockerfile "
    "that installs Python, hydra-core and what your script imports. One is made from a "
    "{kinds} or {last}, if the commit has it."
)
NO_DOCKERFILE = (
    "hydra.launcher.build.{option}={value} is for a Dockerfile, and commit {commit} has none: "
    "one would be made from {path}. Leave it out, or commit a Dockerfile."
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A Dockerfile (its path in the context, its text) and its context, a folder of the commit.

    ``folder`` ``""`` is the repository's root. ``made_from`` is the file that the Dockerfile was
    made from, None where the commit has the Dockerfile itself.
    """

    folder: str
    dockerfile: str
    text: str
    files: tuple[TreeFile, ...]
    made_from: str | None = None

    @property
    def origin(self) -> str:
        """What of the commit the image is made from, relative to the repository's root."""
        return self.made_from or posixpath.join(self.folder, self.dockerfile)


def find(build: Build, source: Source, script: Path | None) -> Recipe:
    """Return what is to be built: the options' Dockerfile, the nearest one, or one made here.

    Raises ``ImageError`` where there is none and none can be made.
    """
    if build.context is not None or build.dockerfile is not None:
        folder = _relative(build.context or "", source)
        return _committed(source, folder, build.dockerfile or "Dockerfile", build)
    folders = _folders(source, script)
    names = _source.files(source)
    for folder in folders:
        if posixpath.join(folder, "Dockerfile") in names:
            return _committed(source, folder, "Dockerfile", build)
    path = _requirements.find(names, folders, lambda name: _source.read_text(source, name))
    if path is None:
        where = "at its root" if folders == ("",) else f"in {folders[0]} or above"
        *kinds, last = _requirements.KINDS
        raise ImageError(
            NO_IMAGE.format(
                commit=source.commit[:12], where=where, kinds=", ".join(kinds), last=last
            )
        )
    return _made(source, path, build)


def _committed(source: Source, folder: str, dockerfile: str, build: Build) -> Recipe:
    path = posixpath.join(folder, dockerfile)
    dockerfile = str(PurePosixPath(dockerfile))
    files = _source.tree(source, folder) if ".." not in PurePosixPath(dockerfile).parts else ()
    place = leads_to(dockerfile, files)
    text = None
    if any(file.path == place for file in files):
        text = _source.read_text(source, posixpath.join(folder, place))
    if text is None:
        raise ImageError(
            f"hydra.launcher.build: commit {source.commit[:12]} has no file "
            f"{posixpath.normpath(path)}"
        )
    if build.base is not None:
        raise OptionError(
            f"hydra.launcher.build.base={build.base} is for a commit without a Dockerfile, and "
            f"{posixpath.normpath(path)} names its own base. Leave it out."
        )
    return Recipe(folder, dockerfile, text, files)


def _made(source: Source, path: str, build: Build) -> Recipe:
    if build.target is not None:
        raise OptionError(
            NO_DOCKERFILE.format(
                option="target", value=build.target, commit=source.commit[:12], path=path
            )
        )
    text = _requirements.dockerfile(
        path,
        lambda name: _source.read_text(source, name),
        base=build.base or f"python:{sys.version_info.major}.{sys.version_info.minor}-slim",
        hydra=hydra.__version__,
        args=[name for name, _ in build.args],
    )
    return Recipe("", "Dockerfile", text, _source.tree(source), made_from=path)


def _relative(context: str, source: Source) -> str:
    path = PurePosixPath(context)
    if path.is_absolute():
        try:
            path = PurePosixPath(Path(context).resolve().relative_to(source.root))
        except ValueError:
            raise OptionError(
                f"hydra.launcher.build.context={context}: must be a folder of the repository "
                f"{source.root}"
            ) from None
    if ".." in path.parts:
        raise OptionError(
            f"hydra.launcher.build.context={context}: must not lead out of the repository"
        )
    return "" if str(path) == "." else str(path)


def _folders(source: Source, script: Path | None) -> tuple[str, ...]:
    """Return the script's folder and those above it up to the root, which is ``""``."""
    start = script.parent if script is not None else Path.cwd()
    try:
        folder = PurePosixPath(start.relative_to(source.root))
    except ValueError:
        folder = PurePosixPath()
    names = (str(candidate) for candidate in (folder, *folder.parents))
    return tuple("" if name == "." else name for name in names)
