"""provenance.json and the head of sweep.json, as whole documents; docs/provenance.md lists them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra_plugins.hydra_docker_launcher import _compose
from hydra_plugins.hydra_docker_launcher._engine import Host, Image
from hydra_plugins.hydra_docker_launcher._job import Job
from hydra_plugins.hydra_docker_launcher._machine import Processor, Software
from hydra_plugins.hydra_docker_launcher._options import Build, CloneOptions, Mlflow, SweepOptions
from hydra_plugins.hydra_docker_launcher._pinning import Code, Ready
from hydra_plugins.hydra_docker_launcher._plan import Identity
from hydra_plugins.hydra_docker_launcher._preflight import Facts
from hydra_plugins.hydra_docker_launcher._provenance import (
    Composition,
    Origin,
    Record,
    changed,
    differences,
    text,
)
from hydra_plugins.hydra_docker_launcher._source import Source
from hydra_plugins.hydra_docker_launcher._task import Task

CONFIGS: tuple[dict[str, Any], ...] = (
    {
        "provider": "main",
        "schema": "file",
        "path": "/project/conf",
        "git": {
            "root": "/project",
            "remote": None,
            "commit": "c" * 40,
            "dirty": True,
            "changes": ["conf/config.yaml"],
        },
        "distribution": None,
        "problem": None,
    },
    {
        "provider": "hydra.searchpath in main",
        "schema": "file",
        "path": "/team/conf",
        "git": {
            "root": "/team",
            "remote": "https://example.org/team.git",
            "commit": "d" * 40,
            "dirty": False,
            "changes": [],
        },
        "distribution": None,
        "problem": None,
    },
    {
        "provider": "hydra",
        "schema": "pkg",
        "path": "hydra.conf",
        "git": None,
        "distribution": {"name": "hydra-core", "version": "1.3.8", "editable": False},
        "problem": None,
    },
)
OPTIONS = SweepOptions(
    image="train:1",
    build=Build(None, None, None, (), None),
    pull_policy="missing",
    commit="HEAD",
    dirty="error",
    snapshot_limit=0,
    delivery="copy",
    remote="origin",
    clone=CloneOptions(),
    user="host",
    n_jobs=2,
    fail_fast=False,
    dry_run=False,
    keep="failed",
    mlflow=Mlflow(True, None, None, None, (("stage", "draft"),)),
)
PACKAGES_SHA256 = hashlib.sha256(b"hydra-core==1.3.8\nnumpy==2.1.0\n").hexdigest()
RECORD = Record(
    sweep="20261122-100000-abcdef",
    folder=Path("/project/multirun/x"),
    job_name="train",
    options=OPTIONS,
    code=Code(
        source=Source(
            root=Path("/project"),
            commit="c" * 40,
            branch="main",
            remote_url="https://example.org/project.git",
            parent="a" * 40,
            changed=("src/train.py",),
        ),
        script=Path("/project/src/train.py"),
        task=Task(
            kind="script",
            target="/project/src/train.py",
            argv=("src/train.py", "-m", "hydra.launcher.environment.TOKEN=secret"),
            path=("/project/src", "/project", "/elsewhere"),
        ),
        identity=Identity("ada", 1000, 100, "1000:100"),
        host=Host(
            name="box",
            engine="Docker 29.1",
            cpus=8,
            memory=64 * 1024**3,
            gateway="172.17.0.1",
            system="Debian GNU/Linux 12 (bookworm)",
            kernel="6.1.0-20",
            architecture="x86_64",
            storage="overlay2",
            cgroup="2",
        ),
        pushed=False,
        patch=b"a patch",
    ),
    ready=Ready(
        image=Image(
            "sha256:" + "1" * 64,
            "train:1",
            "registry/train@sha256:" + "2" * 64,
            base="python:3.11 sha256:3",
        ),
        facts=Facts(
            executable="python3",
            python="3.12.4",
            hydra="1.3.8",
            omegaconf="2.3.1",
            uid=1000,
            gid=100,
            packages=("hydra-core==1.3.8", "numpy==2.1.0"),
            gpus=("GPU-1", "GPU-2"),
            gpu_models=("NVIDIA A100", "NVIDIA A100"),
            gpu_driver="550.54",
            system="Debian GNU/Linux 13 (trixie)",
            libc="glibc-2.41",
        ),
        layer=Image("sha256:" + "3" * 64, "layer"),
        baked=Image("sha256:" + "4" * 64, "train:commit"),
    ),
    origin=Origin(
        started="2026-11-22T10:00:00+00:00",
        working_dir=Path("/project/src"),
        software=Software("3.11.2", "1.3.8", "2.3.0", "0.1.0"),
        processor=Processor("Fast 9000", ("avx2", "fma")),
        composition=Composition(CONFIGS, ("hydra/launcher=docker",)),
        options={"cpus": 1.0, "environment": {"TOKEN": None}},
    ),
)
FACTS = {
    "sweep": "20261122-100000-abcdef",
    "folder": "/project/multirun/x",
    "job_name": "train",
    "started": "2026-11-22T10:00:00+00:00",
    "user": "ada",
    "uid": 1000,
    "gid": 100,
    "script": "/project/src/train.py",
    "task": {
        "kind": "script",
        "target": "src/train.py",
        "argv": ["src/train.py", "-m", "hydra.launcher.environment.TOKEN=<hidden>"],
        "path": ["src", ".", "/elsewhere"],
    },
    "working_dir": "/project/src",
    "source": {
        "root": "/project",
        "commit": "c" * 40,
        "parent": "a" * 40,
        "dirty": True,
        "pushed": False,
        "branch": "main",
        "remote": "https://example.org/project.git",
        "changed": ["src/train.py"],
        "left_out": [],
    },
    "configs": list(CONFIGS),
    "image": {
        "reference": "train:1",
        "id": "sha256:" + "1" * 64,
        "digest": "registry/train@sha256:" + "2" * 64,
        "base": "python:3.11 sha256:3",
        "system": "Debian GNU/Linux 13 (trixie)",
        "libc": "glibc-2.41",
        "executable": "python3",
        "python": "3.12.4",
        "hydra": "1.3.8",
        "omegaconf": "2.3.1",
        "uid": 1000,
        "gid": 100,
        "packages_sha256": PACKAGES_SHA256,
    },
    "delivered": {"reference": "train:commit", "id": "sha256:" + "4" * 64, "digest": None},
    "host": {
        "name": "box",
        "engine": "Docker 29.1",
        "system": "Debian GNU/Linux 12 (bookworm)",
        "kernel": "6.1.0-20",
        "architecture": "x86_64",
        "storage": "overlay2",
        "cgroup": "2",
        "cpus": 8,
        "cpu": "Fast 9000",
        "cpu_features": ["avx2", "fma"],
        "memory": 64 * 1024**3,
        "gpus": ["NVIDIA A100", "NVIDIA A100"],
        "gpu_driver": "550.54",
    },
    "launched_with": {
        "python": "3.11.2",
        "hydra": "1.3.8",
        "omegaconf": "2.3.0",
        "launcher": "0.1.0",
    },
    "options": {"cpus": 1.0, "environment": {"TOKEN": None}},
    "overrides": ["hydra/launcher=docker"],
}
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "provenance.md"


def test_sweep():
    """The sweep's run holds what all of its jobs have in common."""
    assert RECORD.sweep_document() == {"format": 1, **FACTS}


