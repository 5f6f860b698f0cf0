"""Job files: what the host puts into a job's output folder before its container starts."""

from __future__ import annotations

import json
import os
import pickle
from contextlib import closing, suppress

from hydra import version
from hydra.core.utils import JobRuntime

from . import _by_value, _compose, _job_folder, _masks, _paths
from ._compose import ComposedJob
from ._errors import DockerLauncherError
from ._masks import Masks, Variables
from ._paths import JobPaths
from ._plan import owner
from ._redaction import Withheld
from ._running import FINAL_POLICIES
from ._task import Task


def content(job: ComposedJob, task: Task, restart: str) -> bytes:
    """Return what the worker reads: how to find the task function, and the config.

    The config is bytes in bytes: its types may be defined in the script, which must run first.
    """
    if task.kind == "value":
        config = _compose.serialize_config(job, _by_value.pickler())
    else:
        config = _compose.serialize_config(job)
    return pickle.dumps(
        {
            "kind": task.kind,
            "target": task.target,
            "function": task.function,
            "argv": list(_masks.overrides(task.argv, job.rules, job.withheld.masks)),
            "path": list(task.path),
            "task_name": JobRuntime.instance().get("name"),
            "version_base": None if (base := version.getbase()) is None else str(base),
            "config": config,
            "withheld": [list(item.at) for item in job.withheld.hidden],
            "hydra_files": _compose.hydra_files(job),
            "result": str(JobPaths(job.output_dir).result),
            "final": restart in FINAL_POLICIES,
        },
        protocol=4,
    )


def secrets(
    withheld: Withheld, environment: Variables, masks: Masks, argv: tuple[str, ...] | None
) -> tuple[tuple[str, bytes], ...]:
    """Return the files of a job's folder of secrets. ``argv``: where it is not as written down."""
    files: dict[str, bytes] = {}
    if withheld.hidden:
        files[_paths.VALUES] = withheld.values
    if withheld.config is not None:
        files["config.yaml"] = withheld.config.encode()
    if environment:
        files[_paths.ENVIRONMENT] = json.dumps(dict(environment)).encode()
    if (files and masks) or argv is not None:
        redaction = {"masks": masks, "argv": argv}
        files[_paths.REDACTION] = json.dumps(redaction).encode()
    return tuple(files.items())


def with_variables(
    files: tuple[tuple[str, bytes], ...], variables: Variables, masks: Masks
) -> tuple[tuple[str, bytes], ...]:
    """Return files of secrets with further variables in them; those that are there already win."""
    known = dict(files)
    redaction = {"masks": masks, "argv": None}
    known.setdefault(_paths.REDACTION, json.dumps(redaction).encode())
    before = json.loads(known.get(_paths.ENVIRONMENT, b"{}"))
    known[_paths.ENVIRONMENT] = json.dumps({**dict(variables), **before}).encode()
    return tuple(known.items())


def write(
    paths: JobPaths,
    config: str,
    job: bytes,
    user: str | None,
    secrets: tuple[tuple[str, bytes], ...] = (),
) -> None:
    """Write the job's files, for the eyes of the launching user and ``user`` (``uid:gid``) only.

    Raises ``DockerLauncherError`` where the output folder cannot be written to.
    """
    new_owner = None
    if user is not None and os.geteuid() == 0 and owner(user) != (0, 0):
        new_owner = owner(user)
    try:
        paths.output.mkdir(parents=True, exist_ok=True)
        with _job_folder.opened(paths, new_owner) as private:
            private.remove(paths.result.name)
            private.remove(paths.returned.name)
            private.write(paths.config.name, config.encode(), 0o600, new_owner)
            private.write(paths.job.name, job, 0o600, new_owner)
            if secrets:
                # The job may have put a link there, in an attempt before this one.
                with suppress(OSError):
                    private.remove(paths.secrets.name)
                with closing(private.make(paths.secrets.name, 0o700)) as hidden:
                    hidden.give(new_owner)
                    for name, content in secrets:
                        hidden.write(name, content, 0o600, new_owner)
    except OSError as error:
        raise DockerLauncherError(
            f"Cannot write to the job's output folder {paths.output}: {error}"
        ) from error


def remove_private(paths: JobPaths, *, mounted: bool) -> None:
    """Remove what only the container was to read; a container that is kept has them mounted."""
    _job_folder.remove_secrets(paths)
    if not mounted:
        _job_folder.remove_job_file(paths)
