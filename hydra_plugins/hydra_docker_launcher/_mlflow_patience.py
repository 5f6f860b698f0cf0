"""Patience: how long a call to an MLflow store may take, and when asking again may help.

MLflow's own client asks a server that is down again and again for minutes. Here each request has
one try and a time limit, and what failed is asked for again only while the store answers. This
module does not import mlflow.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ._errors import TrackingError

T = TypeVar("T")

#: Longer than an MLflow server itself waits for its locked SQLite database. That a server is down
#: is found out sooner, by the check before each call.
_REQUEST_TIMEOUT_S = 30
#: Time in which a call that fails is made again; the last try may begin at its end.
_INSISTING_S = 10.0
_PAUSES_S = (0.2, 1.0, 3.0)

_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"

_SERVER_ERROR = 500
_NOT_IMPLEMENTED = 501
_TOO_BUSY = (408, 429)
#: MLflow's word for any error of a database that is not a mistake in what it was asked.
_UNAVAILABLE = "TEMPORARILY_UNAVAILABLE"
#: What a database says that would say the same again.
_FOR_GOOD = re.compile(
    r"no such (table|column)|readonly database|unable to open database|authentication failed"
    r"|access denied|does not exist|unknown database|CERTIFICATE_VERIFY_FAILED",
    re.IGNORECASE,
)
#: Errors of requests, of SQLAlchemy and of sqlite3, by name: an MLflow client for servers alone has
#: no SQLAlchemy.
_NO_ANSWER = frozenset({"ConnectionError", "Timeout", "ChunkedEncodingError", "RetryError"})
_OF_DATABASE = "OperationalError"
_OF_SYSTEM = frozenset(
    {
        errno.EAGAIN,
        errno.EDQUOT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOSPC,
        errno.ESTALE,
        socket.EAI_AGAIN,
    }
)


class _Bounds:
    """The variables that bound MLflow's requests, set while any thread is inside ``bounded``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: dict[str, str | None] = {}

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            values = {_RETRIES: "0", _TIMEOUT: os.environ.get(_TIMEOUT, str(_REQUEST_TIMEOUT_S))}
            self._before = {name: os.environ.get(name) for name in values}
            os.environ.update(values)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            for name, value in self._before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


_BOUNDS = _Bounds()


@contextmanager
def bounded() -> Iterator[None]:
    """Give each of MLflow's HTTP requests one try and a time limit, as long as the block runs.

    MLflow knows no other way than variables of the process. They are as before when no block runs,
    so neither containers nor the user's own logging get them; a time limit that the user has set
    himself stays.
    """
    _BOUNDS.enter()
    try:
        yield
    finally:
        _BOUNDS.leave()


def insist(call: Callable[[], T], check: Callable[[], None]) -> T:
    """Return what ``call`` returns; make it again when that may help. It must be idempotent.

    ``check`` raises when the store does not answer: then no call is begun.
    """
    end = time.monotonic() + _INSISTING_S
    pauses = iter(_PAUSES_S)
    while True:
        check()
        try:
            return call()
        except Exception as error:
            pause = next(pauses, None)
            if pause is None or not is_transient(error) or time.monotonic() + pause > end:
                raise
        time.sleep(pause)


def is_transient(error: BaseException) -> bool:
    """Tell whether the same call may succeed later: no answer, an error of the server, a lock."""
    if isinstance(error, TrackingError):
        return error.transient
    if _FOR_GOOD.search(str(error)):
        return False
    chain = tuple(_chain(error))
    if any(_named(one, {_OF_DATABASE}) for one in chain):
        return True
    status = next(filter(None, map(_status, chain)), None)
    if status is not None:
        return status in _TOO_BUSY or (status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED)
    return any(
        isinstance(one, (ConnectionError, TimeoutError))
        or _named(one, _NO_ANSWER)
        or (isinstance(one, OSError) and one.errno in _OF_SYSTEM)
        for one in chain
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from: MLflow often wraps without saying ``from``."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def _named(error: BaseException, names: frozenset[str] | set[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error tells of, None where it tells of none."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    code = getattr(error, "error_code", None)
    # What MLflow's client raises of itself has this code as well, without an answer of a server.
    if code is None or (code == "INTERNAL_ERROR" and not _named(error, {"RestException"})):
        return None
    return 503 if code == _UNAVAILABLE else int(error.get_http_status_code())  # type: ignore[attr-defined]
