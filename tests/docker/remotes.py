"""Real git servers on this machine's loopback address, and what it takes to be let in."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncssh
from sweep_command import wait_for

TOKEN = "t0ken-of-Ada"  # what no log, image or variable may show


def bare(folder: Path) -> Path:
    """Make an empty bare repository."""
    git = ("git", "init", "--quiet", "--bare", "--initial-branch", "main", str(folder))
    subprocess.run(git, check=True)
    return folder


@contextmanager
def daemon(base: Path) -> Iterator[str]:
    """Serve the repositories below ``base`` with ``git daemon``; give the URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = ("--listen=127.0.0.1", f"--port={port}", f"--base-path={base}")
    command = ("git", "-c", "safe.directory=*", "daemon", "--export-all", *place, str(base))
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: _answers(port), "git daemon answers")
        yield f"git://localhost:{port}"
        process.terminate()


@contextmanager
def web(base: Path) -> Iterator[str]:
    """Serve them by http, to whoever has the token; give the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _answer(self, body: bytes) -> None:
            expected = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
            if self.headers.get("Authorization") != f"Basic {expected}":
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            variables = {
                "GIT_PROJECT_ROOT": str(base),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            }
            done = subprocess.run(
                ("git", "http-backend"),
                input=body,
                env={**os.environ, **variables},
                check=True,
                capture_output=True,
            )
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()


class SshServer:
    """Serves repositories by ssh to whoever has the key."""

    def __init__(self, folder: Path) -> None:
        self.key = folder / "deploy_key"
        self.known_hosts = folder / "known_hosts"
        self.port = 0
        host_key = asyncssh.generate_private_key("ssh-ed25519")
        user_key = asyncssh.generate_private_key("ssh-ed25519")
        user_key.write_private_key(str(self.key))
        self.key.chmod(0o600)
        authorized = asyncssh.import_authorized_keys(user_key.export_public_key().decode())
        started = threading.Event()
        self._loop = asyncio.new_event_loop()

        async def serve() -> None:
            server = await asyncssh.listen(
                "127.0.0.1",
                0,
                server_host_keys=[host_key],
                authorized_client_keys=authorized,
                process_factory=_upload_pack,
                encoding=None,
            )
            self._server = server
            self.port = server.get_port()
            started.set()

        self._loop.create_task(serve())
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        assert started.wait(10)
        public = host_key.export_public_key().decode()
        self.known_hosts.write_text(f"[localhost]:{self.port} {public}")

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            await self._server.wait_closed()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)


async def _upload_pack(process: asyncssh.SSHServerProcess) -> None:
    command = process.command or ""
    assert command.startswith("git-upload-pack '"), command
    path = command.split("'")[1]
    git = await asyncio.create_subprocess_exec(
        *("git", "-c", "safe.directory=*", "upload-pack", path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    asked = asyncio.create_task(_pump(process.stdin, git.stdin))
    await _pump(git.stdout, process.stdout)
    status = await git.wait()
    asked.cancel()
    process.exit(status)


async def _pump(source: Any, sink: Any) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
