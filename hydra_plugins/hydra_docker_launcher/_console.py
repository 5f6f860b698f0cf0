"""Console: standard output as jobs' lines are shown there, as long as somebody can see them.

A job is worth more than its lines on a terminal: one that has been closed stops nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import threading
from contextlib import suppress

log = logging.getLogger("hydra_docker_launcher")


class Console:
    """Shows lines, from any number of threads. Its methods raise nothing of the stream's."""

    def __init__(self) -> None:
        self._open = True
        self._lock = threading.Lock()
        log.addFilter(_GUARD)

    def show(self, line: str) -> None:
        """Write a line; from the first one on that cannot be written, do nothing."""
        with self._lock:
            if not self._open:
                return
            try:
                _write(f"{line}\n")
                return
            except BlockingIOError:  # who shares it does not wait: this line is left out
                return
            except (OSError, ValueError, AttributeError) as error:  # None, where there is none
                self._open = False
                reason = getattr(error, "strerror", None) or error
                is_gone(error)
        log.warning(
            "What jobs print is not shown any more, since standard output cannot be written to "
            "(%s). The sweep goes on; container.log in each job's folder has it.",
            reason,
        )


def is_gone(error: BaseException) -> bool:
    """Tell whether ``error`` says that nobody reads standard output any more.

    What is still written to it then goes nowhere; Python would fail at its own end otherwise.
    """
    # A disk that fails has the other error as well.
    hung_up = isinstance(error, OSError) and error.errno == errno.EIO and _is_hung_up()
    if not (hung_up or isinstance(error, BrokenPipeError)):
        return False
    with suppress(OSError, ValueError, AttributeError):  # it may be no file of the system
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    return True


def _is_hung_up() -> bool:
    """Tell whether standard output is a terminal that has been closed."""
    try:
        output = sys.stdout.fileno()
        return stat.S_ISCHR(os.fstat(output).st_mode) and not os.isatty(output)
    except (OSError, ValueError, AttributeError):
        return False


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError as error:
        sys.stdout.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
    sys.stdout.flush()


class _Guard(logging.Filter):
    """Keeps a stream that is closed from ending what wanted to say something there.

    ``logging`` reports such an error on standard error, and fails where that is closed as well.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        with suppress(OSError, ValueError):
            log.callHandlers(record)
        return False


_GUARD = _Guard()
