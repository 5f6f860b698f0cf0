"""The Docker Engine's API where it ceases to answer in the middle of an answer."""

from __future__ import annotations

import json
import re
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

import pytest
from fakes import PATIENCE

from hydra_plugins.hydra_docker_launcher import _docker_engine
from hydra_plugins.hydra_docker_launcher._docker_engine import DockerEngine
from hydra_plugins.hydra_docker_launcher._engine import Boundary, ContainerSpec, Limits
from hydra_plugins.hydra_docker_launcher._errors import ImageError

LINE = b"2026-11-22T10:00:00.000000000Z hello\n"
STATE = {
    "Status": "exited",
    "Running": False,
    "ExitCode": 1,
    "OOMKilled": False,
    "StartedAt": "2026-11-22T10:00:00.000000000Z",
    "FinishedAt": "2026-11-22T10:00:01.000000000Z",
}
DIED = {"Action": "die", "timeNano": 1795341601 * 10**9, "Actor": {"Attributes": {}}}
PLAIN = {
    "GET /version": {"ApiVersion": "1.41", "Version": "20.10"},
    "GET .*/_ping": "OK",
    "GET .*/info": {"SystemTime": "2026-11-22T10:00:00.500000000Z"},
    "GET .*/containers/hung/json": {"Config": {"Tty": False}, "State": STATE, "Id": "hung"},
    "GET .*/containers/hydra-docker-look-[^/]*/json": {"State": STATE},
    "POST .*/containers/create": {"Id": "hung"},
    "POST .*/start": "",
    "GET .*/containers/ended/json": {"State": {**STATE, "Pid": 0}},
    "GET .*/containers/ended/stats": "",
    "DELETE .*/containers/": "",
}
SPEC = ContainerSpec(
    name="hydra-docker-look",
    image=f"sha256:{'1' * 64}",
    command=("python3", "-c", "import hydra"),
    working_dir="/",
    limits=Limits(1.0, 2**29, 2**29, 2**29, 256),
    boundary=Boundary(user=None),
)
#: What comes before the rest is kept back.
BEGUN = {
    "GET .*/containers/hung/logs": struct.pack(">BxxxL", 1, len(LINE)) + LINE,
    "GET .*/events": json.dumps(DIED).encode(),
    "POST .*/wait": b"",
}


class Engine(ThreadingMixIn, UnixStreamServer):
    """Answers on a socket; some answers have no end until ``over``."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Handler)
        self.over = threading.Event()
        self.requests: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Engine
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        request = f"{self.command} {self.path.partition('?')[0]}"
        self.server.requests.append(request)
        if body := self.headers.get("Content-Length"):
            self.rfile.read(int(body))
        begun = next((text for line, text in BEGUN.items() if re.fullmatch(line, request)), None)
        if begun is not None:
            return self._begin(begun)
        found = next(answer for line, answer in PLAIN.items() if re.match(line, request))
        content = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def _begin(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if content:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))
        self.server.over.wait(PATIENCE)
        self.close_connection = True

    def address_string(self) -> str:
        return "test"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine whose streams do not end, and a launcher that waits for them only shortly."""
    for name in ("CONNECT_TIMEOUT", "EVENTS_TIMEOUT", "PROBE_TIMEOUT"):
        monkeypatch.setattr(_docker_engine, name, 0.2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine.sock")
    with Engine(Path("engine.sock")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def test_output_that_does_not_end(served: Engine) -> None:
    """Who follows a container's output stops to where nothing comes, and keeps what has come."""
    assert list(DockerEngine().log_lines("hung", None)) == [LINE.rstrip()]
    assert sum(request.endswith("/logs") for request in served.requests) == 1


def test_events_that_do_not_end(served: Engine) -> None:
    """Where the engine's clock is behind, the end of the time asked for is not waited for."""
    state = DockerEngine().state("hung")
    assert state is not None
    assert (state.exit_code, state.unseen) == (1, False)


def test_look_that_does_not_end(served: Engine) -> None:
    """An image whose Python hangs is an error after some minutes, and its container is removed."""
    with pytest.raises(ImageError, match=r"the image 111111111111 has .* has not come to its end"):
        DockerEngine().probe(SPEC, 1000)
    assert served.requests[-1].startswith("DELETE ")


def test_container_that_ends_as_it_is_measured(served: Engine) -> None:
    """The engine's answer is an empty one then: nothing is used, and the engine is not away."""
    engine = DockerEngine()
    assert engine.use("ended") is None
    assert engine.measure("ended", SPEC) is None
