"""Where faults are injected: an engine, a repository with an app, an MLflow store, and sweeps."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import docker
from engine_proxy import EngineProxy
from mlflow_server import MlflowServer
from private_engine import PrivateEngine, pids
from sweep_command import APPS, command_environment, wait_for

#: A variable that the processes of a bench are known by.
OWN = "HYDRA_DOCKER_FAULTS_BENCH"
PATIENCE = 180.0  # seconds, of one command


@dataclass(frozen=True)
class Store:
    """An MLflow store. ``server``: the folder that a server keeps artifacts in, None: no server."""

    database: Path
    server: Path | None = None

    def artifacts(self, uri: str) -> Path:
        """Return the folder of artifacts that a run's URI names."""
        path = Path(unquote(urlsplit(uri).path))
        return path if self.server is None else self.server / path.relative_to("/")


class Server(MlflowServer):
    """An MLflow server that may be down for a while. Its store is in ``folder``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        super().__init__(folder)
        self.store = Store(folder / "server.db", folder / "artifacts")


class Bench:
    """Everything that sweeps need, below ``folder``; nothing of it is shared with another bench.

    ``image`` is the worker's image on ``shared``, the engine that runs already.
    """

    def __init__(self, folder: Path, shared: docker.APIClient, image: str) -> None:
        self.folder = folder
        self.image = image
        self.engine = PrivateEngine(folder / "engine")
        self.root = folder / "repository"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.environment = {
            **command_environment(folder / "cache"),
            "DOCKER_HOST": self.engine.url,
            OWN: str(folder),
            "TMPDIR": str(self.temporary),
        }
        self._numbers = itertools.count()
        self._commands: list[Running] = []
        self._ending = ExitStack()
        self.engine.start()
        self.api = self.engine.api()
        for _ in self.api.load_image(shared.get_image(image)):
            pass
        self.images = self._images()
        self._make_repository()

    def _make_repository(self) -> None:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(APPS / "marks", self.root, ignore=ignored)
        shutil.copytree(
            APPS / "ends" / "hydra_plugins", self.root / "hydra_plugins", ignore=ignored
        )
        for line in (
            ("init", "--quiet", "--initial-branch", "main"),
            ("add", "--all"),
            ("commit", "--quiet", "--message", str(self.root)),
        ):
            subprocess.run(("git", *line), cwd=self.root, env=self.environment, check=True)

    @property
    def store(self) -> Store:
        """The store that sweeps have by default."""
        return Store(self.root / "mlflow-store" / "mlflow.db")

    @cached_property
    def server(self) -> Server:
        """An MLflow server, which is up."""
        server = Server(self.folder / "server")
        server.start()
        self._ending.callback(server.end)
        return server

    @cached_property
    def proxy(self) -> EngineProxy:
        """A way to the engine that can be disturbed."""
        proxy = EngineProxy(self.engine.url)
        proxy.up()
        self._ending.callback(proxy.close)
        return proxy

    def reset(self) -> None:
        """Undo and remove what a scenario that has failed has left."""
        self._end_commands()
        if "proxy" in vars(self):
            self.proxy.heal()
        if "server" in vars(self):
            self.server.end()
            self.server.start()
        if not self.engine.answers():
            self.engine.cut_power()
            self.engine.start()
        for container in self.containers():
            self.api.remove_container(container["Id"], v=True, force=True)
        for image in self.new_images():
            self.api.remove_image(image, force=True)
        for ticket in self.tickets():
            self.api.remove_volume(ticket)
        self.empty_temporary()

    def kill(self, command: Running) -> None:
        """Kill a command, and remove what it had in the system's folder for temporary files.

        Nobody else can know whose that is: it is what the system's own cleaning is for.
        """
        command.kill()
        self.empty_temporary()

    def empty_temporary(self) -> None:
        for path in self.temporary.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _end_commands(self) -> None:
        for command in self._commands:
            command.kill()
        for pid in self.in_background():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not self.in_background(), "the commands in the background end")

    def close(self) -> None:
        self._end_commands()
        self._ending.close()
        self.api.close()
        self.engine.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_folder(self) -> Path:
        """Return a folder for one sweep and what belongs to it."""
        folder = self.folder / "sweeps" / str(next(self._numbers))
        folder.mkdir(parents=True)
        return folder

    def run(self, log: Path, *words: str, **environment: str) -> Running:
        """Start ``python WORDS``; its output goes to ``log``."""
        variables = {**self.environment, **environment}
        self._commands.append(Running((sys.executable, *words), self.root, variables, log))
        return self._commands[-1]

    def in_background(self) -> list[int]:
        """Return the processes of commands that have gone into the background."""
        known = {command.process.pid for command in self._commands}
        mark = f"{OWN}={self.folder}".encode()
        return [pid for pid in pids() if pid not in known and mark in _environment(pid)]

    def containers(self) -> list[dict[str, Any]]:
        return self.api.containers(all=True)

    def tickets(self) -> list[str]:
        """Return the tickets (volumes) that launchers have for their next jobs."""
        found = self.api.volumes(filters={"label": "hydra.docker.ticket"})
        return [volume["Name"] for volume in found["Volumes"] or ()]

    def new_images(self) -> set[str]:
        """Return the images that the bench has not brought along."""
        return self._images() - self.images

    def _images(self) -> set[str]:
        return {image["Id"] for image in self.api.images(all=True)}


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


class Running:
    """A command that runs."""

    def __init__(
        self, line: tuple[str, ...], cwd: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        self.line = line
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            self.process = subprocess.Popen(
                line,
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it with SIGKILL, with all that it has started."""
        if not self.ended:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; return its exit status."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {timeout:g} s:\n{self.output}") from None
