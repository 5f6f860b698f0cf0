"""Compare: what two runs of a job have in common, and what exactly differs. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import _compose, _data_identity, _provenance
from ._options import LABEL_PREFIX
from ._past_job import PastJob

#: Options that other lines compare.
_COMPARED_ELSEWHERE = ("image", "commit", "dirty", "_target_")
#: What MLflow measures of the machine while a run goes on.
_OF_THE_MACHINE = "system/"
_NONE = "-"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was compared. ``then`` and ``now`` as text; None: nobody wrote it down."""

    what: str
    then: str | None
    now: str | None

    @property
    def same(self) -> bool:
        return self.then == self.now and self.then is not None

    @property
    def unknown(self) -> bool:
        return self.then is None or self.now is None


def compare(then: PastJob, now: PastJob) -> tuple[Line, ...]:
    """Return everything that two runs of a job are compared by.

    Of configs, options and packages, each part that differs has a line of its own.
    """
    one, other = then.record, now.record
    return (
        Line("outcome", _outcome(then), _outcome(now)),
        Line("commit", one.source.commit, other.source.commit),
        *_parts("config value", _compose.flatten(then.plain), _compose.flatten(now.plain)),
        *_parts("option", _options(then), _options(now)),
        Line("image", one.image.id, other.image.id),
        *_base(then.provenance, now.provenance),
        Line("python", one.python, other.python),
        Line("hydra-core", one.hydra, other.hydra),
        *_parts("package", _versions(then.packages), _versions(now.packages)),
        *_machine(then.provenance, now.provenance),
    )


def data(then: PastJob, now: PastJob) -> tuple[Line | str, ...]:
    """Return what is to be said of the data: a line where all of it is the same, or sentences."""
    if not then.data and not now.data:
        return ()
    sentences = _data_identity.compare(then.data, now.data)
    return tuple(sentences) or (Line("volumes", str(len(then.data)), str(len(now.data))),)


def _base(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Line]:
    """Yield what the images were built from, where they are not one and the same."""
    one, other = (document.get("image") or {} for document in (then, now))
    bases = one.get("base"), other.get("base")
    if any(bases) and one.get("id") != other.get("id"):
        yield Line("base image", *bases)


def _machine(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Line]:
    """Yield what of two machines can explain a different number, or that nothing does."""
    differing = _provenance.differences(then, now) if then and now else ()
    if not differing:
        yield Line("machine", "known" if then else None, "known" if now else None)
    for key, one, other in differing:
        name = key.partition(".")[2].replace("_", " ")
        yield Line(name, *_beyond(one, other))


def _beyond(then: str, now: str) -> tuple[str, str]:
    """Return of two listings what the other one does not have; other texts as they are."""
    one, other = then.split(", "), now.split(", ")
    if min(len(one), len(other)) < 2:
        return then, now
    return (
        ", ".join(item for item in one if item not in other) or _NONE,
        ", ".join(item for item in other if item not in one) or _NONE,
    )


def metrics(then: PastJob, now: PastJob) -> tuple[Line, ...]:
    """Return the last value of every metric of either run, to its last digit."""
    one, other = then.run.metrics, now.run.metrics
    names = sorted(name for name in {*one, *other} if not name.startswith(_OF_THE_MACHINE))
    return tuple(Line(name, _number(one.get(name)), _number(other.get(name))) for name in names)


def same_metrics(lines: Iterable[Line]) -> bool:
    return all(line.same for line in lines)


def _outcome(job: PastJob) -> str:
    """Return how a job has ended; of one that still runs, that it does."""
    return job.run.tags.get(f"{LABEL_PREFIX}outcome", job.run.status.lower())


def _options(job: PastJob) -> dict[str, Any]:
    options = _compose.flatten(job.record.options)
    return {name: value for name, value in options.items() if name not in _COMPARED_ELSEWHERE}


def _parts(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Line]:
    """Yield a line for each part that differs, or one for all where none does."""
    if not then or not now:
        if then or now:
            yield Line(f"{what}s", str(len(then)) if then else None, str(len(now)) if now else None)
        return
    differing = [name for name in {**then, **now} if repr(then.get(name)) != repr(now.get(name))]
    if not differing:
        yield Line(f"{what}s", str(len(then)), str(len(now)))
    for name in differing:
        one, other = (str(values.get(name, _NONE)) for values in (then, now))
        if one == other:  # the number 1 and the text 1
            one, other = (repr(values.get(name, _NONE)) for values in (then, now))
        yield Line(f"{what} {name}", one, other)


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    return {name: version for name, _, version in (item.partition("==") for item in packages)}


def _number(value: float | None) -> str:
    """Return a metric to its last digit."""
    if value is None:
        return _NONE
    whole = math.isfinite(value) and value == int(value) and abs(value) < 2**53
    return str(int(value)) if whole else repr(value)
