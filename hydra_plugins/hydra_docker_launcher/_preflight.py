"""Preflight: one short container tells what an image has, before job 0."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import hydra
import omegaconf

from ._engine import Boundary, ContainerSpec, Engine, Image, Limits
from ._errors import EngineError, ImageError, OptionError
from ._harmless import one_line, plain
from ._option_values import Gpus

MAX_OUTPUT = 4 * 1024 * 1024  # characters
SHOWN = 500  # characters at most, of what goes wrong
LONGEST = 1000  # characters of a fact
PYTHONS = ("python3", "python")
MINIMUM_PYTHON = (3, 9)
FORMAT = 3  # of the cached files
#: Holds what a container needs, until the block ends.
Hold = Callable[[ContainerSpec], AbstractContextManager[None]]

#: Runs in the image, with whatever Python it has.
QUESTIONS = """
import json, os, platform, subprocess, sys
facts = {"python": ".".join(map(str, sys.version_info[:3])), "uid": os.getuid(), "gid": os.getgid(),
         "hydra": None, "omegaconf": None, "packages": [], "gpus": [],
         "git": None, "ssh": False, "passwd": None,
         "libc": "-".join(platform.libc_ver()).strip("-") or None}
try:
    from importlib import metadata
    found = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
    facts["packages"] = sorted("%s==%s" % item for item in found.items())
except ImportError:
    pass
try:
    import hydra, omegaconf
    facts["hydra"], facts["omegaconf"] = hydra.__version__, omegaconf.__version__
except Exception as error:
    facts["import_error"] = "%s: %s" % (type(error).__name__, error)
try:
    with open("/etc/os-release") as file:
        named = dict(line.strip().partition("=")[::2] for line in file)
    facts["system"] = named["PRETTY_NAME"].strip('"')
except Exception:
    pass
try:
    asked = ["nvidia-smi", "--query-gpu=uuid,name,driver_version", "--format=csv,noheader"]
    lines = subprocess.check_output(asked, stderr=subprocess.DEVNULL).decode().splitlines()
    rows = [[item.strip() for item in line.split(",")] for line in lines if line.strip()]
    facts["gpus"], facts["gpu_models"] = [row[0] for row in rows], [row[1] for row in rows]
    facts["gpu_driver"] = rows[0][2]
except Exception:
    pass
try:
    whole, listed = None, subprocess.check_output(["nvidia-smi", "-L"], stderr=subprocess.DEVNULL)
    facts["gpu_parts"] = []
    for line in listed.decode().splitlines():
        name = line.rpartition("UUID: ")[2].strip(") ")
        if name.startswith("MIG-") and whole:
            facts["gpu_parts"].append([name, whole])
        elif name.startswith("GPU-"):
            whole = name
except Exception:
    pass
try:
    facts["git"] = subprocess.check_output(["git", "--version"]).decode().split()[2]
except Exception:
    pass
folders = os.environ.get("PATH", "").split(os.pathsep)  # it does not start for an unknown uid
facts["ssh"] = any(os.access(os.path.join(folder, "ssh"), os.X_OK) for folder in folders)
try:
    import pwd
    pwd.getpwuid(os.getuid())
except Exception:
    try:
        with open("/etc/passwd") as file:
            facts["passwd"] = file.read()
    except Exception:
        facts["passwd"] = ""
print("\\n@facts@" + json.dumps(facts))
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What an image has: the name of its Python, versions, and the GPUs it sees (ids, models).

    ``git`` is its version, None where there is none. ``passwd`` is the content of /etc/passwd where
    that has no line for the job's user, else None.
    """

    executable: str
    python: str
    hydra: str
    omegaconf: str
    uid: int
    gid: int
    packages: tuple[str, ...]
    gpus: tuple[str, ...] = ()
    git: str | None = None
    ssh: bool = False
    passwd: str | None = None
    gpu_models: tuple[str, ...] = ()
    gpu_driver: str | None = None
    #: Parts of GPUs (MIG) by their ids, each with the id of the GPU that it is of.
    gpu_parts: tuple[tuple[str, str], ...] = ()
    #: Its operating system and C library.
    system: str | None = None
    libc: str | None = None


def _hold_nothing(_: ContainerSpec) -> AbstractContextManager[None]:
    return nullcontext()


def inspect_image(
    engine: Engine,
    image: Image,
    *,
    user: str | None,
    gpus: bool,
    runtime: str | None,
    cache: Path,
    hold: Hold = _hold_nothing,
) -> Facts:
    """Return what ``image`` has; asked once per image and user, then read from ``cache``.

    ``hold`` waits until the engine has room for the container that is asked. Raises ``ImageError``
    where it cannot run jobs (no Python, no hydra-core), and ``OptionError``
    where ``gpus`` are asked for and the engine has no way to give them.
    """
    key = f"{image.id.removeprefix('sha256:')}-{user or 'image'}-{FORMAT}".replace(":", ".")
    file = cache / f"{key}.json"
    facts = None if gpus else _cached(file)
    if facts is None:
        with hold(_spec(image, PYTHONS[0], user, False, runtime)):
            facts = _ask(engine, image, user, gpus, runtime)
        if not gpus:
            _store(file, facts)
    return facts


def check_function_by_value(facts: Facts, name: str) -> None:
    """Raise ``ImageError`` where a serialized function cannot be loaded by the image's Python."""
    host = ".".join(platform.python_version_tuple()[:2])
    image = ".".join(facts.python.split(".")[:2])
    if host != image:
        raise ImageError(
            f"The task function {name} is in no script and cannot be imported, so it is sent by "
            f"value; that needs the same Python on both sides, but this host has {host} and the "
            f"image has {image}.\nPut it into a module of the repository, or use an image with "
            f"Python {host}."
        )


