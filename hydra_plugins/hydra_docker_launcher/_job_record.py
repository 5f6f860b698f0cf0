"""Job record: all that is needed to run a job again, written into its run and read back.

Beside it, a run holds the resolved config as YAML, and what the job's worker reads (a pickle, which
the host only passes on).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import _masks, _private
from ._engine import ContainerSpec, Image, Limits
from ._errors import ReproduceError
from ._job import Job
from ._pinning import Code, Ready
from ._private import NO_GLOBS, Rules
from ._redaction import Hidden
from ._source import Source
from ._task import Task

FORMAT = 1
RECORD = "job.json"
CONFIG = "config.yaml"
CONTENT = "job.pickle"
DATA = "data.json"
PACKAGES = "packages.txt"
PATCH = "changes.patch"

#: Options that are of the place where a sweep is run, or of its code, not of its jobs.
_LEFT_OUT = (
    "_target_",
    "mlflow",
    "dry_run",
    "n_jobs",
    "fail_fast",
    "resume",
    "detach",
    "on_interrupt",
    "system_metrics",
    "keep",
    "push",
    "commit",
    "dirty",
    "snapshot_limit",
)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it was run. Paths are those that it saw; ``options`` is ``hydra.launcher``."""

    number: int
    name: str
    overrides: tuple[str, ...]
    output_dir: Path
    working_dir: Path
    options: Mapping[str, Any]
    source: Source
    script: Path | None
    task: Task
    image: Image
    executable: str
    python: str
    hydra: str
    #: What stands in its config only by the text in its place.
    withheld: tuple[Hidden, ...] = ()
    #: Variables that are secrets by what they were made of, whatever they are called.
    secret_variables: tuple[str, ...] = ()


def to_json(
    job: Job, spec: ContainerSpec, code: Code, ready: Ready, rules: Rules = NO_GLOBS
) -> str:
    """Return the record of a job as JSON: variables of the host by name, not by value."""
    written = _private.repeatable_options(job.written, rules)
    options = {key: value for key, value in written.items() if key not in _LEFT_OUT}
    source, task, image = code.source, code.task, ready.image
    content = {
        "format": FORMAT,
        "number": job.number,
        "name": job.name,
        "overrides": list(job.overrides),
        "output_dir": str(job.output_dir),
        "working_dir": spec.working_dir,
        "options": {**options, **_limits(spec.limits)},
        "source": {
            "root": str(source.root),
            "commit": source.commit,
            "parent": source.parent,
            "branch": source.branch,
            "remote": source.remote_url,
        },
        "script": None if code.script is None else str(code.script),
        "task": {
            "kind": task.kind,
            "target": task.target,
            "argv": list(_masks.overrides(task.argv, rules, job.withheld.masks)),
            "path": list(task.path),
        },
        "image": {"reference": image.reference, "id": image.id, "digest": image.digest},
        "executable": ready.facts.executable,
        "python": ready.facts.python,
        "hydra": ready.facts.hydra,
    }
    if job.withheld.hidden:
        content["withheld"] = [asdict(item) for item in job.withheld.hidden]
    variables = job.withheld.secret_variables("hydra.launcher.environment")
    if variables:
        content["secret_variables"] = list(variables)
    return json.dumps(content, indent=2) + "\n"


def from_json(text: str | bytes, run: str) -> JobRecord:
    """Read the record of ``run``. Raises ``ReproduceError`` where it is not one."""
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise ReproduceError(
                f"The record of {run} ({RECORD}) has format {content['format']}, and this version "
                f"of the launcher reads format {FORMAT}. Use the version that made the run."
            )
        source, task, image = content["source"], content["task"], content["image"]
        return JobRecord(
            number=int(content["number"]),
            name=str(content["name"]),
            overrides=tuple(map(str, content["overrides"])),
            output_dir=Path(content["output_dir"]),
            working_dir=Path(content["working_dir"]),
            options=dict(content["options"]),
            source=Source(
                root=Path(source["root"]),
                commit=str(source["commit"]),
                branch=source["branch"],
                remote_url=source["remote"],
                parent=source["parent"],
            ),
            script=None if content["script"] is None else Path(content["script"]),
            task=Task(
                kind=str(task["kind"]),
                target=str(task["target"]),
                argv=tuple(task["argv"]),
                path=tuple(task["path"]),
            ),
            image=Image(image["id"], image["reference"], image["digest"]),
            executable=str(content["executable"]),
            python=str(content["python"]),
            hydra=str(content["hydra"]),
            withheld=tuple(
                Hidden(str(item["key"]), tuple(map(int, item["at"])), str(item["shown"]))
                for item in content.get("withheld", ())
            ),
            secret_variables=tuple(map(str, content.get("secret_variables", ()))),
        )
    except KeyError as error:
        raise ReproduceError(
            f"The record of {run} ({RECORD}) cannot be read: it has no {error}"
        ) from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ReproduceError(
            f"The record of {run} ({RECORD}) cannot be read: {type(error).__name__}: {error}"
        ) from error


def _limits(limits: Limits) -> dict[str, Any]:
    """Return the limits as options: what was a share of one machine is a number on another."""
    return {
        "cpus": limits.cpus,
        "mem_limit": limits.memory,
        "memswap_limit": limits.memory_swap,
        "shm_size": limits.shm_size,
        "pids_limit": limits.pids,
    }
