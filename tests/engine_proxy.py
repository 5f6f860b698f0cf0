"""A proxy in front of a Docker engine's socket: passes everything on, and fails where a test says.

    with EngineProxy() as proxy:
        environment = {"DOCKER_HOST": proxy.url}
        proxy.fail("POST .*/containers/create", 500, "no space left on device")
        proxy.lose_answer("POST .*/start", times=1)
        proxy.delay = 0.1
        with proxy.outage():
            ...
        assert proxy.count("POST .*/containers/create") == 2

A pattern is a regular expression that is searched for in ``METHOD /path?query``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import final

PIECE = 64 * 1024  # bytes
UNIX = "unix://"
JOIN = 10.0  # seconds that a thread has to end, once its sockets are closed


@dataclass
class Request:
    """A request that came, and what has become of it."""

    line: str  #: the method and the path with its query
    fault: str | None = None
    #: The status of the answer, None: there was none.
    status: int | None = None


@dataclass
class Fault:
    """What is done to the next ``times`` requests that match (None: to all that come)."""

    pattern: re.Pattern[str]
    kind: str  #: "fail", "lose_request" or "lose_answer"
    times: int | None
    status: int = 500
    message: str = ""


@dataclass
class _Expected:
    """An answer that the engine owes."""

    request: Request
    lost: bool
    not_before: float


@final
class EngineProxy:
    """Listens on a socket of its own, ``url``; ``engine`` is the address of the real one."""

    def __init__(self, engine: str | None = None) -> None:
        engine = engine or os.environ.get("DOCKER_HOST") or f"{UNIX}/var/run/docker.sock"
        if not engine.startswith(UNIX):
            raise ValueError(f"The proxy is for engines on a unix socket, not for {engine}")
        self.engine = engine.removeprefix(UNIX)
        #: Seconds that every answer comes later.
        self.delay = 0.0
        self._folder = Path(tempfile.mkdtemp(prefix="engine-proxy-"))
        self._path = self._folder / "docker.sock"
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._faults: list[Fault] = []
        self._connections: set[_Connection] = set()
        self._listener: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self._timers: list[threading.Timer] = []

    def __enter__(self) -> EngineProxy:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """What DOCKER_HOST has to be."""
        return f"{UNIX}{self._path}"

    @property
    def requests(self) -> list[str]:
        """The requests that have come, as ``METHOD /path?query``."""
        return [request.line for request in self.log]

    @property
    def log(self) -> list[Request]:
        with self._lock:
            return list(self._requests)

    def count(self, pattern: str) -> int:
        """Return how many requests have come that match."""
        return sum(re.search(pattern, line) is not None for line in self.requests)

    @property
    def unmet(self) -> list[str]:
        """The patterns of faults that are still to come."""
        with self._lock:
            return [fault.pattern.pattern for fault in self._faults if fault.times]

    # ---- faults ----------------------------------------------------------------------------------

    def fail(
        self, pattern: str, status: int = 500, message: str = "broken", times: int | None = 1
    ) -> None:
        """Answer requests in the engine's place: a status and a message. It does not see them."""
        self._add(Fault(re.compile(pattern), "fail", times, status, message))

    def lose_answer(self, pattern: str, times: int | None = 1) -> None:
        """Let the engine carry out a request, and cut the connection when it answers."""
        self._add(Fault(re.compile(pattern), "lose_answer", times))

    def lose_request(self, pattern: str, times: int | None = 1) -> None:
        """Cut the connection in place of passing a request on."""
        self._add(Fault(re.compile(pattern), "lose_request", times))

    def heal(self) -> None:
        """Take back all faults, and the delay."""
        with self._lock:
            self._faults.clear()
        self.delay = 0.0

    def cut(self) -> None:
        """Cut the connections that there are; new ones are taken."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            connection.close()

    def down(self) -> None:
        """Cut all connections and refuse new ones, as a daemon does that has ended."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept()
            listener.close()
            self._path.unlink(missing_ok=True)
        if self._accepting is not None:
            self._accepting.join(JOIN)
        self.cut()

    def up(self) -> None:
        """Take connections (again)."""
        with self._lock:
            if self._listener is not None:
                return
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(self._path))
            self._listener.listen(128)
            self._accepting = threading.Thread(
                target=self._accept, args=(self._listener,), name="engine-proxy", daemon=True
            )
            self._accepting.start()

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Be down in the block."""
        self.down()
        try:
            yield
        finally:
            self.up()

    def refuse(self, seconds: float) -> None:
        """Be down for some time; returns at once."""
        self.down()
        timer = threading.Timer(seconds, self.up)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def close(self) -> None:
        """End for good: no thread and no file is left."""
        for timer in self._timers:
            timer.cancel()
            timer.join(JOIN)
        with self._lock:
            connections = list(self._connections)
        self.down()
        for connection in connections:
            connection.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    # ---- inside ----------------------------------------------------------------------------------

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed
            connection = _Connection(self, client)
            with self._lock:
                self._connections.add(connection)
            connection.start()

    def note(self, line: str) -> tuple[Request, Fault | None]:
        """Write a request down, and return what is to be done to it."""
        request = Request(line)
        with self._lock:
            self._requests.append(request)
            for fault in self._faults:
                if fault.times != 0 and fault.pattern.search(line):
                    fault.times = None if fault.times is None else fault.times - 1
                    request.fault = fault.kind
                    return request, fault
        return request, None

    def forget(self, connection: _Connection) -> None:
        with self._lock:
            self._connections.discard(connection)


@dataclass(eq=False)
class _Connection:
    """A client's connection and one to the engine; a thread for each direction."""

    proxy: EngineProxy
    client: socket.socket
    engine: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.engine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._expected: deque[_Expected] = deque()
        self._threads = [
            threading.Thread(target=work, name="engine-proxy", daemon=True)
            for work in (self._pass_requests, self._pass_answers)
        ]

    def start(self) -> None:
        try:
            self.engine.connect(self.proxy.engine)
        except OSError:
            self.close()
            return
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        for end in (self.client, self.engine):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
            end.close()
        self.proxy.forget(self)

    def join(self) -> None:
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(JOIN)

    def _pass_requests(self) -> None:
        try:
            with self.client.makefile("rb", PIECE) as reader:
                while self._pass_request(reader):
                    pass
        except (OSError, ValueError):  # the other thread has closed it
            self.close()

    def _pass_request(self, reader: BufferedReader) -> bool:
        """Pass one request on; return whether another one may follow."""
        head = _head(reader)
        if not head:
            with suppress(OSError):
                self.engine.shutdown(socket.SHUT_WR)
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        method, path, _ = first.split(" ")
        request, fault = self.proxy.note(f"{method} {path}")
        if fault is not None and fault.kind != "lose_answer":
            for _ in _body(reader, headers):
                pass
            if fault.kind == "lose_request":
                self.close()
                return False
            time.sleep(self.proxy.delay)
            request.status = fault.status
            self.client.sendall(_answer(fault))
            return True
        not_before = time.monotonic() + self.proxy.delay
        self._expected.append(_Expected(request, fault is not None, not_before))
        self.engine.sendall(head)
        for piece in _body(reader, headers):
            self.engine.sendall(piece)
        if "upgrade" in headers:  # no HTTP any more
            while piece := reader.read1(PIECE):
                self.engine.sendall(piece)
            self.engine.shutdown(socket.SHUT_WR)
            return False
        return True

    def _pass_answers(self) -> None:
        with suppress(OSError):
            while piece := self.engine.recv(PIECE):
                # Nobody sends a request before the answer to the last one: this is a new answer.
                if self._expected:
                    expected = self._expected.popleft()
                    time.sleep(max(0.0, expected.not_before - time.monotonic()))
                    if expected.lost:
                        break
                    status = re.match(rb"HTTP/1\.[01] (\d+)", piece)
                    expected.request.status = int(status[1]) if status else None
                self.client.sendall(piece)
        self.close()


def _head(reader: BufferedReader) -> bytes:
    """Read up to the empty line; an empty result is the end of the connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = reader.readline()
        if not line:
            return b""
        head += line
    return head


def _body(reader: BufferedReader, headers: dict[str, str]) -> Iterator[bytes]:
    """Read a request's body, byte for byte as it came."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while True:
            line = reader.readline()
            yield line
            size = int(line.partition(b";")[0] or b"0", 16)
            if size == 0:
                break
            yield from _exactly(reader, size + 2)
        while (line := reader.readline()) not in (b"\r\n", b""):
            yield line
        yield line
    else:
        yield from _exactly(reader, int(headers.get("content-length", 0)))


def _exactly(reader: BufferedReader, size: int) -> Iterator[bytes]:
    while size:
        piece = reader.read1(min(size, PIECE))
        if not piece:
            raise ConnectionResetError("the client has gone")
        yield piece
        size -= len(piece)


def _answer(fault: Fault) -> bytes:
    body = json.dumps({"message": fault.message}).encode()
    head = (
        f"HTTP/1.1 {fault.status} Fault\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
