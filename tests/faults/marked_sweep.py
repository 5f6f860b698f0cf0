"""A sweep whose jobs leave marks outside their containers, and the commands that carry it on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from bench import Bench, Running
from sweep_command import wait_for

CLI = ("-m", "hydra_plugins.hydra_docker_launcher._cli")


@dataclass(frozen=True)
class Marks:
    """The runs of one job's task function, each by a token of its own, in their order."""

    begun: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()


@dataclass(frozen=True)
class Snapshot:
    """What a sweep has got so far, which nothing may take away again.

    ``completed`` has the token of each job that the ledger says has completed, ``progress`` what
    each job has written to its output folder.
    """

    completed: dict[int, str]
    progress: dict[int, bytes]


class MarkedSweep:
    """One sweep of ``jobs`` jobs, through all the commands that it takes to complete it.

    ``seconds`` is how long a job works; ``held``: it waits then until ``open_gate``. ``server``: it
    is tracked at the bench's server instead of in a file. ``proxied``: it reaches the engine
    through the bench's proxy. ``user`` is whose name it bears.
    """

    def __init__(
        self,
        bench: Bench,
        jobs: int,
        *overrides: str,
        seconds: float = 0.2,
        held: bool = False,
        server: bool = False,
        proxied: bool = False,
        user: str | None = None,
    ) -> None:
        self.bench = bench
        self.jobs = jobs
        self.own = bench.new_folder()
        self.folder = self.own / "sweep"
        self.marked = self.own / "ran"
        self.marked.mkdir()
        self.gate = self.own / "ran" / "gate"
        self.commands: list[Running] = []
        self._environment = {"DOCKER_HOST": bench.proxy.url} if proxied else {}
        self._environment |= {"LOGNAME": user} if user is not None else {}
        self.store = bench.server.store if server else bench.store
        self._line = (
            "hydra/launcher=docker",
            "hydra/sweeper=recording",
            f"hydra.sweep.dir={self.folder}",
            f"hydra.launcher.image={bench.image}",
            f"hydra.launcher.volumes=[{self.marked}:{self.marked}]",
            "hydra.launcher.network_mode=host",
            "hydra.launcher.mem_limit=128m",
            "hydra.launcher.cpus=0.5",
            "hydra.launcher.stop_grace_period=1s",
            "hydra.launcher.keep=none",
            f"ran={self.marked}",
            f"seconds={seconds}",
            f"number=range(0,{jobs})",
            *([f"gate={self.gate}"] if held else []),
            *([f"hydra.launcher.mlflow.tracking_uri={bench.server.url}"] if server else []),
            *overrides,
        )

    # ---- the commands ----------------------------------------------------------------------------

    def start(self, *overrides: str) -> Running:
        """Start the user's own command."""
        return self._run("app.py", "-m", *self._line, *overrides)

    def resume(self) -> Running:
        """Start it again, to run what is missing."""
        return self.start("hydra.launcher.resume=true")

    def attach(self) -> Running:
        """Take up what the last command has left."""
        return self._run(*CLI, "attach", str(self.folder))

    def sync(self) -> Running:
        """Send what could not be logged."""
        return self._run(*CLI, "sync", str(self.folder))

    def _run(self, *words: str) -> Running:
        log = self.own / f"command-{len(self.commands)}.log"
        self.commands.append(self.bench.run(log, *words, **self._environment))
        return self.commands[-1]

    def open_gate(self) -> None:
        """Let jobs that are held end."""
        self.gate.touch()

    # ---- what there is ---------------------------------------------------------------------------

    @property
    def output(self) -> str:
        """What all its commands have said."""
        return "\n".join(
            f"--- {' '.join(command.line)}\n{command.output}" for command in self.commands
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of ``sweep.json``, none where there is no file."""
        try:
            return list(json.loads((self.folder / "sweep.json").read_text())["jobs"])
        except FileNotFoundError:
            return []

    def marks(self, job: int) -> Marks:
        try:
            lines = (self.marked / str(job)).read_text().splitlines()
        except FileNotFoundError:
            return Marks()
        words = [line.split(" ") for line in lines]
        return Marks(
            tuple(token for word, token in words if word == "begin"),
            tuple(token for word, token in words if word == "end"),
        )

    def is_saved(self) -> bool:
        """Tell whether the sweep has got so far that it can be taken up."""
        return bool(self.rows()) or (self.folder / ".docker" / "sweep.json").exists()

    def begun(self) -> int:
        """Return how many jobs have begun."""
        return sum(bool(self.marks(job).begun) for job in range(self.jobs))

    def completed(self) -> int:
        return sum(row.get("outcome") == "completed" for row in self.rows())

    def result(self, job: int) -> dict[str, Any]:
        """Return what a job has returned, as its worker has written it down."""
        path = self.folder / str(job) / ".docker" / "result.json"
        return dict(json.loads(path.read_text()))

    def snapshot(self) -> Snapshot:
        completed = {
            row["job"]: self.result(row["job"])["value"]["token"]
            for row in self.rows()
            if row.get("outcome") == "completed"
        }
        files = {job: self.folder / str(job) / "progress" for job in range(self.jobs)}
        return Snapshot(
            completed, {job: file.read_bytes() for job, file in files.items() if file.is_file()}
        )

    def wait_until_begun(self, number: int) -> None:
        """Wait until so many jobs have begun; fail when the command ends before."""

        def begun() -> bool:
            assert not self.commands[-1].ended, self.output
            return self.begun() >= number

        wait_for(begun, f"{number} jobs begin")