def test_ledger():
    """sweep.json has the same, and the packages, which MLflow has in packages.txt."""
    image = {**FACTS["image"], "packages": ["hydra-core==1.3.8", "numpy==2.1.0"]}
    assert RECORD.ledger_head() == {**FACTS, "image": image}


def test_job():
    """A job's run holds the same, and what is its own."""
    job = Job(
        number=3,
        name="train",
        overrides=("lr=1",),
        output_dir=Path("/project/multirun/x/3"),
        plain={"lr": 1},
        written={"_target_": "the.Launcher", "cpus": 2.0, "environment": {"TOKEN": "secret"}},
    )
    assert RECORD.job_document(job) == {
        "format": 1,
        **FACTS,
        "job": {
            "number": 3,
            "name": "train",
            "overrides": ["lr=1"],
            "output_dir": "/project/multirun/x/3",
            "options": {"cpus": 2.0, "environment": {"TOKEN": None}},
        },
    }


def test_composed_job(multirun, tmp_path):
    """Of a job that Hydra has composed, Hydra's own node is in it, resolved."""
    (tmp_path / "config.yaml").write_text("lr: 0.5\n")
    context, config = multirun(
        tmp_path,
        "hydra/launcher=docker",
        f"hydra.sweep.dir={tmp_path}/out",
        "hydra.launcher.environment.TOKEN=s3cr3t",
        "+hydra.job.env_set.KEY=s3cr3t",
    )
    job = _compose.compose(context, config, ["lr=1"], 0)
    facts = RECORD.job_document(job)["job"]

    assert "s3cr3t" not in text(RECORD.job_document(job))
    assert facts["options"]["environment"] == {"TOKEN": "${oc.env:TOKEN}"}
    assert facts["hydra"]["overrides"] == {
        "task": ["lr=1"],
        "hydra": [
            "hydra.mode=MULTIRUN",
            "hydra/launcher=docker",
            f"hydra.sweep.dir={tmp_path}/out",
            "hydra.launcher.environment.TOKEN=<hidden>",
            "+hydra.job.env_set.KEY=<hidden>",
        ],
    }
    assert facts["hydra"]["job"]["env_set"] == {"KEY": "<hidden>"}
    assert facts["hydra"]["runtime"]["output_dir"] == f"{tmp_path}/out/0"
    assert "launcher" not in facts["hydra"]


