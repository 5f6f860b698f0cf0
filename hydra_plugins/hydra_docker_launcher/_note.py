"""Note: what a lab book needs of a run: image, commit and config, and two ways to use them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from omegaconf import OmegaConf

from ._job_record import JobRecord
from ._past_job import PastJob
from ._past_options import split_volume
from ._units import show_size, size

#: What the record of a job can hold of its host's environment, in OmegaConf's words.
_VARIABLE = re.compile(r"\$\{oc\.env:(?P<name>\w+)(?:,(?P<default>[^}]*))?\}")
#: Where ``docker run`` has Hydra's outputs of the job, in the container.
_OUTPUTS = "/outputs"
_CONFIGS = "/hydra"


def note(job: PastJob, config: str, patch: str | None = None) -> str:
    """Return image, commit and config of a job, and two ways to run it again.

    ``config`` is the name of a file with its resolved config, ``patch`` that of a file which makes
    a snapshot out of its parent. The second way needs git and docker alone; it runs the script as
    Hydra's single run, on the config as it is.
    """
    record = job.record
    where = record.source.remote_url or record.source.root
    known = f"{record.image.reference}; " if record.image.reference != record.image.id else ""
    alone = "" if record.image.digest else f"  ({known}in no registry)"
    lines = [
        f"image:  {_image(record)}{alone}",
        f"commit: {record.source.commit}  ({_made_of(record, patch)}{where})",
        f"config: {config}",
    ]
    if record.task.kind not in ("script", "module"):
        return "\n".join(
            [
                *lines,
                "",
                f"# {record.task.target} was in no script: only its run can be run again",
                shlex.join(("hydra-docker", "reproduce", job.run.id)),
            ]
        )
    return "\n".join(
        [
            *lines,
            "",
            *_with_this_project(job, config),
            "",
            "# with git and docker alone, in an empty folder that has the "
            + ("config" if patch is None else "config and the patch"),
            *_docker_lines(record, config, patch),
        ]
    )


def config(job: PastJob) -> str:
    """Return the resolved config of a job as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(job.plain)))


def _image(record: JobRecord) -> str:
    """Return what names this image and no other one: a tag can come to mean another."""
    return record.image.digest or record.image.id


def _made_of(record: JobRecord, patch: str | None) -> str:
    return "" if patch is None else f"{patch} on {record.source.base[:12]}; "


def _with_this_project(job: PastJob, config: str) -> tuple[str, str]:
    if job.record.source.parent is None:
        where = "# with hydra-docker-launcher, in a clone of the repository"
        return where, _reproduce_line(job.record, config)
    # Of a snapshot, no clone has the commit: its run has what makes it.
    where = "# with hydra-docker-launcher, from the run"
    return where, shlex.join(("hydra-docker", "reproduce", job.run.id))


def _reproduce_line(record: JobRecord, config: str) -> str:
    words = ["hydra-docker", "reproduce", "--image", _image(record)]
    words += ["--commit", record.source.commit, "--config", config]
    if record.task.kind == "module":
        words += ["--module", record.task.target]
    elif record.script is not None:
        words += ["--script", str(record.script.relative_to(record.source.root))]
    return shlex.join(words)


def _docker_lines(record: JobRecord, config: str, patch: str | None) -> list[str]:
    options, remote = record.options, record.source.remote_url or str(record.source.root)
    target = record.task.target
    name = PurePosixPath(config).name
    command = [
        *("--entrypoint", record.executable, _image(record)),
        *(("-m", target) if record.task.kind == "module" else (target,)),
        *("--config-path", _CONFIGS, "--config-name", name, f"hydra.run.dir={_OUTPUTS}"),
    ]
    lines = [
        *_containment(options),
        *_limits(options),
        *_given(record),
        f'--volume "$PWD/code":{shlex.quote(str(record.source.root))}',
        f'--volume "$PWD"/{shlex.quote(config)}:{shlex.quote(f"{_CONFIGS}/{name}")}:ro',
        f'--volume "$PWD/outputs":{_OUTPUTS}',
        *(
            f"--volume {_shell(_volume(record, volume))}"
            for volume in _listed(options.get("volumes"))
        ),
        shlex.join(command),
    ]
    start = f"docker run --rm --workdir {shlex.quote(str(record.working_dir))}"
    return [
        f"git clone {shlex.quote(remote)} code",
        f"git -C code checkout {record.source.commit if patch is None else record.source.base}",
        *([] if patch is None else [f"git -C code apply --index ../{shlex.quote(patch)}"]),
        "mkdir outputs",
        " \\\n    ".join((start, *lines)),
    ]


