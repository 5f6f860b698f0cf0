"""Provenance: where a sweep and its jobs come from, as plain values; docs/provenance.md lists them.

Pure: everything is made from what the earlier stages have found out. No value of an environment
variable or of a build argument is in it, only names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

from . import _job_record
from ._engine import Image
from ._job import Job
from ._machine import Processor, Software
from ._options import LABEL_PREFIX, SweepOptions
from ._pinning import Code, Ready
from ._private import shown_options

FORMAT = 1
FILE = "provenance.json"
#: What is found on a machine, and a number can depend on.
EXPLAINING = (
    "host.cpu",
    "host.cpu_features",
    "host.cpus",
    "host.gpus",
    "host.gpu_driver",
    "host.architecture",
    "host.kernel",
    "host.engine",
    "image.system",
    "image.libc",
)


@dataclass(frozen=True, slots=True)
class Composition:
    """Where the configs of a sweep come from.

    ``configs`` are the sources of Hydra's search path, ``overrides`` those of Hydra's own node.
    """

    configs: tuple[Mapping[str, Any], ...] = ()
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """What is found out at the start of a sweep, beside its code and its image.

    ``options`` are those of its first job, as plain values.
    """

    started: str
    working_dir: Path
    software: Software
    processor: Processor
    composition: Composition
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a sweep before its first job starts."""

    sweep: str
    folder: Path
    job_name: str
    options: SweepOptions
    code: Code
    ready: Ready
    origin: Origin

    def ledger_head(self) -> dict[str, Any]:
        """Return the head of ``sweep.json``: what holds for all jobs, and the image's packages."""
        head = self._facts()
        head["image"]["packages"] = list(self.ready.facts.packages)
        return head

    def sweep_document(self) -> dict[str, Any]:
        """Return what ``provenance.json`` of the sweep's run holds."""
        return {"format": FORMAT, **self._facts()}

    def job_document(self, job: Job) -> dict[str, Any]:
        """Return what ``provenance.json`` of a job's run holds."""
        facts = {
            "number": job.number,
            "name": job.name,
            "overrides": list(job.overrides),
            "output_dir": str(job.output_dir),
            "options": shown_options(job.written),
            **job.facts(),
        }
        return {**self.sweep_document(), "job": facts}

    def tags(self) -> dict[str, str]:
        """Return the tags of every run of the sweep."""
        facts, host, baked = self.ready.facts, self.code.host, self.ready.baked
        checkouts = [item["git"] for item in self.origin.composition.configs if item["git"]]
        root = str(self.code.source.root)
        commits = dict.fromkeys(git["commit"] for git in checkouts if git["root"] != root)
        tags = {
            "mlflow.source.name": self.code.entry,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": self.code.source.commit,
            "mlflow.source.git.dirty": _flag(self.code.source.dirty),
            "mlflow.source.git.branch": self.code.source.branch,
            "mlflow.source.git.repoURL": self.code.source.remote_url,
            "mlflow.docker.image.uri": self.ready.image.digest or self.ready.image.reference,
            "mlflow.docker.image.id": self.ready.image.id,
            f"{LABEL_PREFIX}image.base": self.ready.image.base,
            f"{LABEL_PREFIX}parent_commit": self.code.source.parent,
            f"{LABEL_PREFIX}pushed": _flag(self.code.pushed),
            f"{LABEL_PREFIX}delivered.uri": None
            if baked is None
            else baked.digest or baked.reference,
            f"{LABEL_PREFIX}delivered.id": None if baked is None else baked.id,
            f"{LABEL_PREFIX}sweep": self.sweep,
            f"{LABEL_PREFIX}folder": str(self.folder),
            f"{LABEL_PREFIX}host": host.name,
            f"{LABEL_PREFIX}engine": host.engine,
            f"{LABEL_PREFIX}kernel": host.kernel,
            f"{LABEL_PREFIX}architecture": host.architecture,
            f"{LABEL_PREFIX}cpu": self.origin.processor.model,
            f"{LABEL_PREFIX}gpu": ", ".join(dict.fromkeys(facts.gpu_models)) or None,
            f"{LABEL_PREFIX}python": facts.python,
            f"{LABEL_PREFIX}hydra": facts.hydra,
            f"{LABEL_PREFIX}packages": packages_hash(facts.packages),
            f"{LABEL_PREFIX}config_commit": ", ".join(commits) or None,
            f"{LABEL_PREFIX}config_dirty": _flag(any(git["dirty"] for git in checkouts)),
            **dict(self.options.mlflow.tags),
        }
        return {name: value for name, value in tags.items() if value is not None}

    def artifacts(self) -> dict[str, str | bytes]:
        """Return the files of every run of the sweep."""
        patch = {} if self.code.patch is None else {_job_record.PATCH: self.code.patch}
        return {_job_record.PACKAGES: packages_text(self.ready.facts.packages), **patch}

    def _facts(self) -> dict[str, Any]:
        code, facts, host = self.code, self.ready.facts, self.code.host
        source, image, processor = code.source, self.ready.image, self.origin.processor
        return {
            "sweep": self.sweep,
            "folder": str(self.folder),
            "job_name": self.job_name,
            "started": self.origin.started,
            "user": code.identity.name,
            "uid": code.identity.uid,
            "gid": code.identity.gid,
            "script": code.entry,
            "task": {
                "kind": code.task.kind,
                "target": _below(code.task.target, source.root),
                "argv": [self.options.rules.override(item) for item in code.task.argv],
                "path": [_below(entry, source.root) for entry in code.task.path],
            },
            "working_dir": str(self.origin.working_dir),
            "source": {
                "root": str(source.root),
                "commit": source.commit,
                "parent": source.parent,
                "dirty": source.dirty,
                "pushed": code.pushed,
                "branch": source.branch,
                "remote": source.remote_url,
                "changed": list(source.changed),
                "left_out": list(source.left_out),
            },
            "configs": [dict(config) for config in self.origin.composition.configs],
            "image": {
                **_image(image),
                "base": image.base,
                "system": facts.system,
                "libc": facts.libc,
                "executable": facts.executable,
                "python": facts.python,
                "hydra": facts.hydra,
                "omegaconf": facts.omegaconf,
                "uid": facts.uid,
                "gid": facts.gid,
                "packages_sha256": packages_hash(facts.packages),
            },
            "delivered": None if (baked := self.ready.baked) is None else _image(baked),
            "host": {
                "name": host.name,
                "engine": host.engine,
                "system": host.system,
                "kernel": host.kernel,
                "architecture": host.architecture,
                "storage": host.storage,
                "cgroup": host.cgroup,
                "cpus": host.cpus,
                "cpu": processor.model,
                "cpu_features": list(processor.features),
                "memory": host.memory,
                "gpus": list(facts.gpu_models),
                "gpu_driver": facts.gpu_driver,
            },
            "launched_with": asdict(self.origin.software),
            "options": {
                **self.origin.options,
                **({} if code.clone is None else {"remote": code.clone.shown}),
            },
            "overrides": list(self.origin.composition.overrides),
        }


