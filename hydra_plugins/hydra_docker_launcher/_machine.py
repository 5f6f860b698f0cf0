"""Machine: what the launching process runs on and with, where it can explain a different number."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import hydra
import omegaconf

from hydra_plugins.hydra_docker_launcher import __version__

#: Instruction sets by which numerical libraries choose their code, by how their names begin.
_NUMERIC = ("sse4", "avx", "fma", "f16c", "amx", "asimd", "neon", "sve", "altivec", "vsx")


@dataclass(frozen=True, slots=True)
class Processor:
    """The model of the CPU, and those of its instruction sets that numerical code depends on."""

    model: str | None
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Software:
    """Versions of what has composed the configs."""

    python: str
    hydra: str
    omegaconf: str
    launcher: str


def software() -> Software:
    return Software(
        python=platform.python_version(),
        hydra=hydra.__version__,
        omegaconf=omegaconf.__version__,
        launcher=__version__,
    )


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """Return the processor of this machine, on which the engine runs too; see proc(5)."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value.strip())
    named = (fields.get(name) for name in ("model name", "cpu model", "cpu", "cpu part"))
    features = (fields.get("flags") or fields.get("features") or "").split()
    return Processor(
        model=next((name for name in named if name), None) or platform.processor() or None,
        features=tuple(sorted(name for name in features if name.startswith(_NUMERIC))),
    )
