"""What the launching process runs on and with."""

from __future__ import annotations

import platform

import hydra
import omegaconf
import pytest

from hydra_plugins import hydra_docker_launcher
from hydra_plugins.hydra_docker_launcher._machine import (
    Processor,
    Software,
    processor,
    software,
)

X86 = """processor\t: 0
model name\t: Fast(R) 9000 CPU @ 3.00GHz
flags\t\t: fpu sse2 ssse3 sse4_2 avx2 fma avx512f

processor\t: 1
model name\t: another one
"""
ARM = """processor\t: 0
Features\t: fp asimd sve crc32
CPU part\t: 0xd40
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (X86, Processor("Fast(R) 9000 CPU @ 3.00GHz", ("avx2", "avx512f", "fma", "sse4_2"))),
        (ARM, Processor("0xd40", ("asimd", "sve"))),
    ],
)
def test_processor(tmp_path, text, found):
    """The first CPU's model, and the instruction sets by which libraries choose their code."""
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert processor(file) == found


def test_no_cpuinfo(tmp_path):
    """Where the kernel tells nothing, what Python knows is taken."""
    assert processor(tmp_path / "none") == Processor(platform.processor() or None, ())


def test_software():
    """The versions that have composed the configs."""
    assert software() == Software(
        python=platform.python_version(),
        hydra=hydra.__version__,
        omegaconf=omegaconf.__version__,
        launcher=hydra_docker_launcher.__version__,
    )
