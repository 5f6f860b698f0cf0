"""Options: the ``hydra.launcher`` node of a config, checked and turned into values with units."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from . import _paths
from ._errors import OptionError
from ._units import cpu_number, duration, size
from .config import BuildConf, DockerLauncherConf, MlflowConf

T = TypeVar("T")

LABEL_PREFIX = "hydra.docker."
MINIMUM_MEMORY = 6 * 1024**2  # Docker's own


@dataclass(frozen=True, slots=True)
class Build:
    """How to build the image. ``None``: see the option of that name."""

    context: str | None
    dockerfile: str | None
    target: str | None
    args: tuple[tuple[str, str], ...]
    network: str | None


@dataclass(frozen=True, slots=True)
class Mlflow:
    """What is recorded in MLflow."""

    enabled: bool
    tracking_uri: str | None
    experiment_name: str | None
    run_name: str | None
    tags: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """Options of the whole sweep. ``n_jobs`` is -1 or a positive number."""

    image: str | None
    build: Build
    pull_policy: str
    commit: str
    dirty: str
    delivery: str
    user: str
    n_jobs: int
    fail_fast: bool
    dry_run: bool
    keep: str
    mlflow: Mlflow


#: Options that must be the same for all jobs of a sweep.
SWEEP_WIDE = tuple(field.name for field in fields(SweepOptions))


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs of one container: a number of them, all of them, or the ones with these ids."""

    count: int = 0
    all: bool = False
    ids: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.all or self.count > 0 or bool(self.ids)


NO_GPUS = Gpus()


@dataclass(frozen=True, slots=True)
class Volume:
    """A mount that the user named. ``source`` is an absolute path, or the name of a volume."""

    source: str
    target: str
    read_only: bool
    named: bool


@dataclass(frozen=True, slots=True)
class Ulimit:
    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Docker's restart policy. ``retries`` 0: no limit (only of ``on-failure``)."""

    name: str = "no"
    retries: int = 0


NO_RESTART = Restart()


@dataclass(frozen=True, slots=True)
class JobOptions:
    """Options of one container. Sizes in bytes, times in seconds; ``None``: see the option."""

    cpus: float
    mem_limit: int | None
    memswap_limit: int | None
    shm_size: int | None
    pids_limit: int
    gpus: Gpus
    ulimits: tuple[Ulimit, ...]
    cap_add: tuple[str, ...]
    cap_drop: tuple[str, ...]
    security_opt: tuple[str, ...]
    read_only: bool
    tmpfs: tuple[tuple[str, str], ...]
    devices: tuple[str, ...]
    runtime: str | None
    network_mode: str | None
    extra_hosts: tuple[tuple[str, str], ...]
    init: bool
    labels: tuple[tuple[str, str], ...]
    volumes: tuple[Volume, ...]
    environment: tuple[tuple[str, str], ...]
    timeout: float | None
    stop_grace_period: float
    restart: Restart


@dataclass(frozen=True, slots=True)
class Options:
    sweep: SweepOptions
    job: JobOptions


def check_names(node: Mapping[str, Any]) -> None:
    """Raise ``OptionError`` for a name that is no option, with the nearest one that is."""
    for prefix, part, schema in (
        ("", node, DockerLauncherConf),
        ("build.", node.get("build") or {}, BuildConf),
        ("mlflow.", node.get("mlflow") or {}, MlflowConf),
    ):
        if not isinstance(part, Mapping):
            continue
        valid = [field.name for field in fields(schema) if field.name != "_target_"]
        for name in part:
            if name in valid or name == "_target_":
                continue
            near = difflib.get_close_matches(str(name), valid, n=1)
            meant = f" Did you mean {prefix}{near[0]}?" if near else ""
            raise OptionError(
                f"hydra.launcher.{prefix}{name} is not an option of hydra/launcher=docker.{meant}\n"
                f"Valid are: {', '.join(prefix + option for option in valid)}"
            )


def parse(node: Mapping[str, Any], *, environ: Mapping[str, str], folder: Path) -> Options:
    """Check a resolved ``hydra.launcher`` node and return its values.

    ``environ`` is where names without a value get theirs from, ``folder`` the launch folder, which
    relative paths refer to. Raises ``OptionError``, which names the option, its value and what is
    valid.
    """
    check_names(node)
    reader = _Reader(node)
    return Options(sweep=_sweep_options(reader, environ), job=_job_options(reader, environ, folder))


