"""A job that was run once, at ``/home/ada/project`` on a machine called ``box``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fakes import GIB

from hydra_plugins.hydra_docker_launcher._engine import Image
from hydra_plugins.hydra_docker_launcher._job_record import JobRecord
from hydra_plugins.hydra_docker_launcher._past_job import PastJob
from hydra_plugins.hydra_docker_launcher._source import Source
from hydra_plugins.hydra_docker_launcher._task import Task
from hydra_plugins.hydra_docker_launcher._tracking import PastRun

ROOT = Path("/home/ada/project")
COMMIT = "c" * 40
IMAGE = Image("sha256:" + "1" * 64, "train:1")
#: What is written down of ``hydra.launcher``.
OPTIONS = {
    "image": "train:1",
    "cpus": 1.5,
    "mem_limit": 2 * GIB,
    "memswap_limit": 2 * GIB,
    "shm_size": GIB,
    "pids_limit": 4096,
    "user": "image",
    "cap_drop": ["ALL"],
    "init": True,
}
PLAIN = {"lr": 0.1, "model": {"name": "mlp"}}
TAGS = {
    "hydra.docker.job": "0",
    "hydra.docker.outcome": "completed",
}
CONFIGS = [{"provider": "main", "schema": "file", "path": "/home/ada/project/conf", "git": None}]
PROVENANCE = {
    "format": 1,
    "host": {"name": "box", "cpu": "AMD", "cpu_features": ["avx", "avx2"]},
    "configs": CONFIGS,
    "overrides": ["hydra/launcher=docker"],
    "job": {"number": 0, "name": "train", "options": {}, "hydra": {"mode": "MULTIRUN"}},
}


def a_record(**changes: Any) -> JobRecord:
    script = ROOT / "train.py"
    record = JobRecord(
        number=0,
        name="train",
        overrides=("lr=0.1",),
        output_dir=ROOT / "multirun/then/0",
        working_dir=ROOT,
        options=OPTIONS,
        source=Source(ROOT, COMMIT, "main", None),
        script=script,
        task=Task("script", str(script), (str(script), "-m"), (str(ROOT),)),
        image=IMAGE,
        executable="python3",
        python="3.11.2",
        hydra="1.3.8",
    )
    return replace(record, **changes)


def a_run(**changes: Any) -> PastRun:
    run = PastRun(
        id="a" * 32,
        name="lr=0.1",
        experiment="train",
        status="FINISHED",
        tags=TAGS,
        metrics={"accuracy": 0.5},
    )
    return replace(run, **changes)


def a_past_job(**changes: Any) -> PastJob:
    job = PastJob(
        run=a_run(),
        record=a_record(),
        plain=PLAIN,
        content=b"what the worker reads",
        packages=("hydra-core==1.3.8", "numpy==1.26"),
        data=(),
        patch=None,
        provenance=PROVENANCE,
    )
    return replace(job, **changes)
