"""Requirements: where a commit has no Dockerfile, one is made from what it says it needs.

It installs the packages, not the project: each job brings the files of its own commit.
"""

from __future__ import annotations

import json
import posixpath
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from ._errors import ImageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: What a Dockerfile can be made from; of several in one folder, the first of this list.
KINDS = (
    "uv.lock",
    "poetry.lock",
    "pylock.toml",
    "requirements.lock",
    "requirements.txt",
    "pyproject.toml",
)
#: What it cannot be made from.
FOREIGN = ("Pipfile.lock", "Pipfile", "environment.yml", "environment.yaml", "conda-lock.yml")
#: Returns a file's text as the commit has it.
Read = Callable[[str], "str | None"]

_HYDRA = re.compile(
    r"""^\s*(name\s*=\s*)?["']?hydra[-_.]core(?![-_.]?\w)""", re.IGNORECASE | re.MULTILINE
)
_INCLUDE = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)(?:\s+|=)?(\S+)")
_LOCAL = re.compile(r"^\s*(?:(?:-e|--editable)[\s=]\s*(?!\w+\+)|file:|[./~]|\S+\s*@\s*file:)")
_PLACE = "/tmp/hydra-docker"  # noqa: S108  (in the image)
_SETTINGS = (
    "PIP_BREAK_SYSTEM_PACKAGES=1",
    "PIP_DISABLE_PIP_VERSION_CHECK=1",
    "PIP_NO_CACHE_DIR=1",
    "PIP_ROOT_USER_ACTION=ignore",
)
_PIP = ("python3", "-m", "pip", "install")
_UV = f"python3 -m pip install --quiet --target {_PLACE}/tool uv"
_RUN_UV = f"UV_PYTHON_DOWNLOADS=never {_PLACE}/tool/bin/uv"
_DONE = f"rm -rf {_PLACE}/tool"


def find(names: Collection[str], folders: Sequence[str], read: Read) -> str | None:
    """Return the requirement file of the first of ``folders`` (``""``: the root) that has one.

    A pyproject.toml that only has settings of tools is none.
    """
    for folder in folders:
        for kind in (*KINDS, *FOREIGN):
            path = posixpath.join(folder, kind)
            if path in names and (kind != "pyproject.toml" or _is_project(path, read)):
                return path
    return None


def dockerfile(path: str, read: Read, *, base: str, hydra: str, args: Sequence[str]) -> str:
    """Return a Dockerfile, for the repository's root as its context, that installs ``path``.

    hydra-core is added in the version ``hydra`` unless ``path`` names it. ``args`` are names that
    pip finds in its environment while it installs. Raises ``ImageError`` for what cannot be
    installed so.
    """
    instructions = _install(path, read, f"hydra-core=={hydra}")
    return "".join(
        f"{line}\n"
        for line in (
            f"# Made by hydra/launcher=docker from {_plain(path)}.",
            f"FROM {base}",
            *(f"ARG {setting}" for setting in _SETTINGS),
            *(f"ARG {name}" for name in args),
            *instructions,
        )
    )


def _install(path: str, read: Read, hydra: str) -> Iterator[str]:
    """Yield the instructions that install what a file names."""
    folder, kind = posixpath.split(path)
    text = _text(path, read)
    missing = () if _HYDRA.search(text) else (hydra,)
    project = posixpath.join(folder, "pyproject.toml")
    if kind in FOREIGN:
        raise _refused(path, f"{kind} cannot be installed by pip or uv")
    if kind in ("requirements.txt", "requirements.lock"):
        files = _with_included(path, read)
        texts = [_text(file, read) for file in files]
        missing = () if any(map(_HYDRA.search, texts)) else (hydra,)
        for file in files:
            yield _copy(file, file)
        listed = ("--requirement", f"{_PLACE}/{path}")
        if any("--hash" in text for text in texts):  # then pip wants a hash for everything
            yield _run(*_PIP, *listed)
            yield from (_run(*_PIP, name) for name in missing)
        else:
            yield _run(*_PIP, *listed, *missing)
    elif kind == "pyproject.toml":
        dependencies = _dependencies(path, read)
        missing = () if any(map(_HYDRA.search, dependencies)) else (hydra,)
        yield _run(*_PIP, "--", *dependencies, *missing)
    else:
        if kind != "pylock.toml":
            _text(project, read)
            yield _copy(project, "pyproject.toml")
        yield _copy(path, kind)
        yield from _locked(kind)
        yield from (_run(*_PIP, name) for name in missing)


