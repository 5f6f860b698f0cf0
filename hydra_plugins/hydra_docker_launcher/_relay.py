"""A way from containers to a server that listens on the host's loopback address only."""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import threading
from urllib.parse import SplitResult, urlsplit

from ._errors import TrackingError

#: The name under which Docker Desktop (and ``extra_hosts: host.docker.internal:host-gateway``)
#: shows the host to a container.
DOCKER_HOST_NAME = "host.docker.internal"

_CONNECT_TIMEOUT_S = 5.0
_CHUNK = 64 * 1024
_PORTS = {"http": 80, "https": 443}


class Relay:
    """Forwards TCP connections from an address of this machine to another, until closed.

    It listens on one address, not on all: what can reach that address (the containers of its
    bridge) can reach the target. The port is a free one: on the target's own port a second sweep
    would take this relay for the server, and lose it when the first sweep ends.
    """

    def __init__(self, listen: str, target: tuple[str, int], port: int = 0) -> None:
        """Listen on a free port of ``listen``, or on that of a relay that is gone.

        OSError if that is no address of this machine, or the port is taken.
        """
        self.target = target
        self._server = _Server(listen, target, port)
        #: Host and port that it listens on.
        self.address = (listen, int(self._server.server_address[1]))
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="relay", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and cut the connections that are still open. May be called twice."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.cut()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    allow_reuse_address = True  # its containers know the port: who comes after it needs the same

    def __init__(self, listen: str, target: tuple[str, int], port: int) -> None:
        self.target = target
        self.address_family = socket.AF_INET6 if ":" in listen else socket.AF_INET
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._cut = False
        super().__init__((listen, port), _Connection)

    def opened(self, *ends: socket.socket) -> None:
        with self._lock:
            self._open.update(ends)
            cut = self._cut
        if cut:
            self.cut()

    def closed(self, *ends: socket.socket) -> None:
        with self._lock:
            self._open.difference_update(ends)

    def cut(self) -> None:
        with self._lock:
            self._cut = True
            for end in self._open:
                _shut(end, socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """A broken connection is its two ends' business: nothing goes to the user's console."""


class _Connection(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        client: socket.socket = self.request
        with socket.create_connection(self.server.target, _CONNECT_TIMEOUT_S) as server:
            server.settimeout(None)
            self.server.opened(client, server)
            try:
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()
            finally:
                self.server.closed(client, server)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy until ``source`` ends, then tell ``sink``; the other direction stays open."""
    try:
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    except OSError:
        _shut(source, socket.SHUT_RDWR)
        _shut(sink, socket.SHUT_RDWR)
    else:
        _shut(sink, socket.SHUT_WR)


def _shut(end: socket.socket, how: int) -> None:
    try:
        end.shutdown(how)
    except OSError:  # it is shut already
        return


def reachable_url(url: str, *, network_mode: str, gateway: str | None) -> tuple[str, Relay | None]:
    """Return the URL under which a container reaches ``url``, and the relay that makes it so.

    ``gateway`` is the host's address on the container's network, None where the engine names none.
    The caller closes the relay when no container needs it any more.
    """
    if network_mode == "none":
        raise TrackingError(
            "A container with network_mode=none cannot reach the tracking server "
            f"{_without_password(url)}. Choose another hydra.launcher.network_mode, an SQLite "
            "store (hydra.launcher.mlflow.tracking_uri), or hydra.launcher.mlflow.enabled=false."
        )
    parts = urlsplit(url)
    host = parts.hostname or ""
    if network_mode == "host" or not _is_this_machine(host):
        return url, None
    port = parts.port or _PORTS.get(parts.scheme, 80)
    address, found, relay = reachable_address(host, port, gateway)
    return _with_address(parts, address, parts.port if relay is None else found), relay


def reachable_address(host: str, port: int, gateway: str | None) -> tuple[str, int, Relay | None]:
    """Return where a container on a bridge reaches ``host`` and ``port``, and the relay for that.

    The caller closes the relay when no container needs it any more.
    """
    if not _is_this_machine(host):
        return host, port, None
    if gateway is None or not _is_bindable(gateway):
        return DOCKER_HOST_NAME, port, None
    if _answers(gateway, port):
        return gateway, port, None
    # 0.0.0.0 is where a server listens, not where one connects to.
    relay = Relay(gateway, ("localhost" if _is_wildcard(host) else host, port))
    return *relay.address, relay


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback or _is_wildcard(host)
    except ValueError:  # a name
        return False


def _is_wildcard(host: str) -> bool:
    return host in ("0.0.0.0", "::")  # noqa: S104 (compared with, not listened on)


def _is_bindable(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), _CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _with_address(parts: SplitResult, host: str, port: int | None) -> str:
    user, at, _ = parts.netloc.rpartition("@")
    shown = f"[{host}]" if ":" in host else host
    return parts._replace(netloc=f"{user}{at}{shown}" + (f":{port}" if port else "")).geturl()


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return _with_address(parts, parts.hostname or "", parts.port).replace(
        f":{parts.password}@", ":***@", 1
    )
