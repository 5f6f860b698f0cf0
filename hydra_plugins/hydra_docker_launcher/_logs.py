"""Logs: what the jobs of a sweep have printed, from their ``container.log``, and go on to print."""

from __future__ import annotations

import heapq
import os
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from . import _sweep_folder
from ._errors import SweepError
from ._harmless import harmless
from ._ledger import Ledger
from ._paths import JobPaths, SweepPaths

PAUSE = 0.2  # seconds between two looks at the files
LONGEST = 1024 * 1024  # bytes of a line that are shown at once
BLOCK = 64 * 1024  # bytes that are read at once, from the end backwards
_STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT[\d:.]+Z) (.*)", re.DOTALL)

#: Takes a line that is to be printed.
Print = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be shown. ``jobs`` empty: all; ``tail`` None: each log from its beginning."""

    jobs: tuple[int, ...] = ()
    tail: int | None = None
    follow: bool = False
    timestamps: bool = False


@dataclass
class _Log:
    """The log of one job, which grows. ``rest`` is a line that has no end yet."""

    number: int
    path: Path
    file: BinaryIO | None = None
    rest: bytes = b""
    stamp: str = field(default="")

    def open(self, tail: int | None) -> bool:
        """Open the file, and tell whether it is there. A container may write in its folder."""
        if self.file is None:
            try:
                handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                return False
            except OSError as error:
                raise SweepError(f"{self.path} cannot be read: {error.strerror}") from error
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                os.close(handle)
                raise SweepError(f"{self.path} is no regular file")
            self.file = os.fdopen(handle, "rb")
            if tail is not None:
                self.file.seek(_start_of_last(handle, tail))
        return True

    def lines(self, *, to_the_end: bool) -> Iterator[tuple[str, int, str]]:
        """Yield the lines that are new: their time, the job's number, the text.

        ``to_the_end``: the last one too, where it has no end.
        """
        if self.file is None:
            return
        while piece := self.file.readline(LONGEST):
            self.rest += piece
            if not piece.endswith(b"\n") and len(self.rest) < LONGEST:
                break
            yield self._line()
        if to_the_end and self.rest:
            yield self._line()

    def _line(self) -> tuple[str, int, str]:
        text = self.rest.decode("utf-8", "replace").rstrip("\n")
        self.rest = b""
        match = _STAMPED.match(text)
        if match is not None:
            self.stamp, text = match[1], match[2]
        return self.stamp, self.number, text


def show(folder: Path, wish: Wish, show_line: Print) -> bool:
    """Print the logs of the jobs of the sweep in ``folder``, all of them in the order of time.

    With ``follow``, until none of the jobs runs any more; False where they have not ended, but
    nobody looks after the sweep. Raises ``SweepError`` where there is no such sweep or job.
    """
    logs: dict[int, _Log] = {}
    with ExitStack() as stack:
        stack.callback(lambda: [log.file.close() for log in logs.values() if log.file])
        first = True
        while True:
            # In this order: what is written before the end of a job is recorded is not missed.
            cared_for = is_looked_after(folder)
            over = _look(folder, wish, logs)
            for log in logs.values():
                log.open(wish.tail if first else None)
            ended = over or not cared_for or not wish.follow
            sources = [log.lines(to_the_end=ended) for log in logs.values()]
            for stamp, number, text in heapq.merge(*sources, key=lambda line: line[0]):
                prefix = f"{stamp} " if wish.timestamps and stamp else ""
                show_line(f"#{number} | {prefix}{harmless(text)}")
            if ended:
                return over or not wish.follow
            first = False
            time.sleep(PAUSE)


def _look(folder: Path, wish: Wish, logs: dict[int, _Log]) -> bool:
    """Add the logs of jobs that are new; tell whether all that is asked for has ended."""
    ledger = Ledger.read(SweepPaths(folder).ledger)
    if ledger is None:
        raise SweepError(
            f"{folder} is the folder of no sweep: it has no sweep.json. Name a folder that a sweep "
            "with hydra/launcher=docker has made (hydra.sweep.dir)."
        )
    rows = ledger.rows
    check_jobs(wish.jobs, rows)
    asked = {number: row for number, row in rows.items() if number in (wish.jobs or rows)}
    for number, row in asked.items():
        logs.setdefault(number, _Log(number, JobPaths(Path(row["output_dir"])).log))
    all_ended = all(row["outcome"] is not None for row in asked.values())
    # A sweeper may add jobs as long as somebody looks after the sweep.
    return all_ended and (bool(wish.jobs) or not is_looked_after(folder))


def check_jobs(numbers: Collection[int], known: Collection[int]) -> None:
    """Raise ``SweepError`` for a number that no job of the sweep has."""
    for number in numbers:
        if number not in known:
            span = f"; it has {min(known)} to {max(known)}" if known else ""
            raise SweepError(f"The sweep has no job #{number}{span}")


def is_looked_after(folder: Path) -> bool:
    """Tell whether a process looks after the sweep; it may be one of somebody else's."""
    try:
        paths = _sweep_folder.find(folder)
        return paths is not None and _sweep_folder.keeper(paths) is not None
    except PermissionError:
        return True


def _start_of_last(handle: int, lines: int) -> int:
    """Return where the last lines of a file begin."""
    end = os.fstat(handle).st_size
    if lines == 0:
        return end
    begin, found = end, 0
    while begin > 0:
        block = min(BLOCK, begin)
        content = os.pread(handle, block, begin - block)
        place = len(content)
        if begin == end and content.endswith(b"\n"):
            place -= 1
        while (place := content.rfind(b"\n", 0, place)) >= 0:
            found += 1
            if found == lines:
                return begin - block + place + 1
        begin -= block
    return 0