def check_gpus(facts: Facts, wanted: Gpus) -> None:
    """Raise ``OptionError`` for GPUs that there are not, where it is known which there are."""
    there = facts.gpus
    if not there:
        return
    if wanted.count > len(there):
        raise OptionError(
            f"hydra.launcher.gpus={wanted.count} is more than the engine's machine has: "
            f"{len(there)}"
        )
    seen: set[str] = set()
    parts = dict(facts.gpu_parts)
    for name in wanted.ids:
        number = int(name) if name.isdecimal() else None
        known = number < len(there) if number is not None else name in there
        # Parts of GPUs are not listed among the GPUs, and not every driver tells of them.
        known = known or (name in parts if parts else name.startswith("MIG-"))
        if not known:
            raise OptionError(
                f"hydra.launcher.gpus: the engine's machine has no GPU {name}; valid is: 0 to "
                f"{len(there) - 1}, or {', '.join((*there, *parts))}"
            )
        gpu = name if number is None else there[number]
        if gpu in seen:
            raise OptionError(f"hydra.launcher.gpus: {gpu} is there twice")
        seen.add(gpu)
    for part in seen & parts.keys():
        if parts[part] in seen:
            raise OptionError(f"hydra.launcher.gpus: {part} is a part of {parts[part]}")


def check_versions(facts: Facts) -> None:
    """Raise ``ImageError`` where the config of this host cannot be read in the image.

    A newer OmegaConf reads what an older one has written, not the other way round.
    """
    if _line(facts.omegaconf) < _line(omegaconf.__version__):
        ours, theirs = ".".join(map(str, _line(hydra.__version__))), facts.hydra
        raise ImageError(
            f"This host has hydra-core {hydra.__version__} (omegaconf {omegaconf.__version__}), "
            f"the image has hydra-core {theirs} (omegaconf {facts.omegaconf}): an older line, "
            f"which cannot read this host's configs.\nInstall hydra-core {ours} in the image, or "
            f"hydra-core {theirs} on this host."
        )


def check_user(facts: Facts, launching_uid: int, cap_add: tuple[str, ...]) -> None:
    """Raise ``OptionError`` where jobs could not write to the launching user's output folders.

    Root on the host gives the folders away; root in a container needs a capability for that.
    """
    override = facts.uid == 0 and any("DAC_OVERRIDE" in name.upper() for name in cap_add)
    if launching_uid not in (0, facts.uid) and not override:
        raise OptionError(
            f"hydra.launcher.user: the containers would run as uid {facts.uid}, which cannot write "
            f"to the output folders of uid {launching_uid}.\nUse hydra.launcher.user=host"
            + (", or hydra.launcher.cap_add=[DAC_OVERRIDE]." if facts.uid == 0 else ".")
        )


def check_git(facts: Facts, image: Image, *, ssh: bool) -> None:
    """Raise ``ImageError`` where jobs could not clone in the image."""
    missing = "git" if facts.git is None else "openssh-client" if ssh and not facts.ssh else None
    if missing is not None:
        raise ImageError(
            f"The image {image.reference} ({image.short}) has no {missing}, which containers need "
            "to clone the commit (hydra.launcher.delivery=clone).\nInstall it in the image "
            f"(RUN apt-get install --yes {missing}), or use hydra.launcher.delivery=copy."
        )