def check_same(one: SweepOptions, first: str, other: SweepOptions, job: str) -> None:
    """Raise ``OptionError`` where an option of the whole sweep differs between two jobs."""
    for name in SWEEP_WIDE:
        if getattr(one, name) != getattr(other, name):
            raise OptionError(
                f"hydra.launcher.{name} must be the same for all jobs of a sweep, but is "
                f"{getattr(one, name)!r} for {first} and {getattr(other, name)!r} for {job}"
            )


def _sweep_options(read: _Reader, environ: Mapping[str, str]) -> SweepOptions:
    build = _Reader(read.mapping("build"), "build.")
    mlflow = _Reader(read.mapping("mlflow"), "mlflow.")
    return SweepOptions(
        image=read.text("image"),
        build=Build(
            context=build.text("context"),
            dockerfile=build.text("dockerfile"),
            target=build.text("target"),
            args=build.pairs("args", environ),
            network=build.text("network"),
        ),
        pull_policy=read.choice("pull_policy", ("always", "missing", "never")),
        commit=read.required("commit"),
        dirty=read.choice("dirty", ("error", "ignore")),
        delivery=read.choice("delivery", ("copy",)),
        user=read.parsed("user", _user),
        n_jobs=read.parsed("n_jobs", _n_jobs),
        fail_fast=read.flag("fail_fast"),
        dry_run=read.flag("dry_run"),
        keep=read.choice("keep", ("none", "failed", "all")),
        mlflow=Mlflow(
            enabled=mlflow.flag("enabled"),
            tracking_uri=mlflow.text("tracking_uri"),
            experiment_name=mlflow.text("experiment_name"),
            run_name=mlflow.text("run_name"),
            tags=mlflow.pairs("tags"),
        ),
    )


def _job_options(read: _Reader, environ: Mapping[str, str], folder: Path) -> JobOptions:
    return JobOptions(
        cpus=read.parsed("cpus", cpu_number),
        mem_limit=read.optional("mem_limit", _memory),
        memswap_limit=read.optional("memswap_limit", _swap),
        shm_size=read.optional("shm_size", size),
        pids_limit=read.parsed("pids_limit", _pids),
        gpus=read.parsed("gpus", _gpus),
        ulimits=read.items("ulimits", _ulimit),
        cap_add=read.texts("cap_add"),
        cap_drop=read.texts("cap_drop"),
        security_opt=read.each("security_opt", lambda item: _security_opt(item, folder)),
        read_only=read.flag("read_only"),
        tmpfs=read.each("tmpfs", _tmpfs),
        devices=read.each("devices", _device),
        runtime=read.text("runtime"),
        network_mode=read.text("network_mode"),
        extra_hosts=read.each("extra_hosts", _extra_host),
        init=read.flag("init"),
        labels=_labels(read),
        volumes=_volumes(read, folder),
        environment=_environment(read, environ, folder),
        timeout=read.optional("timeout_min", _minutes),
        stop_grace_period=read.parsed("stop_grace_period", duration),
        restart=read.parsed("restart", _restart),
    )


