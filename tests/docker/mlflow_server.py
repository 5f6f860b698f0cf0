"""A real MLflow server on this machine's loopback address only."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweep_command import wait_for


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run a server with its store in ``folder``, until the block ends; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    options = (f"--port={port}", "--host=127.0.0.1", "--workers=1")
    stores = ("--backend-store-uri=sqlite:///server.db", "--artifacts-destination=artifacts")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "mlflow", "server", *options, *stores),
            cwd=folder,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    try:
        wait_for(answers, "the MLflow server answers")
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)
