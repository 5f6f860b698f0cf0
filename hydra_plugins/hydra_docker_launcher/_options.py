"""Options: the ``hydra.launcher`` node of a config, checked and turned into values with units."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from . import _boundary_values as boundary
from . import _option_values as values
from . import _paths
from ._errors import OptionError
from ._masks import Variables, split_variables
from ._option_reader import NUL, Reader
from ._option_values import DEFAULT_LOGGING, Gpus, Logging, Restart, Ulimit, Volume
from ._private import HIDDEN, Rules, without_credentials
from ._redaction import Withheld
from ._units import cpu_number, duration, size
from .config import BuildConf, CloneConf, DockerLauncherConf, LoggingConf, MlflowConf, RetriesConf

LABEL_PREFIX = "hydra.docker."
#: What shows GPUs to a container, where NVIDIA's runtime starts it.
VISIBLE_GPUS = "NVIDIA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Build:
    """How to build the image. ``None``: see the option of that name."""

    context: str | None
    dockerfile: str | None
    target: str | None
    args: tuple[tuple[str, str], ...]
    network: str | None
    base: str | None = None


@dataclass(frozen=True, slots=True)
class CloneOptions:
    """What a clone may show to the remote. Paths are absolute; ``token`` is a variable's name."""

    ssh_key: Path | None = None
    known_hosts: Path | None = None
    token: str | None = None


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
    snapshot_limit: int
    delivery: str
    remote: str
    clone: CloneOptions
    user: str
    n_jobs: int
    fail_fast: bool
    dry_run: bool
    keep: str
    mlflow: Mlflow
    push: str | None = None
    resume: bool = False
    detach: bool = False
    on_interrupt: str = "stop"
    system_metrics: bool = True
    #: The user's globs of names whose values are not written down.
    redact: tuple[str, ...] = ()

    @property
    def rules(self) -> Rules:
        return Rules(self.redact)

    admission: str = "engine"


