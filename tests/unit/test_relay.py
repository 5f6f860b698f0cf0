"""The way from a container to a server on the host's loopback address.

127.0.0.2 stands for the gateway of a bridge: an address of this machine that a server on 127.0.0.1
does not listen on.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import urlopen

import pytest

from hydra_plugins.hydra_docker_launcher._errors import TrackingError
from hydra_plugins.hydra_docker_launcher._relay import Relay, reachable_url

GATEWAY = "127.0.0.2"
#: Reserved for documentation (RFC 5737): no machine has it.
NOT_OURS = "203.0.113.1"
PATIENCE_S = 5.0


class Hello(BaseHTTPRequestHandler):
    """Answers every GET with the path that was asked for."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


class Server(ThreadingHTTPServer):
    """A web server that many can call at once."""

    request_queue_size = 64


def serve(host: str) -> Iterator[int]:
    with Server((host, 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def port() -> Iterator[int]:
    """A web server on 127.0.0.1 only."""
    yield from serve("127.0.0.1")


@pytest.fixture
def open_port() -> Iterator[int]:
    """A web server on every address of this machine."""
    yield from serve("0.0.0.0")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A bare TCP listener on 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE_S)
        yield server


def connect(relay: Relay) -> socket.socket:
    return socket.create_connection(relay.address, PATIENCE_S)


def send_and_end(end: socket.socket, data: bytes) -> None:
    end.sendall(data)
    end.shutdown(socket.SHUT_WR)


def test_loopback_server_is_relayed(port: int) -> None:
    """A server that listens on loopback only is reached through a relay on the gateway."""
    url, relay = reachable_url(
        f"http://localhost:{port}/mlflow", network_mode="bridge", gateway=GATEWAY
    )

    assert relay is not None
    with closing(relay):
        assert relay.address[0] == GATEWAY
        assert relay.address[1] != port
        assert url == f"http://{GATEWAY}:{relay.address[1]}/mlflow"
        assert urlopen(url, timeout=PATIENCE_S).read() == b"/mlflow"


def test_server_on_every_address_needs_no_relay(open_port: int) -> None:
    """A server that answers on the gateway is used as it is; 0.0.0.0 means this machine, too."""
    for host in ("127.0.0.1", "0.0.0.0"):
        assert reachable_url(
            f"http://ann:p%40w@{host}:{open_port}/x?y=1", network_mode="lab", gateway=GATEWAY
        ) == (f"http://ann:p%40w@{GATEWAY}:{open_port}/x?y=1", None)


@pytest.mark.parametrize(
    ("url", "network_mode"),
    [
        ("http://mlflow.example:5000", "bridge"),
        ("https://192.0.2.7/mlflow", "bridge"),
        ("http://localhost:5000", "host"),
    ],
)
def test_what_a_container_reaches_anyway(url: str, network_mode: str) -> None:
    """Other machines, and everything on the host's own network: unchanged."""
    assert reachable_url(url, network_mode=network_mode, gateway=GATEWAY) == (url, None)


@pytest.mark.parametrize("gateway", [None, NOT_OURS])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "a.localhost"])
def test_engine_on_another_machine(host: str, gateway: str | None) -> None:
    """A gateway that is not on this machine (Docker Desktop): Docker's name for the host."""
    assert reachable_url(f"https://ann@{host}/p", network_mode="bridge", gateway=gateway) == (
        "https://ann@host.docker.internal/p",
        None,
    )


def test_no_network() -> None:
    """Without a network there is no server; the message has the ways out, and no password."""
    with pytest.raises(TrackingError, match="network_mode=none cannot reach") as caught:
        reachable_url("http://ann:pw@localhost:5000", network_mode="none", gateway=None)

    assert "http://ann:***@localhost:5000. Choose another" in str(caught.value)
    assert "hydra.launcher.mlflow.enabled=false" in str(caught.value)


def test_half_closed_connections(listener: socket.socket) -> None:
    """One side may end its half and still receive all of the other's."""
    answer = b"y" * 3_000_000
    with closing(Relay(GATEWAY, listener.getsockname())) as relay, connect(relay) as client:
        server, _ = listener.accept()
        with server:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            asked = b"".join(iter(lambda: server.recv(1024), b""))
            sender = threading.Thread(target=send_and_end, args=(server, answer))
            sender.start()
            got = b"".join(iter(lambda: client.recv(65536), b""))
            sender.join()

    assert asked == b"question"
    assert got == answer


def test_many_connections_at_once(port: int) -> None:
    """Each connection has its own way through."""
    answers: list[bytes] = []
    with closing(Relay(GATEWAY, ("127.0.0.1", port))) as relay:
        url = f"http://{GATEWAY}:{relay.address[1]}/"
        threads = [
            threading.Thread(
                target=lambda n=n: answers.append(urlopen(f"{url}{n}", timeout=PATIENCE_S).read())
            )
            for n in range(40)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(answers) == sorted(b"/%d" % n for n in range(40))


def test_close(listener: socket.socket) -> None:
    """close() cuts open connections and frees the port; a second close() does nothing."""
    relay = Relay(GATEWAY, listener.getsockname())
    with connect(relay) as client:
        server, _ = listener.accept()
        with server:
            client.sendall(b"x")
            assert server.recv(1) == b"x"  # so the connection is through
            relay.close()
            assert client.recv(1) == b""
            assert server.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(relay)
    relay.close()


def test_target_that_is_gone(capfd: pytest.CaptureFixture[str]) -> None:
    """A server that has stopped: the connection ends, and nothing is printed."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        target = gone.getsockname()
    with closing(Relay(GATEWAY, target)) as relay, connect(relay) as client:
        assert client.recv(1) == b""

    assert capfd.readouterr() == ("", "")


def test_address_of_another_machine() -> None:
    """A relay listens on addresses of this machine only."""
    with pytest.raises(OSError, match="assign"):
        Relay(NOT_OURS, ("127.0.0.1", 1))
