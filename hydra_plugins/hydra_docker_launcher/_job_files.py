"""Job files: what the host puts into a job's output folder before its container starts."""

from __future__ import annotations

import os
import pickle
from contextlib import suppress
from pathlib import Path

from hydra import version
from hydra.core.utils import JobRuntime

from . import _compose
from ._compose import ComposedJob
from ._errors import DockerLauncherError
from ._paths import JobPaths
from ._plan import owner
from ._running import FINAL_POLICIES
from ._task import Task


def content(job: ComposedJob, task: Task, restart: str) -> bytes:
    """Return what the worker reads: how to find the task function, and the config.

    The config is bytes in bytes: its types may be defined in the script, which must run first.
    """
    if task.kind == "value":
        import cloudpickle

        config = _compose.serialize_config(job, cloudpickle.CloudPickler)
    else:
        config = _compose.serialize_config(job)
    return pickle.dumps(
        {
            "kind": task.kind,
            "target": task.target,
            "function": task.function,
            "argv": list(task.argv),
            "path": list(task.path),
            "task_name": JobRuntime.instance().get("name"),
            "version_base": None if (base := version.getbase()) is None else str(base),
            "config": config,
            "hydra_files": _compose.hydra_files(job),
            "result": str(JobPaths(job.output_dir).result),
            "final": restart in FINAL_POLICIES,
        },
        protocol=4,
    )


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
    try:
        paths.output.mkdir(parents=True, exist_ok=True)
        paths.private.mkdir(mode=0o700, exist_ok=True)
        paths.result.unlink(missing_ok=True)
        _private_file(paths.config, config.encode())
        _private_file(paths.job, job)
        if secrets:
            paths.secrets.mkdir(mode=0o700, exist_ok=True)
        for name, content in secrets:
            _private_file(paths.secrets / name, content)
        hidden = [paths.secrets / name for name, _ in secrets]
        hidden += [paths.secrets] if secrets else []
        if user is not None and os.geteuid() == 0 and owner(user) != (0, 0):
            for path in (paths.output, paths.private, paths.config, paths.job, *hidden):
                os.chown(path, *owner(user), follow_symlinks=False)
    except OSError as error:
        raise DockerLauncherError(
            f"Cannot write to the job's output folder {paths.output}: {error}"
        ) from error


def remove_private(paths: JobPaths, *, mounted: bool) -> None:
    """Remove what only the container was to read; a container that is kept has them mounted."""
    for file in paths.secrets.iterdir() if paths.secrets.is_dir() else ():
        file.unlink()
    if not mounted:
        paths.job.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            paths.secrets.rmdir()


def _private_file(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