#: Options that must be the same for all jobs of a sweep.
SWEEP_WIDE = tuple(field.name for field in fields(SweepOptions))


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a job is run again, by the cause of its end. ``backoff`` in seconds."""

    oom: int = 0
    infra: int = 0
    error: int = 0
    timeout: int = 0
    backoff: float = 5.0
    mem_factor: float = 1.0


NO_RETRIES = Retries()


@dataclass(frozen=True, slots=True)
class JobOptions:
    """Options of one container. Sizes in bytes, times in seconds; ``None``: see the option.

    ``secret_environment`` are the variables that are written down nowhere, ``env_files`` (absolute)
    where some of them stand.
    """

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
    data_check: str
    data_identity: str
    environment: tuple[tuple[str, str], ...]
    timeout: float | None
    stop_grace_period: float
    restart: Restart
    retries: Retries = NO_RETRIES
    stray: str = "warn"
    stray_limit: int = 1024**3
    logging: Logging = DEFAULT_LOGGING
    log_limit: int | None = 1024**3
    secret_environment: Variables = ()
    env_files: tuple[Path, ...] = ()
    gpu_share: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    sweep: SweepOptions
    job: JobOptions


def check_names(node: Mapping[str, Any]) -> None:
    """Raise ``OptionError`` for a name that is no option, with the nearest one that is."""
    for prefix, part, schema in (
        ("", node, DockerLauncherConf),
        ("build.", node.get("build") or {}, BuildConf),
        ("clone.", node.get("clone") or {}, CloneConf),
        ("retries.", node.get("retries") or {}, RetriesConf),
        ("logging.", node.get("logging") or {}, LoggingConf),
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
    rules = Rules(Reader(node).each("redact", values.glob))
    reader = Reader(node, rules=rules)
    return Options(
        sweep=_sweep_options(reader, environ, folder, rules),
        job=_job_options(reader, environ, folder, rules),
    )


def shown_tags(options: Options, withheld: Withheld) -> Options:
    """Return options with the tags as everybody may read them: without secrets of the config."""
    tags = tuple(
        (name, withheld.shown_option(f"hydra.launcher.mlflow.tags.{name}", value))
        for name, value in options.sweep.mlflow.tags
    )
    mlflow = replace(options.sweep.mlflow, tags=tags)
    return replace(options, sweep=replace(options.sweep, mlflow=mlflow))


def check_same(one: SweepOptions, first: str, other: SweepOptions, job: str) -> None:
    """Raise ``OptionError`` where an option of the whole sweep differs between two jobs."""
    for name in SWEEP_WIDE:
        if getattr(one, name) != getattr(other, name):
            values = (repr(getattr(options, name)) for options in (one, other))
            here, there = map(without_credentials, values)
            raise OptionError(
                f"hydra.launcher.{name} must be the same for all jobs of a sweep, but is "
                f"{here} for {first} and {there} for {job}"
            )


def _sweep_options(
    read: Reader, environ: Mapping[str, str], folder: Path, rules: Rules
) -> SweepOptions:
    build = read.inner("build")
    mlflow = read.inner("mlflow")
    return SweepOptions(
        image=read.text("image"),
        build=Build(
            context=build.text("context"),
            dockerfile=build.text("dockerfile"),
            target=build.text("target"),
            args=_build_arguments(build, environ, rules),
            network=build.text("network"),
            base=build.text("base"),
        ),
        pull_policy=read.choice("pull_policy", ("always", "missing", "never")),
        commit=read.parsed("commit", values.revision),
        dirty=read.choice("dirty", ("error", "snapshot", "ignore")),
        snapshot_limit=read.parsed("snapshot_limit", size),
        delivery=read.choice("delivery", ("copy", "clone", "image")),
        remote=_remote(read),
        clone=_clone_options(read.inner("clone"), environ, folder),
        user=read.parsed("user", values.user),
        n_jobs=read.parsed("n_jobs", values.n_jobs),
        fail_fast=read.flag("fail_fast"),
        dry_run=read.flag("dry_run"),
        keep=read.choice("keep", ("none", "failed", "all")),
        mlflow=Mlflow(
            enabled=mlflow.flag("enabled"),
            tracking_uri=mlflow.text("tracking_uri"),
            experiment_name=mlflow.text("experiment_name"),
            run_name=mlflow.text("run_name"),
            tags=_shown_pairs(mlflow.pairs("tags"), "mlflow.tags", rules),
        ),
        push=read.optional("push", values.repository),
        resume=read.flag("resume"),
        detach=read.flag("detach"),
        on_interrupt=read.choice("on_interrupt", ("stop", "detach")),
        system_metrics=read.flag("system_metrics"),
        redact=rules.globs,
        admission=read.choice("admission", ("engine", "sweep")),
    )


def _build_arguments(read: Reader, environ: Mapping[str, str], rules: Rules) -> Variables:
    """Return the build arguments. Raises ``OptionError`` for a secret: images keep them."""
    arguments = read.pairs("args", environ)
    for name, value in arguments:
        if rules.is_secret_variable(name, value):
            raise read.wrong(
                f"args.{name}",
                "…",
                "is a secret by its name or its value, and the history of the image would show it "
                "to everybody who has the image. Install what needs it from a base image that was "
                "built elsewhere. Where it is no secret, say so with "
                f"'hydra.launcher.redact=[\"!{name}\"]'.",
            )
    return arguments


def _shown_pairs(pairs: Variables, place: str, rules: Rules) -> Variables:
    """Return labels or tags, which everybody can read, without secrets."""
    return tuple(
        (name, HIDDEN)
        if rules.is_secret(f"hydra.launcher.{place}.{name}", value)
        else (name, without_credentials(value))
        for name, value in pairs
    )


def _remote(read: Reader) -> str:
    """Return the name or URL. It may have a password in it by mistake: no message shows that."""
    remote = read.required("remote")
    if without_credentials(remote) != remote:
        reason = "must have no password or token in it; hydra.launcher.clone.token names one"
        raise read.wrong("remote", "…", reason)
    if remote.startswith("-") or re.match(r"[\w-]+::", remote):
        raise read.wrong("remote", remote, "must be the name of a remote, or a URL")
    return remote


def _clone_options(read: Reader, environ: Mapping[str, str], folder: Path) -> CloneOptions:
    return CloneOptions(
        ssh_key=read.optional("ssh_key", lambda item: values.readable_file(item, folder)),
        known_hosts=read.optional("known_hosts", lambda item: values.readable_file(item, folder)),
        token=_token(read, environ),
    )


def _token(read: Reader, environ: Mapping[str, str]) -> str | None:
    """Return the name of the variable. It may be a token by mistake: no message shows it."""
    name = read.text("token")
    if name is not None and not environ.get(name):
        raise read.wrong(
            "token",
            "…",
            "must be the name of a variable that is set in this host's environment and holds the "
            "token, for example GITHUB_TOKEN; not the token itself",
        )
    return name


def _job_options(
    read: Reader, environ: Mapping[str, str], folder: Path, rules: Rules
) -> JobOptions:
    environment, secret_environment = _environment(read, environ, folder, rules)
    return JobOptions(
        cpus=read.parsed("cpus", cpu_number),
        mem_limit=read.optional("mem_limit", values.memory),
        memswap_limit=read.optional("memswap_limit", values.swap),
        shm_size=read.optional("shm_size", values.shm_size),
        pids_limit=read.parsed("pids_limit", values.pids),
        gpus=read.parsed("gpus", values.gpus),
        ulimits=read.items("ulimits", values.ulimit),
        cap_add=read.each("cap_add", boundary.capability),
        cap_drop=read.each("cap_drop", boundary.capability),
        security_opt=read.each("security_opt", lambda item: boundary.security_opt(item, folder)),
        read_only=read.flag("read_only"),
        tmpfs=read.each("tmpfs", boundary.tmpfs),
        devices=read.each("devices", values.device),
        runtime=read.text("runtime"),
        network_mode=read.optional("network_mode", boundary.network_mode),
        extra_hosts=read.each("extra_hosts", values.extra_host),
        init=read.flag("init"),
        labels=_shown_pairs(_labels(read), "labels", rules),
        volumes=_volumes(read, folder),
        data_check=read.parsed("data_check", values.data_check),
        data_identity=read.choice("data_identity", ("stat", "content", "none")),
        environment=environment,
        secret_environment=secret_environment,
        env_files=tuple(_env_file(name, folder) for name in read.texts("env_file")),
        timeout=read.optional("timeout_min", values.minutes),
        stop_grace_period=read.parsed("stop_grace_period", duration),
        restart=read.parsed("restart", values.restart),
        retries=_retries(read.inner("retries")),
        stray=read.choice("stray", ("warn", "collect", "ignore", "error")),
        stray_limit=read.parsed("stray_limit", size),
        logging=_logging(read.inner("logging")),
        log_limit=read.optional("log_limit", values.log_limit),
        gpu_share=read.flag("gpu_share"),
    )


def _logging(read: Reader) -> Logging:
    driver = read.parsed("driver", values.logging_driver)
    options = read.mapping("options")
    try:
        return values.logging_options(driver, options)
    except ValueError as error:
        raise read.wrong("options", dict(options), str(error)) from None


def _retries(read: Reader) -> Retries:
    return Retries(
        oom=read.parsed("oom", values.retries),
        infra=read.parsed("infra", values.retries),
        error=read.parsed("error", values.retries),
        timeout=read.parsed("timeout", values.retries),
        backoff=read.parsed("backoff", values.backoff),
        mem_factor=read.parsed("mem_factor", values.mem_factor),
    )


def _volumes(read: Reader, folder: Path) -> tuple[Volume, ...]:
    volumes = read.each("volumes", lambda item: values.volume(item, folder))
    taken: set[str] = set()
    for volume in volumes:
        target = PurePosixPath(volume.target)
        if target == _paths.CONTAINER or _paths.CONTAINER in target.parents:
            raise read.wrong("volumes", volume.target, f"{_paths.CONTAINER} is the launcher's own")
        if volume.target in taken:
            raise read.wrong("volumes", volume.target, "is the target of two volumes")
        taken.add(volume.target)
    return volumes


def _labels(read: Reader) -> tuple[tuple[str, str], ...]:
    labels = read.pairs("labels")
    for name, value in labels:
        if name.startswith(LABEL_PREFIX):
            raise read.wrong(f"labels.{name}", value, f"{LABEL_PREFIX}* is the launcher's own")
    return labels


def _environment(
    read: Reader, environ: Mapping[str, str], folder: Path, rules: Rules
) -> tuple[Variables, Variables]:
    """Return the variables that everybody may read, and the others: all of ``env_file`` is such."""
    variables: dict[str, str] = {}
    for name in read.texts("env_file"):
        try:
            lines = values.host_path(name, folder).read_text().splitlines()
        except (OSError, ValueError) as error:
            raise read.wrong("env_file", name, f"cannot be read: {error}") from None
        for number, line in enumerate(lines, start=1):
            variables.update(_env_line(read, f"{name}:{number}", line.strip(), environ))
    named = dict(read.pairs("environment", environ))
    if VISIBLE_GPUS in {**variables, **named}:
        reason = "is the launcher's own: hydra.launcher.gpus says which GPUs a job gets"
        value = {**variables, **named}[VISIBLE_GPUS]
        raise read.wrong(f"environment.{VISIBLE_GPUS}", value, reason)
    public, secret = split_variables(named.items(), rules)
    of_files = {name: value for name, value in variables.items() if name not in named}
    return public, (*of_files.items(), *secret)


def _env_file(name: str, folder: Path) -> Path:
    return values.host_path(name, folder)


def _env_line(read: Reader, place: str, line: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Read one line of an env_file, as ``docker run --env-file`` does: no quotes, no expansion."""
    if not line or line.startswith("#"):
        return {}
    name, equals, value = line.partition("=")
    if not name or any(character.isspace() for character in name):
        raise read.wrong("env_file", place, "must be lines of NAME=value")
    if "\0" in value:
        raise read.wrong("env_file", place, NUL)
    if not equals:
        return {name: environ[name]} if name in environ else {}
    return {name: value}
