"""Log stream: the lines of a container's output, of what the engine sends of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST_LINE = 1024 * 1024  # bytes, with its time; what is longer becomes several lines
_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.]{0,10}Z ")


def lines(
    frames: Iterable[bytes],
    since: str | None,
    *,
    to_the_end: bool,
    longest: int = LONGEST_LINE,
) -> Iterator[bytes]:
    """Yield the lines that are later than the time ``since``, each with its time before it.

    ``frames`` are what the engine sends one by one: a time, and a line or a piece of one. Nothing
    depends on that: they may have several lines, and be torn anywhere. ``to_the_end``: the last
    line too, where it has no end.
    """
    replays = Replays()
    for line, is_whole in _split(frames, longest, to_the_end=to_the_end):
        if is_later(line, since) and not (is_whole and replays.is_one(line)):
            yield line


def time_of(line: bytes) -> str | None:
    """Return the time of a line, None where it has none."""
    stamp = _STAMP.match(line)
    return stamp[0][:-1].decode("ascii") if stamp else None


def is_later(line: bytes, since: str | None) -> bool:
    """Tell whether a line is later than the time ``since``; one without a time always is."""
    moment = time_of(line)
    return since is None or moment is None or moment > since


def _split(
    frames: Iterable[bytes], longest: int, *, to_the_end: bool
) -> Iterator[tuple[bytes, bool]]:
    """Yield lines, and whether each is whole: no part of one that was too long, and with its time.

    A line without a time has that of the one before it.
    """
    rest, stamp, is_part = b"", b"", False
    for frame in frames:
        # A line over 16 KiB comes in pieces, each with a time.
        time = _STAMP.match(frame) if rest else None
        *ended, rest = (rest + frame[time.end() if time else 0 :]).split(b"\n")
        for line in ended:
            timed, stamp = _timed(line, stamp)
            *parts, last = _cut(timed, stamp, longest)
            yield from ((part, False) for part in parts)
            yield last, bool(stamp) and timed == line and not (parts or is_part)
            is_part = False
        if len(rest) > longest:  # it may have no end
            timed, stamp = _timed(rest, stamp)
            *parts, rest = _cut(timed, stamp, longest)
            yield from ((part, False) for part in parts)
            is_part = True
    if rest and to_the_end:
        timed, stamp = _timed(rest, stamp)
        yield from ((part, False) for part in _cut(timed, stamp, longest))


def _timed(line: bytes, before: bytes) -> tuple[bytes, bytes]:
    """Return a line with a time, which is ``before`` where it has none of its own, and the time."""
    own = _STAMP.match(line)
    return (line, own[0]) if own else (before + line, before)


def _cut(line: bytes, stamp: bytes, longest: int) -> list[bytes]:
    """Return a line in parts that are not too long, the further ones with ``stamp`` before them."""
    step = longest - len(stamp)
    further = range(longest, len(line), step)
    return [line[:longest], *(stamp + line[begin : begin + step] for begin in further)]


class Replays:
    """Finds the lines that the engine sends once more, when it has begun a new file of a log.

    Its follower may then begin at the start of that file again. Lines are known by their times, to
    the nanosecond, and their words.
    """

    def __init__(self, memory: int = 50_000) -> None:
        """Remember so many lines: a file of 10 MB has no more, unless they are very short."""
        self._memory = memory
        self._known: dict[int, None] = {}
        self._latest = b""

    def is_one(self, line: bytes) -> bool:
        stamp, mark = line.split(b" ", 1)[0], hash(line)
        if stamp <= self._latest and mark in self._known:
            return True
        self._latest = max(self._latest, stamp)
        self._known[mark] = None
        if len(self._known) > self._memory:
            del self._known[next(iter(self._known))]
        return False