class _Reader:
    """Reads values of one node; every error names the option, what it was, and what is valid."""

    def __init__(self, node: Mapping[str, Any], prefix: str = "") -> None:
        self._node = node
        self._prefix = prefix

    def wrong(self, name: str, value: object, reason: str) -> OptionError:
        return OptionError(f"hydra.launcher.{self._prefix}{name}={_shown(value)}: {reason}")

    def parsed(self, name: str, parse_value: Callable[[Any], T]) -> T:
        value = self._node.get(name)
        return self._convert(name, value, parse_value)

    def optional(self, name: str, parse_value: Callable[[Any], T]) -> T | None:
        return None if self._node.get(name) is None else self.parsed(name, parse_value)

    def each(self, name: str, parse_item: Callable[[str], T]) -> tuple[T, ...]:
        return tuple(self._convert(name, item, parse_item) for item in self.texts(name))

    def items(self, name: str, parse_item: Callable[[str, Any], T]) -> tuple[T, ...]:
        return tuple(
            self._convert(f"{name}.{key}", item, partial(parse_item, key))
            for key, item in self.mapping(name).items()
        )

    def text(self, name: str) -> str | None:
        value = self._node.get(name)
        if value is not None and not str(value).strip():
            raise self.wrong(name, value, "is empty; leave it out")
        return None if value is None else str(value)

    def required(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise self.wrong(name, None, "must have a value")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._node.get(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, (list, tuple)) or not all(
            isinstance(item, (str, int, float)) for item in value
        ):
            raise self.wrong(name, value, "must be a list of strings")
        return tuple(str(item) for item in value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self._node.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.wrong(name, value, "must be a mapping of names to values")
        return {str(key): item for key, item in value.items()}

    def pairs(
        self, name: str, environ: Mapping[str, str] | None = None
    ) -> tuple[tuple[str, str], ...]:
        """Read names with values, from a mapping or from a list of ``NAME=value``.

        A name without a value takes the one of ``environ``, or is left out where that has none
        (Compose's rule).
        """
        value = self._node.get(name)
        items: list[tuple[str, Any]]
        if value is None or isinstance(value, Mapping):
            items = [(str(key), item) for key, item in (value or {}).items()]
        elif not isinstance(value, (list, tuple)):
            raise self.wrong(name, value, "must be a mapping of names to values, or a list")
        else:
            split = (item.partition("=") for item in self.texts(name))
            items = [(key, item if equals else None) for key, equals, item in split]
        result = []
        for key, item in items:
            if not key or "=" in key or "\0" in key:
                raise self.wrong(name, key, "is not a name")
            inherited = item is None and environ is not None
            found = (environ or {}).get(key) if inherited else item
            if inherited and found is None:
                continue
            if isinstance(found, (Mapping, list)):
                raise self.wrong(f"{name}.{key}", found, "must be a single value")
            result.append((key, _scalar(found)))
        return tuple(result)

    def choice(self, name: str, valid: tuple[str, ...]) -> str:
        value = self._node.get(name)
        if value not in valid:
            raise self.wrong(name, value, _valid_are(valid, value))
        return str(value)

    def flag(self, name: str) -> bool:
        value = self._node.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, value, "must be true or false")
        return value

    def _convert(self, name: str, value: Any, parse_value: Callable[[Any], T]) -> T:
        try:
            return parse_value(value)
        except (ValueError, TypeError) as error:
            raise self.wrong(name, value, str(error)) from None


def _valid_are(valid: tuple[str, ...], value: object) -> str:
    near = difflib.get_close_matches(str(value), valid, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"valid is: {', '.join(valid)}{meant}"


def _shown(value: object) -> str:
    return "null" if value is None else str(value)


def _scalar(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _memory(value: object) -> int:
    number = size(value)
    if number < MINIMUM_MEMORY:
        raise ValueError("must be at least 6m, the engine's minimum")
    return number


def _swap(value: object) -> int:
    return -1 if str(value) == "-1" else size(value)


def _pids(value: object) -> int:
    return _positive(value, "must be a positive number, or -1 for no limit")


def _n_jobs(value: object) -> int:
    return _positive(value, "must be a positive number, or -1 for as many as fit")


def _positive(value: object, valid: str) -> int:
    text = str(value)
    if text != "-1" and not (text.isdecimal() and int(text) > 0):
        raise ValueError(valid)
    return int(text)


def _minutes(value: object) -> float:
    try:
        minutes = float(str(value))
    except ValueError:
        minutes = 0
    if not 0 < minutes < float("inf"):
        raise ValueError("must be a positive number of minutes, or null for no limit")
    return minutes * 60


def _user(value: object) -> str:
    text = str(value)
    if text in ("host", "image"):
        return text
    uid, colon, gid = text.partition(":")
    if uid.isdecimal() and (gid.isdecimal() or not colon):
        return text
    raise ValueError(_valid_are(("host", "image", "uid", "uid:gid"), text))


def _gpus(value: object) -> Gpus:
    valid = "valid is: a number, all, or a list of device ids"
    if isinstance(value, (list, tuple)):
        ids = tuple(str(item) for item in value)
        if len(set(ids)) != len(ids):
            raise ValueError("an id is there twice")
        return Gpus(ids=ids)
    if value == "all":
        return Gpus(all=True)
    if isinstance(value, bool) or not str(value).isdecimal():
        raise ValueError(valid)
    return Gpus(count=int(str(value)))


def _ulimit(name: str, value: object) -> Ulimit:
    both = value if isinstance(value, Mapping) else {"soft": value, "hard": value}
    if set(both) != {"soft", "hard"} or not all(
        re.fullmatch(r"-1|\d+", str(limit)) for limit in both.values()
    ):
        raise ValueError("must be a number (-1: no limit), or have soft and hard")
    soft, hard = int(str(both["soft"])), int(str(both["hard"]))
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError(f"soft ({soft}) is more than hard ({hard})")
    return Ulimit(name, soft, hard)


def _security_opt(item: str, folder: Path) -> str:
    """Docker's command line sends a seccomp profile's content, and so does this."""
    key, _, profile = item.replace(":", "=", 1).partition("=")
    if key != "seccomp" or profile in ("unconfined", "builtin"):
        return item
    try:
        return f"seccomp={json.dumps(json.loads((folder / profile).read_text()))}"
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the seccomp profile: {error}") from None


def _absolute(path: str) -> str:
    if not path.startswith("/") or PurePosixPath(path) == PurePosixPath("/"):
        raise ValueError(f"{path!r} must be an absolute path in the container, not /")
    return str(PurePosixPath(path))


def _tmpfs(item: str) -> tuple[str, str]:
    path, _, options = item.partition(":")
    return _absolute(path), options


def _device(item: str) -> str:
    parts = item.split(":")
    if len(parts) > 3 or not all(part.startswith("/") for part in parts[:2]):
        raise ValueError("must be host_path[:container_path[:permissions]]")
    if len(parts) == 3 and not (parts[2] and set(parts[2]) <= set("rwm")):
        raise ValueError("permissions are one or more of r, w and m")
    if not Path(parts[0]).exists():
        raise ValueError(f"there is no device {parts[0]} on this host")
    host = parts[0]
    return ":".join((host, parts[1] if len(parts) > 1 else host, *(parts[2:] or ["rwm"])))


def _extra_host(item: str) -> tuple[str, str]:
    separator = "=" if "=" in item else ":"
    name, _, address = item.partition(separator)
    if not name or not address:
        raise ValueError("must be name:address")
    return name, address


def _volume(item: str, folder: Path) -> Volume:
    parts = item.split(":")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise ValueError("must be source:target or source:target:ro")
    if len(parts) == 3 and parts[2] not in ("ro", "rw"):
        raise ValueError(f"{parts[2]!r} is not a mode; valid is: ro, rw")
    source, target = parts[0], _absolute(parts[1])
    read_only = parts[2:] == ["ro"]
    if "/" not in source and source not in (".", "..", "~"):
        return Volume(source, target, read_only, named=True)
    path = folder / Path(source).expanduser()
    if not path.exists():
        raise ValueError(
            f"{path} does not exist on this host; create it first, or correct the path"
        )
    return Volume(str(path.resolve()), target, read_only, named=False)


def _volumes(read: _Reader, folder: Path) -> tuple[Volume, ...]:
    volumes = read.each("volumes", lambda item: _volume(item, folder))
    taken: set[str] = set()
    for volume in volumes:
        target = PurePosixPath(volume.target)
        if target == _paths.CONTAINER or _paths.CONTAINER in target.parents:
            raise read.wrong("volumes", volume.target, f"{_paths.CONTAINER} is the launcher's own")
        if volume.target in taken:
            raise read.wrong("volumes", volume.target, "is the target of two volumes")
        taken.add(volume.target)
    return volumes


def _restart(value: object) -> Restart:
    # YAML reads a bare `no` as false, which the schema then makes a string.
    text = "no" if str(value) == "False" else str(value)
    name, colon, times = text.partition(":")
    if name == "on-failure" and colon and times.isdecimal() and int(times) > 0:
        return Restart(name, int(times))
    if not colon and name in ("no", "on-failure", "unless-stopped", "always"):
        return Restart(name)
    valid = ("no", "on-failure", "on-failure:<times>", "unless-stopped", "always")
    raise ValueError(_valid_are(valid, text))


def _labels(read: _Reader) -> tuple[tuple[str, str], ...]:
    labels = read.pairs("labels")
    for name, value in labels:
        if name.startswith(LABEL_PREFIX):
            raise read.wrong(f"labels.{name}", value, f"{LABEL_PREFIX}* is the launcher's own")
    return labels


def _environment(
    read: _Reader, environ: Mapping[str, str], folder: Path
) -> tuple[tuple[str, str], ...]:
    variables: dict[str, str] = {}
    for name in read.texts("env_file"):
        try:
            lines = (folder / Path(name).expanduser()).read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise read.wrong("env_file", name, f"cannot be read: {error}") from None
        for number, line in enumerate(lines, start=1):
            variables.update(_env_line(read, f"{name}:{number}", line.strip(), environ))
    variables.update(read.pairs("environment", environ))
    return tuple(variables.items())


def _env_line(read: _Reader, place: str, line: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Read one line of an env_file, as ``docker run --env-file`` does: no quotes, no expansion."""
    if not line or line.startswith("#"):
        return {}
    name, equals, value = line.partition("=")
    if not name or any(character.isspace() for character in name):
        raise read.wrong("env_file", place, "must be lines of NAME=value")
    if not equals:
        return {name: environ[name]} if name in environ else {}
    return {name: value}
