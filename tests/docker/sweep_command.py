"""The command under test, ``python app.py -m … hydra/launcher=docker``, and what it leaves behind.

Every command runs in a git repository of its own, made from an app in ``tests/apps``. When it has
ended, the engine may hold no container and no image of its sweep but those that ``keep`` says.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import docker

T = TypeVar("T")

APPS = Path(__file__).parents[1] / "apps"
LABEL = "hydra.docker"
#: Variables of the host that would change what a command does.
MISLEADING = ("MLFLOW_", "GIT_", "HYDRA_FULL_ERROR")


def wait_for(condition: Callable[[], T], what: str, timeout: float = 60) -> T:
    """Return the first true value of ``condition``; fail when it takes longer than ``timeout``."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: did not happen within {timeout:g} s")
        time.sleep(0.02)
    return value


@dataclass(frozen=True)
class JobOnDisk:
    """What a job has left in its output folder."""

    folder: Path
    row: Mapping[str, Any]

    @property
    def log(self) -> str:
        return (self.folder / "container.log").read_text()

    def json(self, name: str = "answers.json") -> Any:
        return json.loads((self.folder / name).read_text())


@dataclass(frozen=True)
class Finished:
    """A command that has ended. ``output`` is what it wrote to stdout and stderr."""

    status: int
    output: str
    folder: Path

    @property
    def ledger(self) -> dict[str, Any]:
        return json.loads((self.folder / "sweep.json").read_text())

    @property
    def outcomes(self) -> list[str]:
        return [row["outcome"] for row in self.ledger["jobs"]]

    @property
    def results(self) -> list[dict[str, Any]]:
        """The job returns, as the sweeper of ``tests/apps/ends`` writes them down."""
        return json.loads((self.folder / "results.json").read_text())

    def job(self, number: int) -> JobOnDisk:
        row = self.ledger["jobs"][number]
        assert row["job"] == number
        return JobOnDisk(Path(row["output_dir"]), row)


def own_metrics(run: Any) -> dict[str, float]:
    """Return the metrics of an MLflow run, but for what was measured of its container."""
    metrics = run.data.metrics.items()
    return {name: value for name, value in metrics if not name.startswith("system/")}


