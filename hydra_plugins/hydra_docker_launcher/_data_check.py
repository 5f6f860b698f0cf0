"""Data check: whether what DVC tracks is on disk as the commit pins it, and what to do if not."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ._data_identity import DIFFERS, MATCHES, NOT_CHECKED
from ._dvc import Disk, Found
from ._dvc_files import Tracked
from ._errors import DataError
from ._source import Source
from ._units import show_size

log = logging.getLogger("hydra_docker_launcher")

NOTHING = "nothing"
_NAMED = 10


@dataclass(frozen=True, slots=True)
class Output:
    """A tracked output as it is mounted: all of it, or the path ``inner`` in it, at ``place``."""

    tracked: Tracked
    place: Path
    inner: Path
    #: The user has been told that it is checked.
    quiet: bool = False

    @property
    def part(self) -> PurePosixPath | None:
        return None if self.inner == Path() else PurePosixPath(self.inner)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of an output. ``found`` is the digest of what is there instead (or ``nothing``).

    ``note`` says why it was not checked.
    """

    state: str
    found: str | None = None
    note: str | None = None


class Checks:
    """Comparisons with what one commit pins: each output is compared once, and told of once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._disk = Disk()
        self._checked: dict[tuple[Tracked, PurePosixPath | None], Found | DataError] = {}

    def close(self) -> None:
        """Let go of DVC's files; more can be checked later."""
        self._disk.close()

    def check(self, output: Output, name: str, how: str) -> Verdict:
        """Compare one output, as ``data_check`` says. Raises ``DataError`` if that is ``error``."""
        if how == "off":
            return Verdict(NOT_CHECKED)
        tracked = output.tracked
        key = (tracked, output.part)
        new = key not in self._checked
        if new:
            self._checked[key] = self._compare(output, name)
        outcome = self._checked[key]
        commit = self._source.commit[:12]
        if isinstance(outcome, DataError):
            message = f"{name} was not compared with what commit {commit} pins: {outcome}"
            if how == "error":
                raise DataError(
                    f"{message}\nhydra.launcher.data_check=warn runs without that comparison."
                ) from outcome
            if new and not self._said(str(outcome), key):
                log.warning("%s", message)
            return Verdict(NOT_CHECKED, note=str(outcome))
        if outcome.matches:
            return Verdict(MATCHES)
        message = _difference(tracked, outcome, name, commit)
        if how == "error":
            raise DataError(f"{message}\n{_way_out(tracked, self._source)}")
        if new:
            log.warning("%s", message)
        found = f"{tracked.hash}:{outcome.digest}" if outcome.digest else NOTHING
        return Verdict(DIFFERS, found)

    def _said(self, reason: str, key: tuple[Tracked, PurePosixPath | None]) -> bool:
        """Tell whether the user has been told the same of other data: once is enough."""
        return any(str(other) == reason for name, other in self._checked.items() if name != key)

    def _compare(self, output: Output, name: str) -> Found | DataError:
        tracked, part = output.tracked, output.part
        size = "" if tracked.size is None or part else f", {show_size(tracked.size)}"
        count = "" if tracked.files is None or part else f": {tracked.files:,} files{size}"
        if not output.quiet:
            log.info("Checking %s against %s%s", name, tracked.file, count)
        try:
            return self._disk.compare(tracked, part)
        except DataError as error:
            return error


def _difference(tracked: Tracked, found: Found, name: str, commit: str) -> str:
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


def _way_out(tracked: Tracked, source: Source) -> str:
    what, pin = f" {tracked.file}", f"dvc add {tracked.path}"
    if tracked.file.endswith("dvc.lock"):
        what, pin = "", "dvc commit"
    try:
        here = tracked.digest in (source.root / tracked.file).read_text()
    except (OSError, UnicodeDecodeError):
        here = False
    first = "" if here else f"`git checkout {source.commit[:12]} -- {tracked.file}` and "
    return (
        f"{first}`dvc pull{what}` (or `dvc checkout`) get the pinned data; `{pin}` and `git "
        "commit` pin what is there; hydra.launcher.data_check=warn runs with the data as it is."
    )