def test_differences():
    """What two machines differ in, where a number can depend on it; what is missing is a dash."""
    then = RECORD.sweep_document()
    host = {**then["host"], "cpu": "Slow 10", "gpus": [], "name": "other", "memory": 1}
    now = {**then, "host": host, "image": {"libc": "musl"}}
    assert differences(then, then) == ()
    assert differences(then, now) == (
        ("host.cpu", "Fast 9000", "Slow 10"),
        ("host.gpus", "NVIDIA A100, NVIDIA A100", "-"),
        ("image.system", "Debian GNU/Linux 13 (trixie)", "-"),
        ("image.libc", "glibc-2.41", "musl"),
    )


def test_options_of_one_job():
    """A row of sweep.json has only the options that are not as those of the first job."""
    first = {"cpus": 1.0, "image": "train:1", "labels": {"a": "b"}}
    own = {"cpus": 2.0, "image": "train:1", "labels": {"a": "c"}, "gpus": 1}
    assert changed(own, first) == {"cpus": 2.0, "labels": {"a": "c"}, "gpus": 1}
    assert changed(first, first) == {}


def test_tags():
    """What a person filters runs by. Commits of configs are those of other repositories."""
    assert RECORD.tags() == {
        "mlflow.source.name": "/project/src/train.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": "c" * 40,
        "mlflow.source.git.dirty": "true",
        "mlflow.source.git.branch": "main",
        "mlflow.source.git.repoURL": "https://example.org/project.git",
        "mlflow.docker.image.uri": "registry/train@sha256:" + "2" * 64,
        "mlflow.docker.image.id": "sha256:" + "1" * 64,
        "hydra.docker.image.base": "python:3.11 sha256:3",
        "hydra.docker.parent_commit": "a" * 40,
        "hydra.docker.pushed": "false",
        "hydra.docker.delivered.id": "sha256:" + "4" * 64,
        "hydra.docker.delivered.uri": "train:commit",
        "hydra.docker.sweep": "20261122-100000-abcdef",
        "hydra.docker.folder": "/project/multirun/x",
        "hydra.docker.host": "box",
        "hydra.docker.engine": "Docker 29.1",
        "hydra.docker.kernel": "6.1.0-20",
        "hydra.docker.architecture": "x86_64",
        "hydra.docker.cpu": "Fast 9000",
        "hydra.docker.gpu": "NVIDIA A100",
        "hydra.docker.python": "3.12.4",
        "hydra.docker.hydra": "1.3.8",
        "hydra.docker.packages": PACKAGES_SHA256,
        "hydra.docker.config_commit": "d" * 40,
        "hydra.docker.config_dirty": "true",
        "stage": "draft",
    }


def test_artifacts():
    """Every run of the sweep has the packages, and the patch of a snapshot."""
    assert RECORD.artifacts() == {
        "packages.txt": "hydra-core==1.3.8\nnumpy==2.1.0\n",
        "changes.patch": b"a patch",
    }
    code = replace(RECORD.code, patch=None)
    assert replace(RECORD, code=code).artifacts().keys() == {"packages.txt"}


def test_tags_without_configs():
    """What is not known is no tag."""
    origin = replace(RECORD.origin, composition=Composition(), processor=Processor(None, ()))
    tags = replace(RECORD, origin=origin).tags()
    assert tags["hydra.docker.config_dirty"] == "false"
    assert {"hydra.docker.config_commit", "hydra.docker.cpu"}.isdisjoint(tags)


def test_json():
    """The document is plain JSON: reading it back gives the same."""
    document = RECORD.sweep_document()
    assert json.loads(text(document)) == document


def keys(document: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for name, value in document.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict) and name not in ("options", "hydra"):
            found |= keys(inner, f"{prefix}{name}.")
        else:
            found.add(f"{prefix}{name}")
    return found


def test_documentation():
    """docs/provenance.md has a row for every key, and no other."""
    job = ("number", "name", "overrides", "output_dir", "working_dir", "options", "unresolved")
    there = keys(RECORD.sweep_document()) | {"image.packages"}
    there |= {f"job.{name}" for name in (*job, "hydra")}
    table = DOCUMENTATION.read_text().partition("## Tags")[0].splitlines()
    rows = [line.split("|")[1] for line in table if line.startswith("| `")]
    assert {name for row in rows for name in row.split("`")[1::2]} == there
