"""BuildKit: builds with the command line's ``docker build``, which alone can speak with it."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import _refusal
from ._engine import BuildRequest, Need, Show
from ._errors import ImageError
from ._harmless import lines

#: Where distributions put the client, beside PATH.
_FOLDERS = ("/usr/bin", "/usr/local/bin")
#: The client has BuildKit built in before this version; later it is the plugin buildx.
_PLUGIN_SINCE = (23, 0)
_PATIENCE = 30  # seconds that a client has for an answer
#: Lines that only tell a step's id.
_NOISE = re.compile(r"#\d+ sha256:[0-9a-f]{64}")
_LAST = 20  # lines of the builder that an error shows


def build(request: BuildRequest, context: Path, show: Show, engine: str, version: str) -> None:
    """Build with BuildKit on the engine that has the id ``engine``.

    Raises ``ImageError`` with what is missing, or with the builder's last lines.
    """
    _require(request.needs, _version(version), version)
    client = _client(request.needs, engine)
    last: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hydra-docker-") as folder:
        dockerfile = Path(folder, "Dockerfile")
        dockerfile.write_text(request.text, encoding="utf-8", newline="")
        # The context holds what is wanted, and is not to be thinned out by its own .dockerignore.
        Path(folder, "Dockerfile.dockerignore").write_text("# nothing\n")
        command = (client, *_arguments(request, dockerfile), str(context))
        with _running(command) as process:
            for line in _lines(process):
                show(line)
                last = [*last[1 - _LAST :], line]
            status = process.wait()
    if status != 0:
        raise ImageError(
            f"Could not build the image from {request.dockerfile} (BuildKit, exit code {status})."
            "\nThe builder's last lines:\n"
            + "\n".join(f"  {line}" for line in last)
            + _refusal.advice("\n".join(last))
        )


def _arguments(request: BuildRequest, dockerfile: Path) -> Iterator[str]:
    yield "build"
    yield "--progress=plain"
    yield f"--file={dockerfile}"
    yield f"--tag={request.tag}"
    for name, value in request.args:
        yield f"--build-arg={name}={value}"
    for name, value in request.labels:
        yield f"--label={name}={value}"
    if request.target is not None:
        yield f"--target={request.target}"
    if request.network is not None:
        yield f"--network={request.network}"


def _require(needs: Sequence[Need], version: tuple[int, int], shown: str) -> None:
    newer = [need.what for need in needs if need.since > version]
    if newer:
        raise ImageError(
            f"The Dockerfile has what the BuildKit of this engine (Docker {shown}) does not know: "
            f"{', '.join(newer)}.\nWrite `# syntax=docker/dockerfile:1` as its first line, which "
            "makes the engine pull a frontend that does, or use Docker 23 or newer."
        )


def _client(needs: Sequence[Need], engine: str) -> str:
    """Return a command line's client that has BuildKit and talks to this very engine."""
    refused = []
    for path in _candidates():
        missing = _missing(path, engine)
        if missing is None:
            return path
        refused.append(f"  {path}: {missing}")
    found = "\n".join(refused) or "  there is no docker on PATH"
    raise ImageError(
        f"The Dockerfile needs BuildKit ({', '.join(need.what for need in needs)}), and no docker "
        f"command line here can build with it:\n{found}\nInstall Docker's buildx plugin (the "
        "package docker-buildx-plugin, or docker-buildx), or write the Dockerfile without them."
    )


def _candidates() -> list[str]:
    folders = (*os.environ.get("PATH", os.defpath).split(os.pathsep), *_FOLDERS)
    paths = (Path(folder, "docker") for folder in folders if folder)
    usable = (path for path in paths if path.is_file() and os.access(path, os.X_OK))
    return list({str(path.resolve()): str(path) for path in reversed([*usable])}.values())[::-1]


def _missing(path: str, engine: str) -> str | None:
    """Return what a client lacks to build with BuildKit on this engine."""
    answer = _ask(path, "version", "--format", "{{.Client.Version}}")
    if not answer:
        return "it does not answer"
    has_plugin = _version(answer) < _PLUGIN_SINCE or _ask(path, "buildx", "version")
    if not has_plugin:
        return f"version {answer} without the plugin buildx"
    other = _ask(path, "info", "--format", "{{.ID}}")
    return None if other == engine else "it talks to another engine"


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _environment() -> dict[str, str]:
    """Return the environment of a client: BuildKit, in the engine itself, one plain image."""
    inherited = {name: value for name, value in os.environ.items() if name != "BUILDX_BUILDER"}
    return {
        **inherited,
        "DOCKER_BUILDKIT": "1",
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        "DOCKER_CLI_HINTS": "false",
    }


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a client; where the block is left early, end it, which ends the build."""
    # In a session of its own: Ctrl-C reaches the launcher, which then ends it.
    with subprocess.Popen(
        command,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    for piece in process.stdout or ():
        for line in lines(piece):
            if _NOISE.fullmatch(line) is None:
                yield line


def _version(text: str) -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", text)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
