"""A package of the repository that is installed with ``pip install --editable`` on the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker
import pytest
from images import build_image
from sweep_command import Finished, MakeRepository, Repository

BIN = ".venv/bin"
#: How a user starts it, in the environment's PATH.
STARTS: Mapping[str, Mapping[str, Any]] = {
    "console script": {"executable": "env", "script": "train-it"},
    "module": {"executable": "env", "python": ("python", "-m"), "script": "trainer.train"},
}


@pytest.fixture(scope="module")
def image(api: docker.APIClient, hydra_image: str) -> str:
    """An image that has an older version of the package."""
    dockerfile = f"FROM {hydra_image}\nENV PYTHONPATH=/opt/old\nCOPY trainer /opt/old/trainer\n"
    files = {
        "Dockerfile": dockerfile,
        "trainer/__init__.py": "",
        "trainer/model.py": "FACTOR = -1\n",
        "trainer/train.py": "raise AssertionError('the image has an older version')\n",
    }
    content = {name: text.encode() for name, text in files.items()}
    return build_image(api, "hydra-docker-test:installed", content)


@pytest.fixture(scope="module", params=["flat layout", "src layout"])
def repository(
    request: pytest.FixtureRequest, make_repository: MakeRepository, image: str
) -> Repository:
    """The package, installed into a virtual environment in the repository, then edited.

    Of a flat layout only a finder knows where the package is; of src, an entry of ``sys.path``.
    """
    repository = make_repository("installed", image=image, keep="none", dirty="ignore")
    package = repository.root / "trainer"
    if request.param == "src layout":
        (repository.root / "src").mkdir()
        package = package.rename(repository.root / "src/trainer")
    repository.commit()
    install(repository.root)
    (package / "model.py").write_text("FACTOR = 99\n")
    return repository


def install(root: Path) -> None:
    """Install a package in a virtual environment that has what this interpreter has."""
    subprocess.run((sys.executable, "-m", "venv", "--without-pip", root / ".venv"), check=True)
    (site,) = root.glob(".venv/lib/python*/site-packages")
    folders = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in folders]
    (site / "of_the_tests.pth").write_text("".join(lines))
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    pip = (root / BIN / "python", "-m", "pip", "install", "--quiet", *offline)
    subprocess.run((*pip, "--editable", "."), cwd=root, check=True)


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_editable_install(repository: Repository, start: Mapping[str, Any]) -> None:
    """The container runs the commit's package: not the working tree's, which runs on the host with
    the basic launcher, and not the image's. All else is the same.
    """

    def sweep(*overrides: str) -> Finished:
        path = os.pathsep.join([str(repository.root / BIN), os.environ["PATH"]])
        finished = repository.sweep("lr=1,2", *overrides, environment={"PATH": path}, **start)
        assert finished.status == 0, finished.output
        return finished

    basic, docker = sweep("hydra/launcher=basic"), sweep()

    assert docker.outcomes == ["completed", "completed"]
    for number, lr in enumerate((1, 2)):
        on_the_host = json.loads((basic.folder / str(number) / "answers.json").read_text())
        assert on_the_host["value"] == 99 * lr
        assert docker.job(number).json() == {**on_the_host, "value": 10 * lr}