def _locked(kind: str) -> Iterator[str]:
    """Yield the instructions for a lock file, which its own tool reads."""
    listed = f"{_PLACE}/locked.txt"
    if kind == "pylock.toml":
        install = f"pip install --system --break-system-packages --no-cache -r {_PLACE}/{kind}"
        yield f"RUN {_UV} && {_RUN_UV} {install} && {_DONE}"
        return
    if kind == "uv.lock":
        export = f"export --quiet --project {_PLACE} --frozen --no-dev --no-emit-workspace"
        yield f"RUN {_UV} && {_RUN_UV} {export} --output-file {listed} && {_DONE}"
    else:
        yield (
            f"RUN python3 -m pip install --quiet --target {_PLACE}/tool poetry poetry-plugin-export"
            f" && PYTHONPATH={_PLACE}/tool python3 -m poetry export --directory {_PLACE}"
            f" --output {listed} && {_DONE}"
        )
    yield _run(*_PIP, "--requirement", listed)


def _copy(path: str, name: str) -> str:
    words = [word.replace("\\", "\\\\").replace("$", "\\$") for word in (path, f"{_PLACE}/{name}")]
    return f"COPY {json.dumps(words)}"


def _run(*command: str) -> str:
    """Return a RUN without a shell: nothing in a requirement can be taken for more than a word."""
    return f"RUN {json.dumps(command)}"


def _with_included(path: str, read: Read) -> list[str]:
    """Return a requirements file and those that it includes, each once."""
    found: list[str] = []
    waiting = [path]
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        found.append(name)
        for line in _text(name, read).splitlines():
            included = _INCLUDE.match(line)
            if included and "://" not in included[1]:
                inner = posixpath.normpath(posixpath.join(posixpath.dirname(name), included[1]))
                waiting.append(inner)
            elif _LOCAL.match(line):
                raise _refused(name, f"it installs files of the project ({line.strip()})")
    return found


def _dependencies(path: str, read: Read) -> list[str]:
    project = _toml(path, read)["project"]
    dependencies = project.get("dependencies", [])
    if "dependencies" in project.get("dynamic", []):
        raise _refused(path, "its dependencies are dynamic")
    if not isinstance(dependencies, list) or not all(isinstance(d, str) for d in dependencies):
        raise _refused(path, "its project.dependencies is no list of strings")
    local = [dependency for dependency in dependencies if _LOCAL.match(dependency)]
    if local:
        raise _refused(path, f"it installs files of this machine ({local[0]})")
    return dependencies


def _is_project(path: str, read: Read) -> bool:
    return isinstance(_toml(path, read).get("project"), dict)


def _toml(path: str, read: Read) -> dict[str, Any]:
    try:
        found: dict[str, Any] = tomllib.loads(_text(path, read))
    except tomllib.TOMLDecodeError as error:
        raise _refused(path, f"it is not valid TOML: {error}") from None
    return found


def _text(path: str, read: Read) -> str:
    text = None if path.startswith("../") else read(path)
    if text is None:
        raise ImageError(
            f"To make an image from the commit's requirements, the launcher needs {path}, and the "
            "commit has no such file. Commit it, or a Dockerfile."
        )
    return text


def _refused(path: str, reason: str) -> ImageError:
    return ImageError(
        f"The commit has no Dockerfile, and none can be made from {path}: {reason}.\nCommit a "
        "Dockerfile that installs Python, hydra-core and what your script imports, or name an "
        "image (hydra.launcher.image=…)."
    )


def _plain(path: str) -> str:
    """Return a path in one line, whatever is in it."""
    return (
        json.dumps(path, ensure_ascii=False)[1:-1]
        if not path.isprintable()
        else str(PurePosixPath(path))
    )
