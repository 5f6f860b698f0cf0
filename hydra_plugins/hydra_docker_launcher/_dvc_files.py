"""DVC files: what the ``*.dvc`` and ``dvc.lock`` files of a commit pin. Needs no DVC.

The formats are those of DVC's documentation (user guide, "Project structure") from DVC 1 to 3.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: Hashes that DVC can compute again from files on a disk; an ``etag`` is known to a cloud alone.
HASHES_OF_FILES = ("md5", "md5-dos2unix")


@dataclass(frozen=True, slots=True)
class Tracked:
    """One output that a DVC file pins.

    ``path`` is absolute, ``file`` the DVC file relative to the repository's root. ``digest`` is a
    hash of the kind ``hash``; that of a folder ends in ``.dir``. ``size`` is in bytes. ``listing``
    has path and hash of each file of a folder, where the DVC file itself says it.
    """

    path: Path
    file: str
    hash: str
    digest: str
    size: int | None
    files: int | None
    listing: tuple[tuple[str, str], ...] | None = None

    @property
    def is_folder(self) -> bool:
        return self.digest.endswith(".dir")


def is_dvc_file(path: str) -> bool:
    """Tell whether a path of a commit is a file that this module reads."""
    name = posixpath.basename(path)
    return name in ("dvc.lock", "dvc.yaml") or (name.endswith(".dvc") and name != ".dvc")


def tracked(texts: Mapping[str, str], root: Path) -> tuple[tuple[Tracked, ...], tuple[str, ...]]:
    """Return what DVC files (by their path in the repository ``root``) pin, sorted by path.

    The second part says of each file that cannot be understood, why.
    """
    found: list[Tracked] = []
    problems: list[str] = []
    for file in sorted(texts):
        if posixpath.basename(file) == "dvc.yaml":
            continue
        try:
            for item in _pinned(texts, file, root):
                if "${" in str(item.path):
                    problems.append(f"{file} pins {item.path}, whose working folder is computed")
                else:
                    found.append(item)
        except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            problems.append(f"{file} cannot be read as a DVC file: {reason[0]}")
    return tuple(sorted(found, key=lambda item: item.path)), tuple(problems)


def _pinned(texts: Mapping[str, str], file: str, root: Path) -> Iterator[Tracked]:
    content = _load(texts[file])
    folder = posixpath.dirname(file)
    if posixpath.basename(file) != "dvc.lock":
        yield from _outputs(content, posixpath.join(folder, content.get("wdir") or "."), file, root)
        return
    stages = content["stages"] if "schema" in content else content
    folders = _stage_folders(texts.get(posixpath.join(folder, "dvc.yaml")))
    for name, stage in (stages or {}).items():
        inside = folders.get(str(name).partition("@")[0], ".")
        yield from _outputs(stage, posixpath.join(folder, inside), file, root)


def _load(text: str) -> dict[str, Any]:
    content = yaml.load(text, Loader=_Loader) or {}  # noqa: S506  (a safe loader)
    if not isinstance(content, dict):
        raise TypeError("it is no mapping")
    return content


def _stage_folders(text: str | None) -> dict[str, str]:
    """Return the working folders of stages (``wdir``), which dvc.lock does not repeat."""
    stages = _load(text).get("stages") if text else None
    folders = {}
    for name, stage in (stages or {}).items():
        body = stage.get("do", stage) if isinstance(stage, dict) else {}
        if "wdir" in body:
            folders[str(name)] = str(body["wdir"])
    return folders


def _outputs(stage: Mapping[str, Any], folder: str, file: str, root: Path) -> Iterator[Tracked]:
    for output in stage.get("outs") or ():
        path = str(output["path"])
        pin = _pin(output)
        if pin is None or "://" in path:
            continue  # nothing is pinned, or something that is on no disk
        kind, digest, listing = pin
        sizes = [entry.get("size") for entry in output.get("files") or ()]
        yield Tracked(
            path=Path(posixpath.normpath(posixpath.join(str(root), folder, path))),
            file=file,
            hash=kind,
            digest=digest,
            size=sum(filter(None, sizes)) if sizes else output.get("size"),
            files=len(sizes) if sizes else output.get("nfiles"),
            listing=listing,
        )


def _pin(
    output: Mapping[str, Any],
) -> tuple[str, str, tuple[tuple[str, str], ...] | None] | None:
    """Return the kind of an output's hash, the hash, and the listing that comes with it.

    Without ``hash: md5`` an md5 is one of DVC 2, which did not count line ends in text.
    """
    listing = {str(item["relpath"]): _hash(item) for item in output.get("files") or ()}
    kind, value = _hash(output)
    if listing:
        kinds = {kind for kind, _ in listing.values()}
        kind = min(kinds - {"md5"}, default="md5")
    if kind == "md5" and output.get("hash") != "md5":
        kind = "md5-dos2unix"
    if listing:
        hashes = {path: listing[path][1] for path in sorted(listing)}
        return kind, folder_digest(hashes, kind), tuple(hashes.items())
    return (kind, value, None) if value else None


def _hash(entry: Mapping[str, Any]) -> tuple[str, str]:
    clouds: Mapping[str, Mapping[str, Any]] = entry.get("cloud") or {}
    for where in (entry, *clouds.values()):
        for kind in ("md5", "etag", "checksum", "version_id"):
            if where.get(kind):
                return kind, str(where[kind])
    return "", ""


def folder_digest(hashes: Mapping[str, str], kind: str = "md5") -> str:
    """Return DVC's hash of a folder, from the hashes of its files by their paths in it."""
    name = "md5" if kind == "md5-dos2unix" else kind
    listing = [{name: hashes[path], "relpath": path} for path in sorted(hashes)]
    text = json.dumps(listing, sort_keys=True).encode()
    return hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"


def below(path: str, part: PurePosixPath) -> bool:
    """Tell whether a path of a listing is ``part`` or in it."""
    return PurePosixPath(path).is_relative_to(part)