def _image(image: Image) -> dict[str, Any]:
    return {"reference": image.reference, "id": image.id, "digest": image.digest}


def _flag(value: bool | None) -> str | None:
    return None if value is None else str(value).lower()


def changed(options: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a job that are not as those of the sweep's first one."""
    return {name: value for name, value in options.items() if first.get(name) != value}


def differences(
    then: Mapping[str, Any], now: Mapping[str, Any]
) -> tuple[tuple[str, str, str], ...]:
    """Return what in two documents can explain a different number: its key, then, and now.

    Commit, image and packages are not among it: they are what is asked for, not what is found.
    """
    found = ((key, _at(then, key), _at(now, key)) for key in EXPLAINING)
    return tuple((key, one, other) for key, one, other in found if one != other)


def _at(document: Mapping[str, Any], key: str) -> str:
    value: Any = document
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def packages_hash(packages: Sequence[str]) -> str:
    """Return what ``sha256sum packages.txt`` prints."""
    return hashlib.sha256(packages_text(packages).encode()).hexdigest()


def packages_text(packages: Sequence[str]) -> str:
    return "".join(f"{package}\n" for package in packages)


def text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def _below(place: str, root: Path) -> str:
    """Return a path relative to the repository's root, where it is in there."""
    path = PurePath(place)
    if not path.is_absolute() or not path.is_relative_to(root):
        return place
    return str(path.relative_to(root))
