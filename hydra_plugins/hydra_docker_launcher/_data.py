"""Data: what the volumes of jobs held when the sweep started, and whether the commit says so."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from . import _dvc, _dvc_files, _source
from ._content import remembered
from ._dvc_files import Tracked
from ._errors import DataError
from ._fingerprint import Fingerprint, fingerprint, outward_links
from ._option_values import Volume
from ._options import JobOptions
from ._source import Source
from ._tracking import Dataset
from ._units import show_size

log = logging.getLogger("hydra_docker_launcher")

MATCHES = "matches"
DIFFERS = "differs"
NOT_CHECKED = "not checked"
RECORDED = "recorded"
NOT_IDENTIFIED = "not identified"

_NAMED = 10
#: Files beside tracked data that the commit itself has.
_OF_THE_COMMIT = frozenset((".git", ".dvc", ".gitignore", ".dvcignore", "dvc.yaml", "dvc.lock"))


@dataclass(frozen=True, slots=True)
class DataIdentity:
    """What one volume held, or one tracked part of it.

    ``source`` is the path on the host (or a volume's name), ``target`` the one in the container.
    ``kind`` is ``dvc`` (``digest`` is what the commit pins), ``stat`` (of names, sizes and times),
    ``content``, or ``none``. ``digest`` begins with its algorithm. ``state`` is ``matches``,
    ``differs`` or ``not checked`` of what DVC tracks, ``recorded`` of what has a fingerprint,
    else ``not identified``.
    """

    name: str
    source: str
    target: str
    kind: str
    state: str
    digest: str | None = None
    #: Of data that differs: the digest of what is on disk.
    found: str | None = None
    #: Of kind ``stat``: the digest of names and sizes alone.
    shape: str | None = None
    #: Of what is mounted from inside a tracked folder: where in it. ``digest`` is the folder's.
    part: str | None = None
    files: int | None = None
    bytes: int | None = None
    tracked_by: str | None = None
    note: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the fields that have a value."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DataIdentity:
        """Read what ``as_json`` wrote; names that are of no field are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known})

    def as_dataset(self) -> Dataset | None:
        """Return what is tracked of it; None where it has no digest."""
        digest = self.found or self.digest
        if digest is None:
            return None
        return Dataset(self.name, digest, self.source, self.target, self.as_json())


@dataclass(frozen=True, slots=True)
class _Wish:
    """A volume, and how it is to be looked at: two jobs with the same wish get the same answer."""

    volume: Volume
    check: str
    identity: str


