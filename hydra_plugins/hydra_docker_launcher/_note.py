"""Note: what a lab book needs of a run: three lines, and how to use them."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath

from omegaconf import OmegaConf

from ._past_job import PastJob
from ._units import show_size


def note(job: PastJob, config: str) -> str:
    """Return image, commit and config of a job, and two ways to run it again.

    ``config`` is the name of a file with its resolved config. The second way needs git and docker
    alone; it runs the script as Hydra's single run, on the config as it is.
    """
    record = job.record
    image = record.image.digest or record.image.reference
    alone = "" if record.image.digest else f"  (in no registry; its id is {record.image.id})"
    where = f" of {record.source.remote_url}" if record.source.remote_url else ""
    lines = [
        f"image:  {image}{alone}",
        f"commit: {record.source.commit}{where}",
        f"config: {config}",
        "",
        "# with hydra-docker-launcher, in a clone of the repository",
        _reproduce_line(job, image, config),
    ]
    plain = _docker_lines(job, image, config)
    if plain:
        lines += ["", "# with git and docker alone, in an empty folder that has the config", *plain]
    return "\n".join(lines)


def config(job: PastJob) -> str:
    """Return the resolved config of a job as YAML."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(job.plain)))


def _reproduce_line(job: PastJob, image: str, config: str) -> str:
    record = job.record
    words = ["hydra-docker", "reproduce", "--image", image, "--commit", record.source.commit]
    words += ["--config", config]
    if record.script is not None:
        words += ["--script", str(record.script.relative_to(record.source.root))]
    return shlex.join(words)


def _docker_lines(job: PastJob, image: str, config: str) -> list[str]:
    record = job.record
    if record.task.kind not in ("script", "module"):
        return []
    remote, root = record.source.remote_url or "<the repository>", str(record.source.root)
    run = ["-m", record.task.target] if record.task.kind == "module" else [record.task.target]
    options = record.options
    words = [
        *("docker", "run", "--rm", "--workdir", str(record.working_dir)),
        *("--cpus", f"{options['cpus']:g}", "--memory", show_size(options["mem_limit"])),
        *("--shm-size", show_size(options["shm_size"])),
    ]
    name = PurePosixPath(config).name
    arguments = [
        *("--entrypoint", "python3", image, *run),
        *("--config-path", "/hydra", "--config-name", name),
        "hydra.run.dir=/outputs",
    ]
    mounts = [
        f'--volume "$PWD/code":{shlex.quote(root)}',
        f'--volume "$PWD"/{shlex.quote(config)}:/hydra/{shlex.quote(name)}:ro',
        '--volume "$PWD/outputs":/outputs',
        *(f"--volume {shlex.quote(volume)}" for volume in options.get("volumes") or ()),
    ]
    return [
        f"git clone {shlex.quote(remote)} code && git -C code checkout {record.source.commit}",
        " \\\n    ".join((shlex.join(words), *mounts, shlex.join(arguments))),
    ]
