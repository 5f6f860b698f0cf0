"""Data: what the volumes of jobs held when the sweep started, and whether the commit says so."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import _dvc_files, _source
from ._content import remembered
from ._data_check import Checks, Output
from ._data_identity import NOT_IDENTIFIED, RECORDED, DataIdentity
from ._dvc_files import Tracked
from ._fingerprint import Fingerprint, fingerprint, outward_links
from ._option_values import Volume
from ._options import JobOptions
from ._source import Source
from ._units import show_size

log = logging.getLogger("hydra_docker_launcher")

_NAMED = 10
#: Files beside tracked data that the commit itself has.
_OF_THE_COMMIT = frozenset((".git", ".dvc", ".gitignore", ".dvcignore", "dvc.yaml", "dvc.lock"))


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
        self._tracked: tuple[tuple[Tracked, Path], ...] | None = None
        self._checks = Checks(source)

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
        with closing(self._checks):
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
        for item, place in outputs:
            # A volume's source has its links resolved; tracked data may be behind one itself.
            for start in (place, Path(os.path.realpath(place))):
                if mounted.is_relative_to(start):
                    part = mounted.relative_to(start)
                    yield self._tracked_identity(wish, Output(item, mounted, part))
                    return
        inside = [(item, place) for item, place in outputs if place.is_relative_to(mounted)]
        many = len(inside) > _NAMED
        if many and wish.check != "off":
            log.info(
                "Checking %s, of which DVC files track %d parts", self._name(mounted), len(inside)
            )
        for item, place in inside:
            yield self._tracked_identity(wish, Output(item, place, Path(), quiet=many))
        rest = self._fingerprint(wish, frozenset(str(place) for _, place in inside))
        if not inside or rest.files:
            yield rest

    # ---- what DVC tracks -------------------------------------------------------------------------

    def _tracked_outputs(self) -> tuple[tuple[Tracked, Path], ...]:
        """Return what the commit's DVC files pin, and where the host has it."""
        if self._tracked is None:
            paths = filter(_dvc_files.is_dvc_file, _source.files(self._source))
            texts = _source.read_texts(self._source, sorted(paths))
            tracked, problems = _dvc_files.tracked(texts, self._source.root)
            for problem in problems:
                log.warning("%s", problem)
            self._tracked = tuple((item, _place(item)) for item in tracked)
        return self._tracked

    def _tracked_identity(self, wish: _Wish, output: Output) -> DataIdentity:
        tracked, part = output.tracked, output.part
        mounted = Path(wish.volume.source)
        target = PurePosixPath(wish.volume.target, output.place.relative_to(mounted))
        name = self._name(tracked.path if part is None else tracked.path / part)
        verdict = self._checks.check(output, name, wish.check)
        note = verdict.note
        outward = outward_links(output.place, mounted) if wish.check != "off" else 0
        if outward:
            note = "; ".join(filter(None, (note, _links_out(name, outward))))
            log.warning("%s", _links_out(name, outward))
        return DataIdentity(
            name=name,
            source=str(output.place),
            target=str(target),
            kind="dvc",
            state=verdict.state,
            digest=f"{tracked.hash}:{tracked.digest}",
            found=verdict.found,
            part=None if part is None else str(part),
            files=None if part else tracked.files or (None if tracked.is_folder else 1),
            bytes=None if part else tracked.size,
            tracked_by=tracked.file,
            note=note,
        )

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