class DataBook:
    """The identities of a sweep's volumes, each looked for once, before the first job has it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[_Wish, tuple[DataIdentity, ...]] = {}
        self._tracked: tuple[Tracked, ...] | None = None
        self._checked: dict[tuple[Tracked, PurePosixPath | None], _dvc.Found | DataError] = {}

    def identify(self, jobs: Sequence[JobOptions]) -> tuple[tuple[DataIdentity, ...], ...]:
        """Return the identities of every job's volumes, in order.

        Raises ``DataError`` where ``data_check=error`` finds data that is not what the commit pins.
        """
        wishes = [
            [_Wish(volume, job.data_check, job.data_identity) for volume in job.volumes]
            for job in jobs
        ]
        new = dict.fromkeys(wish for of_job in wishes for wish in of_job if wish not in self._known)
        # What differs is refused before fingerprints are taken, which nobody may have to wait for.
        for wish in sorted(new, key=lambda wish: wish.check != "error"):
            self._known[wish] = tuple(self._identify(wish))
        return tuple(
            tuple(identity for wish in of_job for identity in self._known[wish])
            for of_job in wishes
        )

    def _identify(self, wish: _Wish) -> Iterator[DataIdentity]:
        volume = wish.volume
        if volume.named:
            yield _unidentified(wish, "a named volume, which only containers can read")
            return
        mounted = Path(volume.source)
        outputs = self._tracked_outputs()
        for item in outputs:
            for place in (_place(item), item.path.resolve()):
                if mounted.is_relative_to(place):
                    part = mounted.relative_to(place)
                    yield self._tracked_identity(wish, item, mounted, part)
                    return
        inside = [(item, _place(item)) for item in outputs if _place(item).is_relative_to(mounted)]
        for item, place in inside:
            yield self._tracked_identity(wish, item, place, Path())
        rest = self._fingerprint(wish, frozenset(str(place) for _, place in inside))
        if not inside or rest.files:
            yield rest

    # ---- what DVC tracks -------------------------------------------------------------------------

    def _tracked_outputs(self) -> tuple[Tracked, ...]:
        if self._tracked is None:
            paths = filter(_dvc_files.is_dvc_file, _source.files(self._source))
            texts = _source.read_texts(self._source, sorted(paths))
            self._tracked, problems = _dvc_files.tracked(texts, self._source.root)
            for problem in problems:
                log.warning("%s", problem)
        return self._tracked

    def _tracked_identity(
        self, wish: _Wish, tracked: Tracked, place: Path, inner: Path
    ) -> DataIdentity:
        """Return the identity of ``inner`` in a tracked output, which the host has at ``place``."""
        part = None if inner == Path() else PurePosixPath(inner)
        mounted = Path(wish.volume.source)
        target = PurePosixPath(wish.volume.target, place.relative_to(mounted))
        name = _name(tracked.path if part is None else tracked.path / part, self._source.root)
        state, found, note = self._check(wish, tracked, part, name)
        outward = outward_links(place, mounted) if wish.check != "off" else 0
        if outward:
            note = "; ".join(filter(None, (note, _links_out(name, outward))))
            log.warning("%s", _links_out(name, outward))
        return DataIdentity(
            name=name,
            source=str(place),
            target=str(target),
            kind="dvc",
            state=state,
            digest=f"{tracked.hash}:{tracked.digest}",
            found=found,
            part=None if part is None else str(part),
            files=None if part else tracked.files or (None if tracked.is_folder else 1),
            bytes=None if part else tracked.size,
            tracked_by=tracked.file,
            note=note,
        )

    def _check(
        self, wish: _Wish, tracked: Tracked, part: PurePosixPath | None, name: str
    ) -> tuple[str, str | None, str | None]:
        """Return state, digest of what is on disk if it differs, and why it was not checked."""
        if wish.check == "off":
            return NOT_CHECKED, None, None
        key = (tracked, part)
        new = key not in self._checked
        if new:
            self._checked[key] = _compare(tracked, part, name)
        outcome = self._checked[key]
        commit = self._source.commit[:12]
        if isinstance(outcome, DataError):
            message = f"{name} was not compared with what commit {commit} pins: {outcome}"
            if wish.check == "error":
                raise DataError(
                    f"{message}\nhydra.launcher.data_check=warn runs without that comparison."
                ) from outcome
            if new and not self._said(str(outcome), key):
                log.warning("%s", message)
            return NOT_CHECKED, None, str(outcome)
        if outcome.matches:
            return MATCHES, None, None
        message = _difference(tracked, outcome, name, commit)
        if wish.check == "error":
            raise DataError(
                f"{message}\n{_way_out(tracked)} hydra.launcher.data_check=warn runs with the data "
                "as it is."
            )
        if new:
            log.warning("%s", message)
        found = outcome.digest and f"{tracked.hash}:{outcome.digest}"
        return DIFFERS, found or "nothing", None

    def _said(self, reason: str, key: tuple[Tracked, PurePosixPath | None]) -> bool:
        """Tell whether the user has been told the same of other data: once is enough."""
        return any(str(other) == reason for name, other in self._checked.items() if name != key)

    # ---- what nothing tracks ---------------------------------------------------------------------

    def _fingerprint(self, wish: _Wish, tracked: frozenset[str]) -> DataIdentity:
        path = Path(wish.volume.source)
        if wish.identity == "none":
            return _unidentified(wish, "hydra.launcher.data_identity=none")
        if not (path.is_dir() or path.is_file()):
            return _unidentified(wish, "neither a folder nor a file")

        def of_no_account(inner: str) -> bool:
            name = os.path.basename(inner)  # noqa: PTH119  (a million of them)
            return inner in tracked or (
                bool(tracked) and (name in _OF_THE_COMMIT or name.endswith(".dvc"))
            )

        def tell(files: int, size: int) -> None:
            log.info("Looking at %s: %s files, %s so far", path, f"{files:,}", show_size(size))

        with ExitStack() as stack:
            content = None
            if wish.identity == "content":
                content = stack.enter_context(remembered(_memory()))
            taken = fingerprint(path, content=content, leave_out=of_no_account, tell=tell)
        note = _remarks(taken, self._name(path))
        if note:
            log.warning("%s", note)
        return DataIdentity(
            name=self._name(path),
            source=str(path),
            target=wish.volume.target,
            kind=wish.identity,
            state=RECORDED,
            digest=f"sha256:{taken.digest}",
            shape=None if content is not None else f"sha256:{taken.shape}",
            files=taken.files,
            bytes=taken.bytes,
            note=note,
        )

    def _name(self, path: Path) -> str:
        return _name(path, self._source.root)


def compare(recorded: Sequence[DataIdentity], found: Sequence[DataIdentity]) -> list[str]:
    """Return a line for each thing of ``recorded`` that ``found`` is not, or that none can tell."""
    now = {identity.target: identity for identity in found}
    then = {identity.target: identity for identity in recorded}
    lines = [
        f"{target}: {difference}"
        for target, identity in then.items()
        if (difference := _changed(identity, now.get(target)))
    ]
    added = now.keys() - then.keys()
    return lines + [f"{target}: was not there ({now[target].name})" for target in sorted(added)]


def _changed(then: DataIdentity, now: DataIdentity | None) -> str | None:
    if now is None:
        return f"is not there ({then.name})"
    if then.digest is None or now.digest is None:
        silent = then if then.digest is None else now
        return f"cannot tell whether {then.name} is the same: {silent.note or NOT_IDENTIFIED}"
    if then.kind != now.kind:
        return f"cannot tell: {then.name} was identified by {then.kind}, now by {now.kind}"
    if (then.found or then.digest, then.part) == (now.found or now.digest, now.part):
        unchecked = NOT_CHECKED in (then.state, now.state)
        return f"{then.name}: same pin, but not checked on disk" if unchecked else None
    if then.shape is not None and then.shape == now.shape:
        return f"{then.name} has the same names and sizes, but other times"
    return f"{then.name} is other data: {_shown(then)} then, {_shown(now)} now"


def _shown(identity: DataIdentity) -> str:
    counts = []
    if identity.files is not None:
        counts.append(f"{identity.files:,} files")
    if identity.bytes is not None:
        counts.append(show_size(identity.bytes))
    digest = identity.found or identity.digest or ""
    kind, _, value = digest.rpartition(":")
    return f"{kind}{':' if kind else ''}{value[:12]} ({', '.join(counts)})" if counts else digest


def _compare(tracked: Tracked, part: PurePosixPath | None, name: str) -> _dvc.Found | DataError:
    size = "" if tracked.size is None or part else f", {show_size(tracked.size)}"
    count = "" if tracked.files is None or part else f": {tracked.files:,} files{size}"
    log.info("Checking %s against %s%s", name, tracked.file, count)
    try:
        return _dvc.compare(tracked, part)
    except DataError as error:
        return error


def _difference(tracked: Tracked, found: _dvc.Found, name: str, commit: str) -> str:
    head = f"{name} is not what commit {commit} pins in {tracked.file}"
    if found.digest is None:
        return f"{head}: it is not there."
    if found.unlisted and tracked.is_folder:
        return (
            f"{head} ({tracked.digest}, on disk {found.digest}). Which files differ is not known: "
            "DVC's cache does not have the list of them (dvc fetch gets it)."
        )
    if not tracked.is_folder:
        return f"{head} ({tracked.digest}, on disk {found.digest})."
    lines = [
        f"{what}: {path}"
        for what, paths in (
            ("changed", found.changed),
            ("missing", found.missing),
            ("additional", found.additional),
        )
        for path in paths
    ]
    more = [f"… and {len(lines) - _NAMED:,} more"] if len(lines) > _NAMED else []
    return "\n  ".join([f"{head}:", *lines[:_NAMED], *more])


def _way_out(tracked: Tracked) -> str:
    what = "" if tracked.file.endswith("dvc.lock") else f" {tracked.file}"
    add = "dvc commit" if tracked.file.endswith("dvc.lock") else f"dvc add {tracked.path}"
    return (
        f"`dvc pull{what}` (or `dvc checkout`) gets the pinned data; `{add}` and `git commit` pin "
        "what is there;"
    )


def _remarks(taken: Fingerprint, name: str) -> str | None:
    remarks = []
    if taken.unreadable:
        remarks.append(f"not all of {name} can be read: {', '.join(taken.unreadable)}")
    if taken.outward:
        remarks.append(_links_out(name, taken.outward))
    return "; ".join(remarks) or None


def _links_out(name: str, number: int) -> str:
    return (
        f"links in {name} lead out of what is mounted ({number:,}): a container sees what is there "
        "only if that is mounted too"
    )


def _unidentified(wish: _Wish, why: str) -> DataIdentity:
    volume = wish.volume
    return DataIdentity(
        volume.source, volume.source, volume.target, "none", NOT_IDENTIFIED, note=why
    )


def _memory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hydra-docker-launcher" / "hashes.db"


def _place(tracked: Tracked) -> Path:
    """Return where tracked data is, links above it resolved as in the source of a volume.

    It may be a link itself: to a large disk, or into DVC's cache.
    """
    return tracked.path.parent.resolve() / tracked.path.name


def _name(path: Path, root: Path) -> str:
    below = path.is_relative_to(root) and path != root
    return str(path.relative_to(root)) if below else str(path)
