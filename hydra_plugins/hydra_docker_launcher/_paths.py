"""Paths: every file and folder name that the launcher uses, on the host and in containers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

#: Folder of the launcher's own files in a container.
CONTAINER = PurePosixPath("/hydra")
CONFIG = CONTAINER / "config.yaml"
JOB = CONTAINER / "job.pickle"
WORKER = CONTAINER / "worker.py"
LIBRARY = CONTAINER / "lib"
HOME = CONTAINER / "home"
#: Of a container that clones the commit: what it runs, what it clones, and who it says it is.
CLONING = CONTAINER / "cloning.py"
CLONE = CONTAINER / "clone.json"
GIT_CONFIG = CONTAINER / "git" / ".gitconfig"
SSH_CONFIG = CONTAINER / "ssh_config"
SECRETS = CONTAINER / "secrets"
SSH_KEY = SECRETS / "ssh_key"
KNOWN_HOSTS = SECRETS / "known_hosts"
CREDENTIAL = SECRETS / "credential"
#: Secrets of a job: values of its config, variables, and what else its worker must know.
VALUES = "values.pickle"
ENVIRONMENT = "environment.json"
REDACTION = "redaction.json"

LEDGER = "sweep.json"
#: Folder of the launcher's own files, in the folder of a job, and of a sweep that is not over.
PRIVATE = ".docker"
#: Folder in a job's output folder, for what is collected of its container.
STRAY = "stray"
#: Folder of the default tracking store, in the launch folder.
STORE_FOLDER = "mlflow-store"
#: MLflow's own default is ``sqlite:///mlflow.db``.
DATABASE = "mlflow.db"

#: What ``hydra-docker note`` calls the config of a run, and the patch of a snapshot; and how such
#: names are known again.
NOTED_CONFIG = "config-{}.yaml"
NOTED_PATCH = "changes-{}.patch"
NOTED_FILES = re.compile(r"config-[0-9a-f]{8}\.yaml|changes-[0-9a-f]{8}\.patch")


@dataclass(frozen=True, slots=True)
class SweepPaths:
    """Files of a sweep. ``folder`` is absolute; ``kept_at`` is instead of its private folder."""

    folder: Path
    kept_at: Path | None = None

    @property
    def ledger(self) -> Path:
        return self.folder / LEDGER

    @property
    def output(self) -> Path:
        """What a launcher in the background prints."""
        return self.folder / "launcher.log"

    @property
    def private(self) -> Path:
        return self.kept_at or self.folder / PRIVATE

    @property
    def sweep(self) -> Path:
        return self.private / "sweep.json"

    @property
    def jobs(self) -> Path:
        return self.private / "jobs"

    def job(self, number: int) -> Path:
        return self.jobs / f"{number}.json"

    @property
    def usage(self) -> Path:
        """What the jobs that run have used so far."""
        return self.private / "usage.json"

    @property
    def lock(self) -> Path:
        """Held by the process that looks after the sweep."""
        return self.private / "lock"

    @property
    def launching(self) -> Path:
        """Held by a process that may add jobs to a sweep that another one looks after."""
        return self.private / "launching"


@dataclass(frozen=True, slots=True)
class JobPaths:
    """Files of a job. ``output`` is ``hydra.runtime.output_dir``, absolute."""

    output: Path

    @property
    def log(self) -> Path:
        return self.output / "container.log"

    @property
    def private(self) -> Path:
        return self.output / PRIVATE

    @property
    def config(self) -> Path:
        return self.private / "config.yaml"

    @property
    def job(self) -> Path:
        return self.private / "job.pickle"

    @property
    def secrets(self) -> Path:
        return self.private / "secrets"

    @property
    def secret_config(self) -> Path:
        """The resolved config as the job sees it, where that has secrets."""
        return self.secrets / "config.yaml"

    @property
    def result(self) -> Path:
        return self.private / "result.json"

    @property
    def returned(self) -> Path:
        """The return value as it is, until it is read, where ``result`` has it without secrets."""
        return self.private / "returned.json"

    @property
    def container(self) -> Path:
        return self.private / "container.json"
