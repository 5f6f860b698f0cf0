"""Log stream: the lines of a container's output, of what the engine sends of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

LONGEST_LINE = 1024 * 1024  # bytes, with its time; what is longer becomes several lines
_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.]{0,10}Z ")


class Reader:
    """Reads a container's output, in several streams one after another: no line of it twice.

    A stream may end before the output does, in the middle of a line too, and the next one begin
    before that place: at ``latest``, the time that was reached (as text, empty: none yet).
    """

    def __init__(self, since: str | None, longest: int = LONGEST_LINE) -> None:
        """Leave out what is not later than the time ``since``."""
        self._since = self.latest = since or ""
        self._longest = longest
        self._replays = Replays()

    def lines(self, frames: Iterable[bytes], *, to_the_end: bool) -> Iterator[bytes]:
        """Yield the lines that are new, each with its time before it.

        ``frames`` are what the engine sends one by one: a time, and a line or a piece of one.
        Nothing depends on that: they may have several lines, and be torn anywhere. ``to_the_end``:
        the last line too, where it has no end.
        """
        begin = self.latest
        for place, line in _split(frames, self._longest, to_the_end=to_the_end):
            time = time_of(line)
            if time is not None:
                if time <= self._since or time < begin or self._replays.is_one(line, place):
                    continue
                # Not always in order: stdout and stderr come each by itself.
                self.latest = max(self.latest, time)
            yield line


def time_of(line: bytes) -> str | None:
    """Return the time of a line, None where it has none."""
    stamp = _STAMP.match(line)
    return stamp[0][:-1].decode("ascii") if stamp else None


def _split(
    frames: Iterable[bytes], longest: int, *, to_the_end: bool
) -> Iterator[tuple[int, bytes]]:
    """Yield lines, each behind its place in the line that has the time, from 0.

    There are others than 0 where that line was too long, and where lines without a time follow it:
    they have the time of the one before.
    """
    cutter = _Cutter(longest)
    rest = b""
    for frame in frames:
        # A line over 16 KiB comes in pieces, each with a time.
        time = _STAMP.match(frame) if rest else None
        *ended, rest = (rest + frame[time.end() if time else 0 :]).split(b"\n")
        for line in ended:
            yield from cutter.parts(line)
        if len(rest) > longest:  # it may have no end
            *parts, (_, rest) = cutter.parts(rest, ended=False)
            yield from parts
    if rest and to_the_end:
        yield from cutter.parts(rest)


class _Cutter:
    """Cuts lines into parts that are not too long, each with a time. Knows those of the last."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._stamp = b""
        self._place = 0
        self._goes_on = False

    def parts(self, line: bytes, *, ended: bool = True) -> list[tuple[int, bytes]]:
        """Return the parts, each behind its place. Without an end, the last comes here again."""
        own = _STAMP.match(line)
        if own and not self._goes_on:
            self._stamp, self._place = own[0], 0
        line = line if own else self._stamp + line
        step = self._longest - len(self._stamp)
        further = range(self._longest, len(line), step)
        texts = [line[: self._longest], *(self._stamp + line[at : at + step] for at in further)]
        parts = list(enumerate(texts, self._place))
        self._place += len(parts) if ended else len(parts) - 1
        self._goes_on = not ended
        return parts


class Replays:
    """Finds the lines that the engine sends once more, when it has begun a new file of a log.

    Its follower may then begin at the start of that file again. Lines are known by their times, to
    the nanosecond, their places in the line of that time, and their words.
    """

    def __init__(self, memory: int = 50_000) -> None:
        """Remember so many lines: a file of 10 MB has no more, unless they are very short."""
        self._memory = memory
        self._known: dict[int, None] = {}
        self._latest = b""

    def is_one(self, line: bytes, place: int = 0) -> bool:
        stamp, mark = line.split(b" ", 1)[0], hash((line, place))
        if stamp <= self._latest and mark in self._known:
            return True
        self._latest = max(self._latest, stamp)
        self._known[mark] = None
        if len(self._known) > self._memory:
            del self._known[next(iter(self._known))]
        return False
