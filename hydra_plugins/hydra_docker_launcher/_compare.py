"""Compare: what two runs have in common, and what exactly differs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ._past_job import PastJob


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was compared. ``then`` and ``now`` as text; ``same`` is the verdict."""

    what: str
    then: str
    now: str

    @property
    def same(self) -> bool:
        return self.then == self.now


def compare(then: PastJob, now: PastJob) -> tuple[Line, ...]:
    """Return everything that two runs of a job are compared by, and their packages that differ."""
    one, other = then.record, now.record
    return (
        Line("commit", one.source.commit, other.source.commit),
        Line("config", _text(then.plain), _text(now.plain)),
        Line("image", one.image.id, other.image.id),
        Line("python", one.python, other.python),
        Line("hydra-core", one.hydra, other.hydra),
        *_packages(then.packages, now.packages),
    )


def metrics(then: PastJob, now: PastJob) -> tuple[Line, ...]:
    """Return the last value of every metric of either run; ``-`` where it has none."""
    names = sorted({*then.run.metrics, *now.run.metrics})
    return tuple(
        Line(name, _number(then.run.metrics, name), _number(now.run.metrics, name))
        for name in names
    )


def _packages(then: tuple[str, ...], now: tuple[str, ...]) -> Iterator[Line]:
    one, other = _versions(then), _versions(now)
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            yield Line(f"package {name}", one.get(name, "-"), other.get(name, "-"))


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    return {name: version for name, _, version in (item.partition("==") for item in packages)}


def _text(plain: Mapping[str, object]) -> str:
    return repr(plain)


def _number(metrics: Mapping[str, float], name: str) -> str:
    """Return a metric to its last digit."""
    value = metrics.get(name)
    if value is None:
        return "-"
    return repr(int(value)) if math.isfinite(value) and value == int(value) else repr(value)
