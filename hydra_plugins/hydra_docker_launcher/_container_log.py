"""Container log: ``container.log``, written line by line, through attempts and launchers."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter, deque
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

from ._units import show_size
from ._untrusted import Folder

BLOCK = 64 * 1024  # bytes of the first look at the end of the file
MAX_LOOK = 16 * 1024 * 1024  # bytes of the last one: what is not settled there is not the log
TAIL = 64 * 1024  # bytes of the last lines that a full log still gets
#: Lines of stdout and stderr do not always come in the order of their times; how far they are apart
#: at most, with much room.
SKEW = timedelta(seconds=1)
#: So that the engine sends a line of that very time again.
_LESS = timedelta(microseconds=1)
_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


class ContainerLog:
    """The file of one attempt. Lines begin with an RFC 3339 time, in nanoseconds, and a space.

    A container can write in the file's folder: the file must be a regular one, and no link.
    Beyond ``limit`` (in bytes; None: there is none) only the last lines are kept, and follow when
    it is closed.
    """

    def __init__(self, handle: int, start: int, limit: int | None = None) -> None:
        """Take an open file; the attempt's own lines begin at ``start`` or behind it, in bytes."""
        self._handle = handle
        self._start = start
        self._lock = threading.Lock()
        self._open = True
        self._mark: bytes | None = None
        self._since: str | None = None
        #: The file's lines that are later than ``_since``; those that the engine is to send again.
        self._known: Counter[bytes] = Counter()
        self._expected: Counter[bytes] = Counter()
        self._stale = False
        #: A line could not be written, or only a part of it.
        self._torn = False
        self._limit = limit
        self._size = os.fstat(handle).st_size
        self._left_out = 0
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        #: The latest of the times of what was left out.
        self._reached = b""

    @property
    def full(self) -> bool:
        """Whether the limit is reached: what is new is left out."""
        return self._left_out > 0

    @classmethod
    def first(cls, path: Path, limit: int | None = None) -> ContainerLog:
        """Begin a new file. Raises ``OSError``, as the others do."""
        handle = _opened(path)
        os.ftruncate(handle, 0)
        return cls(handle, 0, limit)

    @classmethod
    def further(
        cls, path: Path, attempt: int, after: str, limit: int | None = None
    ) -> ContainerLog:
        """Go on in the file of the attempts before, behind a line that says so."""
        handle = _opened(path)
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            _write(handle, b"\n")
        _write(handle, _now() + _mark(attempt) + f"{after})\n".encode())
        return cls(handle, os.fstat(handle).st_size, limit)

    @classmethod
    def taken_up(cls, path: Path, attempt: int, limit: int | None = None) -> ContainerLog:
        """Go on in the file that another launcher has begun for the same attempt.

        A last line without an end is cut off: the engine has it still.
        """
        handle = _opened(path)
        end = _end_of_lines(handle)
        if end is None:  # no such line was written here
            _write(handle, b"\n")
        else:
            os.ftruncate(handle, end)
        log = cls(handle, 0, limit)
        log._mark = _mark(attempt) if attempt > 1 else None
        log._stale = True
        return log

    def resume(self) -> str | None:
        """Return since when the engine is to be asked for lines, None: from the beginning.

        Lines that the file has already are then left out once, as often as it has them; one that
        could not be written is not among them. Raises ``OSError``, as ``write`` does.
        """
        with self._lock:
            if self._torn and self._open:
                self._cut_off()
            if self.full:
                self._expected.clear()
                return self._reached.decode("ascii", "replace") or None
            if self._stale and self._open:
                self._since, self._known = self._look()
                self._stale = False
            self._expected = Counter(self._known)
            return self._since

    def write(self, line: bytes) -> bool:
        """Append a line, and tell whether it is new.

        After an ``OSError`` (a full disk) ``resume`` comes first: the engine has the line still.
        """
        with self._lock:
            if self._expected[line] > 0:
                self._expected[line] -= 1
                return False
            if not self._open:
                return False
            try:
                if self.full or self._is_too_much(line):
                    self._leave_out(line)
                    return True
                _write(self._handle, line + b"\n")
            except OSError:
                self._torn = True
                raise
            self._size += len(line) + 1
            self._stale = True
            return True

    def _cut_off(self) -> None:
        """Take away what was written of a line that has no end."""
        end = _end_of_lines(self._handle)
        if end is None or end < self._start:
            _write(self._handle, b"\n")
        else:
            os.ftruncate(self._handle, end)
        self._torn, self._stale = False, True

    def _is_too_much(self, line: bytes) -> bool:
        return self._limit is not None and self._size + len(line) >= self._limit

    def _leave_out(self, line: bytes) -> None:
        if not self.full:
            said = f" hydra-docker: log_limit={show_size(self._limit or 0)} is reached\n"
            _write(self._handle, _now() + said.encode())
        self._left_out += 1
        line = line[:TAIL]
        self._tail.append(line)
        self._tail_size += len(line) + 1
        while self._tail_size > TAIL and len(self._tail) > 1:
            self._tail_size -= len(self._tail.popleft()) + 1
        stamp = _STAMP.match(line)
        self._reached = max(self._reached, stamp[0] if stamp else b"")

    def _write_tail(self) -> None:
        number = self._left_out - len(self._tail)
        said = f" hydra-docker: {number} lines are left out here; the last ones:\n"
        _write(self._handle, _now() + said.encode())
        for line in self._tail:
            _write(self._handle, line + b"\n")

    def close(self) -> None:
        """Write nothing more, whoever still wants to."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            try:
                if self.full:
                    self._write_tail()
            finally:
                os.close(self._handle)

    def _look(self) -> tuple[str | None, Counter[bytes]]:
        """Return a time before which the file has every line, and the lines that it has since."""
        lines = self._last_lines()
        stamps = [match[0].decode() for line in lines if (match := _STAMP.match(line))]
        if not stamps:
            return None, Counter(lines)
        before = _earlier(max(stamps), SKEW)
        # From a line on that is there as a whole: long ones are written in pieces.
        settled = max((stamp for stamp in stamps if stamp <= before), default=None)
        if settled is None:
            return None, Counter(lines)
        since = _earlier(settled, _LESS)
        return since, Counter(line for line in lines if line[: len(since)] > since.encode())

    def _last_lines(self) -> list[bytes]:
        """Return this attempt's last lines: at least those of twice the skew."""
        end = os.fstat(self._handle).st_size
        begin, block = end, BLOCK
        while True:
            begin = max(self._start, end - block)
            lines = os.pread(self._handle, max(0, end - begin), begin).split(b"\n")[:-1]
            if begin > self._start:
                del lines[:1]  # most likely not the whole of it
            marks = [number for number, line in enumerate(lines) if self._is_mark(line)]
            if marks:
                return lines[marks[-1] + 1 :]
            stamps = [match[0].decode() for line in lines if (match := _STAMP.match(line))]
            if (
                block >= MAX_LOOK
                or begin <= self._start
                or (stamps and stamps[0] < _earlier(max(stamps), 2 * SKEW))
            ):
                return lines
            block *= 2

    def _is_mark(self, line: bytes) -> bool:
        return self._mark is not None and line.partition(b" ")[2].startswith(self._mark[1:])


def _mark(attempt: int) -> bytes:
    return b" hydra-docker: attempt %d (after: " % attempt


def _opened(path: Path) -> int:
    with closing(Folder.at(path.parent)) as folder:
        return folder.open(path.name, os.O_RDWR | os.O_CREAT | os.O_APPEND)


def _end_of_lines(handle: int) -> int | None:
    """Return how long a file is without a last line that has no end; None: that is too long."""
    size = end = os.fstat(handle).st_size
    while end > 0:
        if size - end > MAX_LOOK:
            return None
        begin = max(0, end - BLOCK)
        found = os.pread(handle, end - begin, begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _write(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]


def _now() -> bytes:
    return f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%f}000Z".encode()


def _earlier(stamp: str, by: timedelta) -> str:
    """Return the time that is earlier, in the same format; below microseconds as it was."""
    moment = datetime.strptime(stamp[:26], "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=timezone.utc)
    return f"{moment - by:%Y-%m-%dT%H:%M:%S.%f}{stamp[26:]}"
