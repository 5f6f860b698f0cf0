"""A real Docker engine, the images that the jobs run in, and repositories with toy apps."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from containers import MakeSpec, shell
from docker.errors import DockerException, ImageNotFound
from images import HYDRA, PIP_INSTALL, build_hydra_image, build_image, tar
from mlflow_server import mlflow_server
from registry import running_registry
from sweep_command import MakeRepository, Repository, command_environment

BASE = os.environ.get("HYDRA_DOCKER_TEST_BASE") or "hydra-docker-launcher-base:bookworm"
APT = "apt-get update -qq && apt-get install -y -qq --no-install-recommends"
DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(scope="session")
def api() -> docker.APIClient:
    """The engine's API. Without an engine these tests fail: the contract is not tested then."""
    try:
        client = docker.from_env(timeout=120)
        client.ping()
    except DockerException as error:
        pytest.fail(
            f"The tests in tests/docker need a Docker engine, and none answers: {error}\n"
            "Start one, or run them as `scripts/with-engine scripts/test`.",
            pytrace=False,
        )
    return client.api


@pytest.fixture(scope="session")
def base_image(api: docker.APIClient) -> str:
    """An image with Python and pip, without hydra-core."""
    try:
        api.inspect_image(BASE)
    except ImageNotFound:
        pytest.fail(
            f"The engine has no image {BASE}: make it with `scripts/base-image`, or name another "
            "one that has Python and pip in HYDRA_DOCKER_TEST_BASE.",
            pytrace=False,
        )
    return BASE


@pytest.fixture(scope="session")
def hydra_image(api: docker.APIClient, base_image: str) -> str:
    """An image with Python and the host's version of hydra-core, and nothing else."""
    return build_hydra_image(api, base_image, HYDRA)


@pytest.fixture(scope="session")
def git_image(api: docker.APIClient, hydra_image: str) -> str:
    """An image with git, git-lfs and an ssh client as well."""
    dockerfile = f"FROM {hydra_image}\nRUN {APT} git git-lfs openssh-client\n"
    return build_image(api, f"{hydra_image}-git", {"Dockerfile": dockerfile.encode()})


@pytest.fixture(scope="session")
def mlflow_image(api: docker.APIClient, base_image: str) -> str:
    """The example's image, with MLflow's client, and with the host's version of hydra-core."""
    files = {path.name: path.read_bytes() for path in DIGITS.iterdir() if path.is_file()}
    digits = build_image(api, "hydra-docker-test:digits", files, BASE_IMAGE=base_image)
    dockerfile = f"FROM {digits}\nRUN {PIP_INSTALL} hydra-core=={HYDRA}\n"
    tag = f"hydra-docker-test:mlflow-hydra-{HYDRA}"
    return build_image(api, tag, {"Dockerfile": dockerfile.encode()})


@pytest.fixture(scope="session")
def empty_image(api: docker.APIClient) -> str:
    """An image with one text file: no Python, no shell."""
    tag = "hydra-docker-test:empty"
    if not api.images(tag):
        api.import_image_from_data(tar({"README": b"nothing here\n"}).read(), *tag.split(":"))
    return tag


@pytest.fixture
def mark() -> str:
    """The label of a test's containers, and their name: other tests run beside it."""
    return f"hydra-docker-test-{secrets.token_hex(4)}"


@pytest.fixture
def make_spec(api: docker.APIClient, base_image: str, mark: str) -> Iterator[MakeSpec]:
    """Describe containers that run a shell command; whatever is left of them is removed."""
    yield lambda command, name=mark: shell(base_image, command, mark, name)
    for container in api.containers(all=True, filters={"label": mark}):
        api.remove_container(container["Id"], v=True, force=True)


@pytest.fixture(scope="session")
def registry_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="session")
def registry(api: docker.APIClient, registry_folder: Path) -> Iterator[str]:
    """The ``host:port`` of a registry that everybody may push to."""
    with running_registry(api, registry_folder) as address:
        yield address


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server on this machine's loopback address only."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of the commands, with a cache of its own."""
    return command_environment(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def make_repository(
    api: docker.APIClient,
    hydra_image: str,
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[MakeRepository]:
    """Make repositories from apps of ``tests/apps``; their commands run without MLflow."""
    made: list[Repository] = []

    def make(app: str, image: str = hydra_image, root: Path | None = None, **defaults: str) -> Any:
        options = {
            "hydra/launcher": "docker",
            "hydra.launcher.image": image,
            "hydra.launcher.stop_grace_period": "1s",
            "hydra.launcher.mlflow.enabled": "false",
            # Several tests run at once: their sweeps would wait for each other.
            "hydra.launcher.admission": "sweep",
        }
        folder = (root or tmp_path_factory.mktemp("repository")) / app
        options |= {f"hydra.launcher.{name}": value for name, value in defaults.items()}
        made.append(Repository(folder.resolve(), app, api, environment, options))
        return made[-1]

    yield make
    for repository in made:
        repository.clean_up()