def _limits(options: Mapping[str, Any]) -> Iterator[str]:
    yield f"--cpus {options['cpus']:g} --pids-limit {options['pids_limit']}"
    names = (("memory", "mem_limit"), ("memory-swap", "memswap_limit"), ("shm-size", "shm_size"))
    yield " ".join(f"--{name} {_size(options[option])}" for name, option in names)
    gpus = options.get("gpus") or 0
    if isinstance(gpus, list):
        device = ",".join(map(str, gpus))
        yield f"--gpus '\"device={device}\"'"
    elif gpus:
        yield f"--gpus {gpus}"


def _containment(options: Mapping[str, Any]) -> Iterator[str]:
    user = str(options.get("user") or "host")
    if user == "host":  # who has no name in the image needs a home
        yield '--user "$(id -u):$(id -g)" --env HOME=/tmp --env USER="$(id -un)"'
    elif user != "image":
        yield f"--user {user}"
    flags = [f"--{name.replace('_', '-')}" for name in ("init", "read_only") if options.get(name)]
    if flags:
        yield " ".join(flags)
    for name, option in (
        ("cap-drop", "cap_drop"),
        ("cap-add", "cap_add"),
        ("security-opt", "security_opt"),
        ("device", "devices"),
        ("tmpfs", "tmpfs"),
        ("add-host", "extra_hosts"),
        ("runtime", "runtime"),
        ("network", "network_mode"),
    ):
        for value in _listed(options.get(option)):
            yield f"--{name} {_shell(value)}"


def _given(record: JobRecord) -> Iterator[str]:
    """Yield the variables of the job, and where its modules are, unless beside its script."""
    for name in _listed(record.options.get("env_file")):
        yield f"--env-file {_shell(_absolute(record, name))}"
    environment = record.options.get("environment") or {}
    if isinstance(environment, Mapping):
        for name, value in environment.items():
            yield f"--env {name}" if value is None else f"--env {_shell(f'{name}={_yaml(value)}')}"
    else:
        for item in environment:
            yield f"--env {_shell(str(item))}"
    module = record.task.kind == "module"
    first = record.working_dir if module else PurePosixPath(record.task.target).parent
    folders = [folder for folder in record.task.path if folder != str(first)]
    if folders:
        yield f"--env {shlex.quote('PYTHONPATH=' + ':'.join(folders))}"


def _volume(record: JobRecord, volume: str) -> str:
    source, rest = split_volume(volume)
    named = "/" not in source
    return volume if named else f"{_absolute(record, source)}:{rest}"


def _absolute(record: JobRecord, path: str) -> str:
    """Return a path that was relative to the working directory of then as an absolute one."""
    return path if path.startswith(("/", "~", "${")) else str(record.working_dir / path)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _size(value: int) -> str:
    """Return a size as people write it where that is exact, else in bytes."""
    shown = show_size(value) if value > 0 else str(value)
    return shown if value <= 0 or size(shown) == value else str(value)


def _shell(value: object) -> str:
    """Return a word for the shell; a variable of the host of then is one of the host of now."""
    text = str(value)
    words: list[str | re.Match[str]] = []
    end = 0
    for match in _VARIABLE.finditer(text):
        words += [text[end : match.start()], match]
        end = match.end()
    words.append(text[end:])
    return "".join(_part(word) for word in words if word) or shlex.quote("")


def _part(word: str | re.Match[str]) -> str:
    if isinstance(word, str):
        return shlex.quote(word)
    name, default = word["name"], word["default"]
    if default is None:
        return f'"${{{name}:?}}"'
    escaped = re.sub(r'([$`"\\])', r"\\\1", default.strip())
    return f'"${{{name}:-{escaped}}}"'