class Repository:
    """A git repository with an app, and the commands that are run in it.

    ``environment`` is that of every command; ``defaults`` are the overrides that every command has
    unless it names another value for the same key.
    """

    def __init__(
        self,
        root: Path,
        app: str,
        api: docker.APIClient,
        environment: Mapping[str, str],
        defaults: Mapping[str, str],
    ) -> None:
        self.root = root
        self.api = api
        self.environment = dict(environment)
        self.defaults = dict(defaults)
        self.commits: list[str] = []
        self._numbers = itertools.count()
        shutil.copytree(
            APPS / app, root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
        self.git("init", "--quiet", "--initial-branch", "main")
        self.commit()

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ("git", *arguments),
            cwd=self.root,
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def commit(self) -> str:
        """Commit all files. The message makes the commit's id one of its own."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", str(self.root))
        self.commits.append(self.git("rev-parse", "HEAD"))
        return self.commits[-1]

    def start(
        self,
        *overrides: str,
        script: str | Path = "app.py",
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        executable: str = sys.executable,
        python: tuple[str, ...] = (),
        **process: Any,
    ) -> Command:
        """Start the command in ``cwd`` (default: the root); ``python`` are the interpreter's own
        options, ``process`` what else ``subprocess.Popen`` takes.
        """
        named = {override.lstrip("+").partition("=")[0] for override in overrides}
        folder = (cwd or self.root) / "multirun" / str(next(self._numbers))
        defaults = {"hydra.sweep.dir": str(folder), **self.defaults}
        if "hydra/launcher=basic" in overrides:
            defaults = {"hydra.sweep.dir": str(folder)}
        line = [f"{key}={value}" for key, value in defaults.items() if key not in named]
        return Command(
            self,
            (executable, *python, str(script), "-m", *line, *overrides),
            folder,
            cwd or self.root,
            {**self.environment, **(environment or {})},
            process,
        )

    def sweep(self, *overrides: str, timeout: float = 120, **options: Any) -> Finished:
        """Run the command to its end; see ``start``."""
        return self.start(*overrides, **options).finish(timeout)

    def containers(self) -> list[dict[str, Any]]:
        """Return the containers, running or not, that sweeps in this repository have left."""
        return [
            container
            for commit in self._every_commit()
            for container in self.api.containers(
                all=True, filters={"label": f"{LABEL}.commit={commit}"}
            )
        ]

    def images(self) -> list[dict[str, Any]]:
        """Return the images with a commit's files; what is built from a Dockerfile is no such."""
        return [image for image in self._labelled() if not _is_built(image)]

    def _labelled(self) -> list[dict[str, Any]]:
        return [
            image
            for commit in self._every_commit()
            for image in self.api.images(filters={"label": f"{LABEL}.commit={commit}"})
        ]

    def _every_commit(self) -> list[str]:
        """Return the commits that were made here, by the test and as snapshots."""
        refs = self.root / ".git" / "refs" / "hydra-docker" / "snapshots"
        hidden = [path.name for path in refs.iterdir()] if refs.is_dir() else []
        return list(dict.fromkeys([*self.commits, *hidden]))

    def clean_up(self) -> None:
        """Remove from the engine what was to be kept."""
        for container in self.containers():
            self.api.remove_container(container["Id"], v=True, force=True)
        for image in self._labelled():
            self.api.remove_image(image["Id"], force=True)


#: ``make_repository(app, **options of hydra.launcher)``
MakeRepository = Callable[..., Repository]


class Command:
    """A command that runs. ``folder`` is the sweep's."""

    def __init__(
        self,
        repository: Repository,
        line: tuple[str, ...],
        folder: Path,
        cwd: Path,
        environment: Mapping[str, str],
        process: Mapping[str, Any],
    ) -> None:
        self.folder = folder
        self.line = line
        self._repository = repository
        # Outside the repository, where it would be an untracked file.
        self._output = repository.root.parent / f"output-{folder.name}.log"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                line,
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_take_signals,  # noqa: PLW1509  (no thread of these tests starts one)
                **process,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for_line(self, job: int, text: str) -> None:
        """Wait until a job has printed ``text`` and its container.log has it."""
        log = self.folder / str(job) / "container.log"

        def printed() -> bool:
            assert self.process.poll() is None, self.output
            return log.is_file() and text in log.read_text(errors="replace")

        wait_for(printed, f"job #{job} prints {text!r}")

    def container(self, job: int) -> str:
        """Return the id of a job's container, as ``sweep.json`` has it."""
        ledger = json.loads((self.folder / "sweep.json").read_text())
        return str(ledger["jobs"][job]["container"])

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send the command a signal, by default what Ctrl-C sends."""
        self.process.send_signal(number)

    def finish(self, timeout: float = 120) -> Finished:
        """Wait for the command's end, and see that it has left nothing on the engine."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still running after {timeout:g} s:\n{self.output}") from None
        finished = Finished(status, self.output, self.folder)
        self._check_leftovers(finished)
        return finished

    def _check_leftovers(self, finished: Finished) -> None:
        expected = set(_kept(finished, self.line))
        label = f"{LABEL}.folder"
        found = {
            container["Id"]: container["Labels"].get(label)
            for container in self._repository.containers()
            if container["Labels"].get(label) in (None, str(self.folder))
        }
        assert set(found) == expected, f"left on the engine: {found}\n{finished.output}"
        if not self._repository.containers():
            left = [image["RepoTags"] for image in self._repository.images()]
            assert not left, f"images left on the engine: {left}\n{finished.output}"


def _take_signals() -> None:
    """Undo what ``nohup`` and a shell's ``&`` do: their children ignore Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _kept(finished: Finished, line: Iterable[str]) -> list[str]:
    """Return the containers that ``keep`` says."""
    if not (finished.folder / "sweep.json").is_file():
        return []
    keep = next((item.partition("=")[2] for item in line if "hydra.launcher.keep=" in item), "")
    return [
        row["container"]
        for row in finished.ledger["jobs"]
        if row.get("container") and row["outcome"] != "lost"
        if keep == "all" or (keep != "none" and row["outcome"] not in ("completed", "stopped"))
    ]


def _is_built(image: Mapping[str, Any]) -> bool:
    """Tell whether an image is one that stays: built here, or from a registry of the tests."""
    names = [*(image["RepoTags"] or []), *(image["RepoDigests"] or [])]
    return any(name.startswith(("hydra-docker/", "127.0.0.1:")) for name in names)


def command_environment(cache: Path) -> dict[str, str]:
    """Return the environment of every command: the host's, but for what would mislead it."""
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith(MISLEADING)}
    git = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_NAME": "Ada" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "ada@example.org" for who in ("AUTHOR", "COMMITTER")},
    }
    return {**inherited, **git, "XDG_CACHE_HOME": str(cache), "MLFLOW_DISABLE_TELEMETRY": "true"}
