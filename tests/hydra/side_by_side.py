"""Runs one toy app under two launchers and tells where what they leave behind differs.

An app is a folder of ``tests/apps/compare``. Its copy becomes a git repository, with ``dump.py``
beside the script; the same command line then runs under ``hydra/launcher=basic`` and under
``hydra/launcher=docker``, into the same sweep folder, one after the other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toy_repository import commit

APPS = Path(__file__).parents[1] / "apps" / "compare"
IMAGE = os.environ.get("HYDRA_DOCKER_TEST_IMAGE", "hydra-docker-test")
DOCKER = (
    "hydra/launcher=docker",
    f"hydra.launcher.image={IMAGE}",
    "hydra.launcher.pull_policy=never",
    "hydra.launcher.mlflow.enabled=false",
    "hydra.launcher.admission=sweep",  # several tests run at once
    "hydra.launcher.keep=none",
)
#: What the launcher itself adds to a sweep's folder (DESIGN.md, section 5).
OWN_FILES = ("sweep.json", "container.log", ".docker/")
#: Variables of the host that would change what a command does.
MISLEADING = ("MLFLOW_", "GIT_", "HYDRA_")
#: What selects the launcher, and its options: left out wherever they stand.
LAUNCHER_NODE = re.compile(r"^  launcher:\n(    .*\n)*", re.MULTILINE)
LAUNCHER_CHOICE = re.compile(r"\bhydra[./]launcher(\.\S+)?(=|: )|^\.hydra/launcher$")
#: Times, and folders of installed packages, in tracebacks.
CHANGING = (
    (re.compile(r"\d{4}-\d\d-\d\d([ T/]\d\d[:-]\d\d[:-]\d\d(,\d{3})?)?"), "TIME"),
    (re.compile(r"\b\d\d-\d\d-\d\d\b"), "TIME"),
    (re.compile(r'File "[^"]*/(site|dist)-packages/'), 'File "PACKAGES/'),
)


@dataclass(frozen=True)
class App:
    """How a toy app is started. ``command`` follows ``python``; ``modules`` is where dump.py goes.

    ``{root}`` in any of them stands for the repository's root.
    """

    name: str
    command: tuple[str, ...] = ("app.py",)
    modules: str = "."
    cwd: str = "."
    environment: Mapping[str, str] = field(default_factory=dict)
    sweep: str = "{root}/multirun/same"
    image: str = IMAGE


@dataclass(frozen=True)
class Run:
    """What one run has left behind: ``facts`` are flat: ``types/0/dump.json:config/.lr``."""

    status: int
    output: str
    facts: Mapping[str, Any]
    folder: Path

    @property
    def limits(self) -> list[dict[str, str]]:
        """The limits of the containers, by job."""
        files = sorted(self.folder.glob("*/.docker/container.json"))
        return [json.loads(file.read_text())["limits"] for file in files]

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The rows of ``sweep.json``."""
        return json.loads((self.folder / "sweep.json").read_text())["jobs"]


class Repository:
    """A git repository with one toy app; ``case`` is the name of the comparison."""

    def __init__(self, root: Path, case: str, app: App) -> None:
        self.root = root
        self.case = case
        self.app = app
        shutil.copytree(APPS / app.name, root, ignore=shutil.ignore_patterns("__pycache__"))
        (root / app.modules).mkdir(exist_ok=True, parents=True)
        shutil.copy(APPS / "dump.py", root / app.modules)
        (root / ".toy-repository").touch()
        commit(root)

    def both(self, *overrides: str) -> tuple[Run, Run]:
        """Run the app under Hydra's basic launcher, then under this one."""
        basic = self.run("hydra/launcher=basic", *overrides)
        return basic, self.docker(*overrides)

    def docker(self, *overrides: str, environment: Mapping[str, str] | None = None) -> Run:
        image = f"hydra.launcher.image={self.app.image}"
        options = [image if item.startswith("hydra.launcher.image=") else item for item in DOCKER]
        return self.run(*options, *overrides, environment=environment)

    def run(self, *overrides: str, environment: Mapping[str, str] | None = None) -> Run:
        """Run the command line; ``environment`` adds to the app's own."""
        folder = Path(self._filled(self.app.sweep))
        target = (self.root / self.app.cwd / folder).resolve()
        shutil.rmtree(target, ignore_errors=True)
        command = [self._filled(part) for part in self.app.command]
        own = [f"hydra.sweep.dir={folder}", "hydra/sweeper=recorder"]
        done = subprocess.run(
            [sys.executable, *command, "-m", *own, *overrides],
            cwd=self.root / self.app.cwd,
            env=self._environment({**self.app.environment, **(environment or {})}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        facts = {f"{self.case}/{key}": value for key, value in _facts(target)}
        return Run(done.returncode, done.stdout, facts, target)

    def _filled(self, text: str) -> str:
        return text.replace("{root}", str(self.root))

    def _environment(self, own: Mapping[str, str]) -> dict[str, str]:
        inherited = {
            name: os.environ[name] for name in os.environ if not name.startswith(MISLEADING)
        }
        entries = (own.get("PYTHONPATH"), str(APPS / "recording"), os.environ.get("PYTHONPATH"))
        return {
            **inherited,
            **{name: self._filled(value) for name, value in own.items()},
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(self._filled(entry) for entry in entries if entry),
        }


def differences(one: Run, other: Run) -> dict[str, tuple[Any, Any]]:
    """Return the facts that are not the same in both runs."""
    keys = [*one.facts, *(key for key in other.facts if key not in one.facts)]
    absent = "<absent>"
    both = {key: (one.facts.get(key, absent), other.facts.get(key, absent)) for key in keys}
    return {key: pair for key, pair in both.items() if pair[0] != pair[1]}


def _facts(folder: Path) -> Iterator[tuple[str, Any]]:
    """Read a sweep's folder: its files, what stands in the JSON ones, the lines of the others."""
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or any(own in name for own in OWN_FILES):
            continue
        text = path.read_text()
        for changing, word in CHANGING:
            text = changing.sub(word, text)
        yield name, "a file"
        if path.suffix == ".json":
            yield from _flat(f"{name}:", json.loads(text))
        else:
            lines = LAUNCHER_NODE.sub("", text).splitlines()
            kept = (line for line in lines if not LAUNCHER_CHOICE.search(line))
            yield from ((f"{name}:{number}", line) for number, line in enumerate(kept))


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            is_node = key == "launcher" and name.endswith("hydra")
            if not is_node and not LAUNCHER_CHOICE.search(key):
                yield from _flat(f"{name}{'' if name.endswith(':') else '/'}{key}", item)
    elif isinstance(value, list) and value:
        kept = [item for item in value if not _chooses_launcher(item)]
        for number, item in enumerate(kept):
            yield from _flat(f"{name}/{number}", item)
    elif isinstance(value, str) and "\n" in value:
        lines = LAUNCHER_NODE.sub("", value).splitlines()
        kept = [line for line in lines if not LAUNCHER_CHOICE.search(line)]
        yield from ((f"{name}/{number}", line) for number, line in enumerate(kept))
    else:
        yield name, value


def _chooses_launcher(item: Any) -> bool:
    return isinstance(item, str) and LAUNCHER_CHOICE.search(item) is not None