def _line(version: str) -> tuple[int, ...]:
    """Return major and minor of a version."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return tuple(int(number) for number in numbers.groups()) if numbers else ()


def _ask(engine: Engine, image: Image, user: str | None, gpus: bool, runtime: str | None) -> Facts:
    for executable in PYTHONS:
        try:
            code, output = engine.probe(_spec(image, executable, user, gpus, runtime), MAX_OUTPUT)
        except EngineError as error:
            if gpus and _about_gpus(str(error)):
                raise OptionError(
                    f"hydra.launcher.gpus: this engine cannot give a container any GPU ({error}).\n"
                    "Install the NVIDIA Container Toolkit on its machine, or set "
                    "hydra.launcher.gpus=0."
                ) from error
            if "executable file not found" in str(error) or "no such file" in str(error):
                continue
            raise
        return _read(image, executable, code, output)
    raise ImageError(
        f"The image {image.reference} ({image.short}) has no Python: neither "
        f"{' nor '.join(PYTHONS)} is on its PATH.\nUse an image with Python >= "
        f"{_dotted(MINIMUM_PYTHON)} and hydra-core."
    )


def _about_gpus(text: str) -> bool:
    return "device driver" in text or "nvidia" in text.lower() or "CDI" in text


def _read(image: Image, executable: str, code: int, output: str) -> Facts:
    text = output.rpartition("\n@facts@")[2]
    try:
        facts = json.loads(text)
        python = tuple(int(part) for part in facts["python"].split(".")[:2])
        found = _facts({**facts, "executable": executable})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ImageError(
            f"The image {image.reference} ({image.short}): its {executable} does not run "
            f"(exit code {code}): {output.strip()[-SHOWN:] or 'no output'}"
        ) from None
    if python < MINIMUM_PYTHON:
        raise ImageError(
            f"The image {image.reference} ({image.short}) has Python {found.python}; jobs need "
            f">= {_dotted(MINIMUM_PYTHON)}"
        )
    if not facts["hydra"]:
        reason = str(facts.get("import_error", ""))[:SHOWN]
        raise ImageError(
            f"The image {image.reference} ({image.short}) has no hydra-core that works "
            f"({reason}).\nAdd `RUN pip install hydra-core=={hydra.__version__}` to its Dockerfile."
        )
    return found


def _facts(content: dict[str, object]) -> Facts:
    return Facts(
        executable=_fact(content["executable"]),
        python=_fact(content["python"]),
        hydra=_fact(content["hydra"]),
        omegaconf=_fact(content["omegaconf"]),
        uid=int(str(content["uid"])),
        gid=int(str(content["gid"])),
        packages=_texts(content.get("packages")),
        gpus=_texts(content.get("gpus")),
        git=_text(content.get("git")),
        ssh=content.get("ssh") is True,
        passwd=None if (passwd := content.get("passwd")) is None else plain(str(passwd)),
        gpu_models=_texts(content.get("gpu_models")),
        gpu_driver=_text(content.get("gpu_driver")),
        gpu_parts=_pairs(content.get("gpu_parts")),
        system=_text(content.get("system")),
        libc=_text(content.get("libc")),
    )


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_fact(item) for item in value) if isinstance(value, list) else ()


def _pairs(value: object) -> tuple[tuple[str, str], ...]:
    items = value if isinstance(value, list) else []
    return tuple((str(one), str(other)) for one, other in items)


def _text(value: object) -> str | None:
    return None if value is None else _fact(value)


def _fact(value: object) -> str:
    """Return what an image says of itself, to be shown and written down."""
    return one_line(str(value)[:LONGEST])


def _spec(
    image: Image, executable: str, user: str | None, gpus: bool, runtime: str | None
) -> ContainerSpec:
    memory = 512 * 1024**2
    return ContainerSpec(
        name=f"hydra-docker-preflight-{os.getpid()}",
        image=image.id,
        command=(executable, "-c", QUESTIONS),
        working_dir="/",
        limits=Limits(cpus=1, memory=memory, memory_swap=memory, shm_size=memory, pids=256),
        boundary=Boundary(
            user=user,
            cap_drop=("ALL",),
            security_opt=("no-new-privileges:true",),
            network_mode="none",
            runtime=runtime,
            init=False,  # which would start where there is no Python, and fail in its own words
        ),
        gpus=Gpus(all=gpus),
        environment=(("HOME", "/"), ("PYTHONDONTWRITEBYTECODE", "1")),
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


def _cached(file: Path) -> Facts | None:
    try:
        return _facts(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _store(file: Path, facts: Facts) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({**asdict(facts), "packages": list(facts.packages)}))
        partial.replace(file)
    except OSError:
        return  # a cache that cannot be written costs a container the next time, no more
