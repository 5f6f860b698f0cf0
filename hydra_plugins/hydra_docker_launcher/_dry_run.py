"""Dry run: a plan as text, with the ``docker run`` line that is equal to it."""

from __future__ import annotations

import csv
import io
import shlex
from collections.abc import Iterator

from ._engine import ContainerSpec, Mount
from ._units import whole_seconds


def docker_run(spec: ContainerSpec) -> str:
    """Return the command line that runs the same container."""
    return " \\\n    ".join(_arguments(spec))


def _arguments(spec: ContainerSpec) -> Iterator[str]:
    yield f"docker run --detach --name {shlex.quote(spec.name)}"
    for name, value in _options(spec):
        yield name if value is None else f"{name} {shlex.quote(value)}"
    executable, *arguments = spec.command
    yield f"--entrypoint {shlex.quote(executable)}"
    yield shlex.join((spec.image, *arguments))


def _options(spec: ContainerSpec) -> Iterator[tuple[str, str | None]]:
    yield "--workdir", spec.working_dir
    yield from _limits(spec)
    yield from _boundary(spec)
    yield "--stop-timeout", str(max(1, whole_seconds(spec.stop_grace_period)))
    times = f":{spec.restart.retries}" if spec.restart.retries else ""
    yield "--restart", spec.restart.name + times
    yield "--log-driver", spec.logging.driver
    for name, value in spec.logging.options:
        yield "--log-opt", f"{name}={value}"
    for name, value in spec.environment:
        yield "--env", f"{name}={value}"
    for mount in spec.mounts:
        yield "--mount", _mount(mount)
    for name, value in spec.labels:
        yield "--label", f"{name}={value}"


def _mount(mount: Mount) -> str:
    """Return a mount as Docker reads it: a line of CSV (sweep folders like to have commas)."""
    fields = [
        f"type={'volume' if mount.named else 'bind'}",
        f"source={mount.source}",
        f"target={mount.target}",
        *(["readonly"] if mount.read_only else []),
    ]
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def _limits(spec: ContainerSpec) -> Iterator[tuple[str, str]]:
    limits = spec.limits
    yield "--cpus", f"{limits.cpus:g}"
    yield "--memory", str(limits.memory)
    yield "--memory-swap", str(limits.memory_swap)
    yield "--shm-size", str(limits.shm_size)
    yield "--pids-limit", str(limits.pids)
    for ulimit in limits.ulimits:
        yield "--ulimit", f"{ulimit.name}={ulimit.soft}:{ulimit.hard}"
    if spec.gpus:
        yield "--gpus", _gpus(spec)


def _boundary(spec: ContainerSpec) -> Iterator[tuple[str, str | None]]:
    boundary = spec.boundary
    for option, value in (
        ("--user", boundary.user),
        ("--runtime", boundary.runtime),
        ("--network", boundary.network_mode),
    ):
        if value is not None:
            yield option, value
    for option, values in (
        ("--cap-drop", boundary.cap_drop),
        ("--cap-add", boundary.cap_add),
        ("--security-opt", boundary.security_opt),
        ("--device", boundary.devices),
        ("--tmpfs", [f"{path}:{options}".rstrip(":") for path, options in boundary.tmpfs]),
        ("--add-host", [f"{name}:{address}" for name, address in boundary.extra_hosts]),
    ):
        for value in values:
            yield option, value
    for option, wanted in (("--read-only", boundary.read_only), ("--init", boundary.init)):
        if wanted:
            yield option, None


def _gpus(spec: ContainerSpec) -> str:
    if spec.gpus.ids:
        return f'"device={",".join(spec.gpus.ids)}"'
    return "all" if spec.gpus.all else str(spec.gpus.count)
