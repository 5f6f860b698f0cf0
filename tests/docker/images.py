"""Images that tests build for themselves."""

from __future__ import annotations

import fcntl
import io
import tarfile
from importlib import metadata
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

HYDRA = metadata.version("hydra-core")
PIP_INSTALL = "python3 -m pip install --no-cache-dir --disable-pip-version-check"


def build_hydra_image(api: docker.APIClient, base: str, version: str, suffix: str = "") -> str:
    """Build an image with a Python and a version of hydra-core, and nothing else."""
    dockerfile = f"FROM {base}\nRUN {PIP_INSTALL} hydra-core=={version}\n"
    tag = f"hydra-docker-test:hydra-{version}{suffix}"
    return build_image(api, tag, {"Dockerfile": dockerfile.encode()})


def build_image(api: docker.APIClient, tag: str, files: dict[str, bytes], **args: str) -> str:
    """Build an image on the host's network, where pip reaches the package index.

    Of tests that run at once, one builds it, and the others find it in the builder's cache.
    """
    lines: list[str] = []
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            for step in api.build(
                fileobj=tar(files),
                custom_context=True,
                tag=tag,
                buildargs=args,
                network_mode="host",
                rm=True,
                forcerm=True,
                decode=True,
            ):
                lines += step.get("stream", "").splitlines()
                if "error" in step:
                    log = "\n".join(lines[-20:])
                    pytest.fail(f"Could not build {tag}: {step['error']}\n{log}")
        except APIError as error:
            pytest.fail(f"Could not build {tag}: {error}", pytrace=False)
    return tag


def tar(files: dict[str, bytes]) -> io.BytesIO:
    """Return an archive that is the same for the same files: the builder's cache looks at it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as writer:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            writer.addfile(entry, io.BytesIO(content))
    archive.seek(0)
    return archive
