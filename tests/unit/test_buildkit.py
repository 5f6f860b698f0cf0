"""BuildKit: which command line can build with it, and what is said where none can.

The clients are scripts that answer as Docker's do.
"""

from __future__ import annotations

import os

import pytest

from hydra_plugins.hydra_docker_launcher import _buildkit
from hydra_plugins.hydra_docker_launcher._engine import BuildRequest, Need
from hydra_plugins.hydra_docker_launcher._errors import ImageError

MOUNT = Need("RUN --mount (line 2)", (20, 10))
LINK = Need("COPY --link (line 3)", (23, 0))
REQUEST = BuildRequest(
    tag="hydra-docker/x:1",
    dockerfile="docker/Dockerfile",
    text="FROM a\n",
    target="small",
    args=(("A", "b; touch c"),),
    network="host",
    labels=(("l", "$(touch m)"),),
    needs=(MOUNT,),
)


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Put clients on PATH, and nowhere else: by folder, version, plugin, engine, and its build."""
    folders = []

    def make(name, version, *, plugin=False, engine="ENGINE", build="exit 0"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "docker").write_text(
            "#!/bin/sh\n"
            'case "$1" in\n'
            f"version) echo {version};;\n"
            f"buildx) {'echo buildx' if plugin else 'exit 1'};;\n"
            f"info) echo {engine};;\n"
            f"build) {build};;\n"
            "esac\n"
        )
        (folder / "docker").chmod(0o755)
        folders.append(str(folder))
        monkeypatch.setenv("PATH", ":".join(folders))
        return folder

    monkeypatch.setattr(_buildkit, "_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    return make


def build(tmp_path, request=REQUEST, version="20.10.24"):
    shown = []
    context = tmp_path / "context"
    context.mkdir(exist_ok=True)
    _buildkit.build(request, context, shown.append, "ENGINE", version)
    return shown


def test_build(clients, tmp_path):
    """The first client that can; what is in the request is no shell's business."""
    clients("new", "28.2.2")
    clients("other", "28.2.2", plugin=True, engine="ANOTHER")
    clients(
        "old",
        "20.10.24",
        build='echo "$DOCKER_BUILDKIT"; for a; do echo "$a"; done; /bin/cat "${3#--file=}" >&2; '
        '/bin/ls "${3#--file=}.dockerignore"; echo "#1 sha256:$(printf %064d 0)"; '
        'printf "\\033[1mx\\n\\n"',
    )
    shown = build(tmp_path)

    dockerfile = shown[3].removeprefix("--file=")
    assert shown == [
        "1",
        "build",
        "--progress=plain",
        f"--file={dockerfile}",
        "--tag=hydra-docker/x:1",
        "--build-arg=A=b; touch c",
        "--label=l=$(touch m)",
        "--target=small",
        "--network=host",
        str(tmp_path / "context"),
        "FROM a",
        f"{dockerfile}.dockerignore",
        "x",
    ]


def test_build_that_fails(clients, tmp_path):
    """The builder's last lines."""
    clients("new", "28.2.2", plugin=True, build="/usr/bin/seq 1 30; exit 3")
    with pytest.raises(ImageError) as caught:
        build(tmp_path)
    assert str(caught.value) == (
        "Could not build the image from docker/Dockerfile (BuildKit, exit code 3).\n"
        "The builder's last lines:\n" + "\n".join(f"  {number}" for number in range(11, 31))
    )


def test_full_disk(clients, tmp_path):
    """Where the engine's disk is full, it says what to do."""
    clients("new", "28.2.2", plugin=True, build="echo 'x: no space left on device'; exit 1")
    with pytest.raises(ImageError, match="`docker system df` shows what takes the space"):
        build(tmp_path)


def test_build_that_is_left(clients, tmp_path):
    """Ctrl-C ends the client, and with it the build."""
    clients("new", "28.2.2", plugin=True, build='echo "$$"; exec /bin/sleep 60')
    shown = []

    def interrupt(line):
        shown.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _buildkit.build(REQUEST, tmp_path, interrupt, "ENGINE", "28.2.2")
    with pytest.raises(ProcessLookupError):
        os.kill(int(shown[0]), 0)


def test_no_client(clients, tmp_path):
    """What is missing, for each that there is."""
    with pytest.raises(ImageError, match="\n  there is no docker on PATH\n"):
        build(tmp_path)
    new = clients("new", "28.2.2")
    other = clients("other", "20.10.24", engine="ANOTHER")
    broken = clients("broken", "''")
    with pytest.raises(ImageError) as caught:
        build(tmp_path)
    assert str(caught.value) == (
        "The Dockerfile needs BuildKit (RUN --mount (line 2)), and no docker command line here can "
        f"build with it:\n  {new}/docker: version 28.2.2 without the plugin buildx\n"
        f"  {other}/docker: it talks to another engine\n  {broken}/docker: it does not answer\n"
        "Install Docker's buildx plugin (the package docker-buildx-plugin, or docker-buildx), or "
        "write the Dockerfile without them."
    )


def test_engine_that_is_too_old(clients, tmp_path):
    """What came with a newer Dockerfile syntax needs a newer engine, or a frontend of its own."""
    clients("old", "20.10.24")
    request = BuildRequest("t", "Dockerfile", "", None, (), None, (), needs=(MOUNT, LINK))
    with pytest.raises(ImageError) as caught:
        build(tmp_path, request)
    assert str(caught.value) == (
        "The Dockerfile has what the BuildKit of this engine (Docker 20.10.24) does not know: "
        "COPY --link (line 3).\nWrite `# syntax=docker/dockerfile:1` as its first line, which "
        "makes the engine pull a frontend that does, or use Docker 23 or newer."
    )
    assert build(tmp_path, request, version="23.0.1") == []
