"""How long a call to a store may take, and which failures are asked about again."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from unittest.mock import Mock

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    NOT_IMPLEMENTED,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.utils.rest_utils import MlflowHostCreds, http_request
from sqlalchemy.exc import OperationalError

from hydra_plugins.hydra_docker_launcher import _mlflow_patience
from hydra_plugins.hydra_docker_launcher._errors import TrackingError
from hydra_plugins.hydra_docker_launcher._mlflow_patience import bounded, insist, is_transient

RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"


def raised(call: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- the test is about any of them
        call()
    return caught.value


def of_database(message: str) -> Exception:
    """What MLflow raises of a database."""

    def fail() -> None:
        try:
            raise OperationalError("SELECT 1", {}, sqlite3.OperationalError(message))
        except OperationalError as error:
            raise MlflowException(error, TEMPORARILY_UNAVAILABLE) from error

    return raised(fail)


def of_status(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("refused", response=response)


def no_server() -> Exception:
    creds = MlflowHostCreds("http://127.0.0.1:9")  # type: ignore[no-untyped-call]
    with bounded():
        return raised(lambda: http_request(creds, "/health", "GET"))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (no_server(), True),
        (requests.ReadTimeout("read timed out"), True),
        (requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), False),
        (requests.exceptions.InvalidURL("no host"), False),
        (of_status(503), True),
        (of_status(429), True),
        (of_status(403), False),
        (RestException({"error_code": "INTERNAL_ERROR", "message": "oops"}), True),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"}), False),
        (MlflowException("later", REQUEST_LIMIT_EXCEEDED), True),
        (MlflowException("later", TEMPORARILY_UNAVAILABLE), True),
        (MlflowException("who are you", PERMISSION_DENIED), False),
        (MlflowException("never", NOT_IMPLEMENTED), False),
        (MlflowException("odd", INVALID_PARAMETER_VALUE), False),
        (MlflowException("the client's own", INTERNAL_ERROR), False),
        (of_database("database is locked"), True),
        (of_database("no such table: runs"), False),
        (of_database("attempt to write a readonly database"), False),
        (sqlite3.OperationalError("database is locked"), True),
        (sqlite3.DatabaseError("file is not a database"), False),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), True),
        (TimeoutError("timed out"), True),
        (TrackingError("later", transient=True), True),
        (TrackingError("never"), False),
        (ValueError("could not convert"), False),
    ],
    ids=lambda value: f"{type(value).__name__}: {value}" if isinstance(value, Exception) else "",
)
def test_what_may_pass(error: Exception, transient: bool) -> None:
    """No answer, an error of the server and a lock may pass; a refusal does not."""
    assert is_transient(error) is transient


def test_bounds_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's variables are set inside the block alone; they are as before when all are through.

    A time limit of the user's own stays.
    """
    monkeypatch.setenv(RETRIES, "3")
    monkeypatch.delenv(TIMEOUT, raising=False)
    inside, left = Barrier(2, timeout=10), Barrier(2, timeout=10)

    def longer() -> tuple[str | None, str | None]:
        with bounded():
            inside.wait()
            left.wait()
            return os.environ.get(RETRIES), os.environ.get(TIMEOUT)

    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(longer)
        with bounded():
            inside.wait()
        left.wait()
        assert other.result() == ("0", "30")
    assert (os.environ.get(RETRIES), os.environ.get(TIMEOUT)) == ("3", None)

    monkeypatch.setenv(TIMEOUT, "77")
    with bounded():
        assert os.environ[TIMEOUT] == "77"
    assert os.environ[TIMEOUT] == "77"


LATER, NEVER = TrackingError("later", transient=True), TrackingError("never")


@pytest.mark.parametrize(
    ("ends", "calls"),
    [
        ([7], 1),
        ([LATER, 7], 2),
        ([LATER, LATER, LATER, 7], 4),
        ([LATER] * 9, 4),
        ([NEVER, 7], 1),
        ([LATER, NEVER, 7], 2),
    ],
)
def test_insisting(monkeypatch: pytest.MonkeyPatch, ends: list[object], calls: int) -> None:
    """What may pass is tried a few times; anything else once."""
    monkeypatch.setattr(_mlflow_patience, "_PAUSES_S", (0, 0, 0))
    call = Mock(side_effect=ends)
    last = ends[calls - 1]

    if isinstance(last, Exception):
        assert raised(lambda: insist(call, Mock())) is last
    else:
        assert insist(call, Mock()) == last

    assert call.call_count == calls


def test_nothing_is_asked_of_a_store_that_does_not_answer() -> None:
    """The check comes before every call."""
    call = Mock()
    gone = ConnectionRefusedError("gone")
    assert raised(lambda: insist(call, Mock(side_effect=gone))) is gone
    call.assert_not_called()


def test_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that took its time to fail is not made again."""
    monkeypatch.setattr(_mlflow_patience, "_INSISTING_S", -1.0)
    call = Mock(side_effect=[LATER, 7])
    assert raised(lambda: insist(call, Mock())) is LATER
    assert call.call_count == 1
