"""Host and image may have different versions of Python, and of Hydra."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import docker
import pytest
from images import HYDRA, build_hydra_image, build_image
from sweep_command import APPS, MakeRepository

ROOT = APPS.parents[1]
#: Debian's name -> its Python: the oldest and the newest. All other tests have the one between.
SUITES = {"bullseye": "3.9", "trixie": "3.13"}
#: What setup.py asks for, but MLflow, which takes long to install and is not used here.
NEEDED = (
    f"hydra-core=={HYDRA}",
    "docker",
    "gitpython",
    "pyyaml",
    'tomli; python_version < "3.11"',
    "cloudpickle",
)


def host_pythons() -> list[str]:
    """Return the interpreters of this machine that the launcher supports, one per version."""
    places = [Path(folder) for folder in os.get_exec_path()]
    places += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    found = {}
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        for place in places:
            python = place / f"python{version}"
            if python.is_file() and _version(python) == version:
                found.setdefault(version, str(python))
    return list(found.values())


def _version(python: Path) -> str:
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run((python, "-c", asked), capture_output=True, text=True, check=False)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def images(api: docker.APIClient) -> dict[str, str]:
    """Images with each Python, and this host's Hydra."""
    made = {}
    for suite, python in SUITES.items():
        done = subprocess.run(
            (ROOT / "scripts" / "base-image", suite), check=True, capture_output=True, text=True
        )
        made[python] = build_hydra_image(api, done.stdout.strip(), HYDRA, f"-{suite}")
    return made


@pytest.fixture(scope="module", params=host_pythons(), ids=lambda python: Path(python).name)
def host_python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter of this machine, with what the launcher needs when MLflow is off."""
    if _version(Path(request.param)) == _version(Path(sys.executable)):
        return sys.executable
    folder = tmp_path_factory.mktemp("host") / "venv"
    subprocess.run((request.param, "-m", "venv", folder), check=True)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", *NEEDED)
    subprocess.run(pip, check=True, capture_output=True)
    (site,) = folder.glob("lib/python*/site-packages")
    shutil.copytree(ROOT / "hydra_plugins", site / "hydra_plugins")
    return str(folder / "bin" / "python")


def test_python_of_host_and_image(
    make_repository: MakeRepository, host_python: str, images: dict[str, str]
) -> None:
    """Jobs with types, paths and errors go from every Python of a host to those of the images."""
    for python, image in images.items():
        repository = make_repository("typed", image=image, keep="none")
        finished = repository.sweep("how=succeed,fail", executable=host_python)
        assert finished.outcomes == ["completed", "error"], finished.output
        answers = finished.job(0).json()
        assert answers.pop("python") == python
        assert answers == {"path": "/data/x", "is_path": True, "is_color": True, "size": [2, 3]}
        assert "ValueError: as asked" in finished.output
        assert 'app.py", line ' in finished.output


def test_older_hydra_in_the_image(
    make_repository: MakeRepository, api: docker.APIClient, base_image: str
) -> None:
    """An image whose Hydra cannot read this host's configs is refused before job 0, naming both.

    The next line of Hydra reads those of the one before.
    """
    other = "1.4.0rc3" if HYDRA.startswith("1.3") else "1.3.8"
    image = build_hydra_image(api, base_image, other)
    finished = make_repository("typed", image=image, keep="none").sweep("how=succeed")
    if other.startswith("1.4"):
        assert finished.outcomes == ["completed"], finished.output
    else:
        assert finished.status == 1
        assert f"This host has hydra-core {HYDRA}" in finished.output
        assert f"the image has hydra-core {other}" in finished.output


def test_too_old_python(
    make_repository: MakeRepository, api: docker.APIClient, base_image: str
) -> None:
    """A Python that the worker cannot run on is refused before job 0."""
    pretender = (
        "#!/bin/sh\n"
        "exec /usr/bin/python3 -c \"import sys; sys.version_info = (3, 8, 20, 'final', 0); "
        'exec(sys.argv[1])" "$2"\n'
    )
    dockerfile = (
        f"FROM {base_image}\nCOPY python3 /usr/local/bin/python3\n"
        "RUN chmod +x /usr/local/bin/python3\n"
    )
    files = {"Dockerfile": dockerfile.encode(), "python3": pretender.encode()}
    image = build_image(api, "hydra-docker-test:old", files)
    finished = make_repository("typed", image=image, keep="none").sweep("how=succeed")
    assert finished.status == 1
    assert "has Python 3.8.20; jobs need >= 3.9" in finished.output
