"""Data identity: what is known of the data that a job was given, and how two of them differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ._tracking import Dataset
from ._units import show_size

MATCHES = "matches"
DIFFERS = "differs"
NOT_CHECKED = "not checked"
RECORDED = "recorded"
NOT_IDENTIFIED = "not identified"


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


def as_text(data: Sequence[DataIdentity]) -> str:
    """Return the content of ``data.json``, which every run has whose job has volumes."""
    return json.dumps([item.as_json() for item in data], indent=2) + "\n"


def from_text(text: str) -> tuple[DataIdentity, ...]:
    """Read what ``as_text`` wrote."""
    return tuple(map(DataIdentity.from_json, json.loads(text)))


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
