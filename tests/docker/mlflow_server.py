"""A real MLflow server on this machine's loopback address only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sweep_command import wait_for

#: No telemetry; no processes beside the server's own.
_QUICK = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class MlflowServer:
    """A server with its store in ``folder``. Started again, it has the same address and store."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
        options = (f"--port={self._port}", "--host=127.0.0.1", "--workers=1")
        stores = ("--backend-store-uri=sqlite:///server.db", "--artifacts-destination=artifacts")
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "mlflow", "server", *options, *stores),
                cwd=self._folder,
                env={**os.environ, **_QUICK},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._answers, "the MLflow server answers")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and all its processes, unless it has ended."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)
            self._process.wait(30)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run a server with its store in ``folder``, until the block ends; yield its address."""
    server = MlflowServer(folder)
    try:
        server.start()
        yield server.url
    finally:
        server.end()
