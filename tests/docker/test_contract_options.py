"""Every option of the boundary, seen from inside a container."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from sweep_command import Finished, MakeRepository

CAP_CHOWN, CAP_KILL = 1 << 0, 1 << 5
OTHER_USER = 12345


@pytest.fixture(scope="module")
def volume(api: docker.APIClient) -> Iterator[str]:
    name = str(api.create_volume()["Name"])
    yield name
    api.remove_volume(name, force=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    (data / "seen.txt").write_text("images")
    data.chmod(0o777)
    return data


@pytest.fixture(scope="module")
def sweep(volume: str, data: Path, make_repository: MakeRepository) -> Finished:
    repository = make_repository("inside", keep="all")
    repository.write(".gitignore", "job.env\nlocal/\n")
    repository.commit()
    repository.write("job.env", "# of the cluster\nFROM_FILE=file\nBOTH=file\nPASSED_BY_FILE\n")
    repository.write("local/note.txt", "relative")
    writes = ["/data/new.txt", "/data-ro/new.txt", "/etc/new.txt", "/scratch/new.txt"]
    reads = ["/data-ro/seen.txt", "/local/note.txt", "/dev/nothing"]
    finished = repository.sweep(
        f"try_to_write={writes}",
        f"try_to_read={reads}",
        "hydra.launcher.user=1234:2345",
        "hydra.launcher.read_only=true",
        "hydra.launcher.tmpfs=['/scratch:size=1m']",
        "hydra.launcher.cap_add=[CHOWN,KILL]",
        "hydra.launcher.security_opt=[]",
        "hydra.launcher.init=false",
        "hydra.launcher.network_mode=none",
        "hydra.launcher.extra_hosts=['db:10.1.2.3']",
        "hydra.launcher.devices=['/dev/null:/dev/nothing:r']",
        f"hydra.launcher.volumes=['{data}:/data','{data}:/data-ro:ro','./local:/local:ro',"
        f"'{volume}:/named']",
        "hydra.launcher.environment.BOTH=option",
        "hydra.launcher.environment.FLAG=true",
        "hydra.launcher.environment.PASSED=null",
        "hydra.launcher.environment.ABSENT=null",
        "hydra.launcher.env_file=job.env",
        environment={"PASSED": "from the host", "PASSED_BY_FILE": "as well"},
    )
    assert finished.status == 0, finished.output
    return finished


@pytest.fixture(scope="module")
def answers(sweep: Finished) -> dict[str, Any]:
    return sweep.job(0).json()


def test_user(answers: dict[str, Any]) -> None:
    """A uid that the image does not know has a name and a home, on a read-only image too."""
    assert (answers["uid"], answers["gid"]) == (1234, 2345)
    assert answers["user"]
    assert answers["home_use"] == "ok"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_ownership(sweep: Finished) -> None:
    """What the job writes belongs to the configured user."""
    facts = (sweep.job(0).folder / "answers.json").stat()
    assert (facts.st_uid, facts.st_gid) == (1234, 2345)


def test_read_only(answers: dict[str, Any], data: Path) -> None:
    """With read_only only volumes, tmpfs and the output folder can be written to."""
    assert answers["writes"] == {
        "/data/new.txt": "ok",
        "/data-ro/new.txt": "Read-only file system",
        "/etc/new.txt": "Read-only file system",
        "/scratch/new.txt": "ok",
    }
    assert (data / "new.txt").read_text() == "written"


def test_volumes(answers: dict[str, Any]) -> None:
    """Folders of the host (relative ones too) and named volumes are where they should be."""
    assert answers["reads"] == {
        "/data-ro/seen.txt": "images",
        "/local/note.txt": "relative",
        "/dev/nothing": "ok",
    }
    assert {"/data", "/data-ro", "/local", "/named", "/scratch"} <= set(answers["mounts"])


def test_capabilities(answers: dict[str, Any]) -> None:
    """cap_add is all that a container may get; security_opt=[] allows it to get that."""
    assert answers["bounding"] == CAP_CHOWN | CAP_KILL
    assert answers["no_new_privileges"] == "0"


def test_no_init(answers: dict[str, Any]) -> None:
    """With init=false the image's Python is the first process."""
    assert Path(answers["first_process"]).name.startswith("python")


def test_network(answers: dict[str, Any]) -> None:
    """network_mode=none leaves the loopback; extra_hosts are in /etc/hosts."""
    assert "eth0" not in answers["interfaces"]
    assert ["10.1.2.3", "db"] in answers["hosts"]


def test_environment(answers: dict[str, Any]) -> None:
    """A name without a value passes the host's value, if it has one; options win over files."""
    names = ("FROM_FILE", "BOTH", "FLAG", "PASSED", "ABSENT", "PASSED_BY_FILE")
    assert {name: answers["environment"].get(name) for name in names} == {
        "FROM_FILE": "file",
        "BOTH": "option",
        "FLAG": "true",
        "PASSED": "from the host",
        "ABSENT": None,
        "PASSED_BY_FILE": "as well",
    }


def test_values_are_not_written_down(sweep: Finished) -> None:
    """Values of environment variables stand in no file of the sweep's own."""
    for path in (sweep.folder / "sweep.json", sweep.job(0).folder / ".docker/container.json"):
        assert "from the host" not in path.read_text()


def test_image_user_and_host_network(make_repository: MakeRepository) -> None:
    """user=image runs as the image says, network_mode=host on the host's network."""
    repository = make_repository("inside", user="image", network_mode="host")
    finished = repository.sweep()
    assert finished.status == 0, finished.output
    answers = finished.job(0).json()
    assert answers["uid"] == 0
    assert answers["home"] != "/hydra/home"
    found = {name for _, name in socket.if_nameindex()}
    assert _lasting(answers["interfaces"]) == _lasting(found)


def _lasting(interfaces: Iterable[str]) -> set[str]:
    """Leave out those of other containers, which come and go."""
    return {name for name in interfaces if not name.startswith("veth")}


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root launches all tests as somebody else")
def test_another_launching_user(make_repository: MakeRepository) -> None:
    """A user who is not root, and whom the image does not know, gets files of their own."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        repository = make_repository("inside", root=root, keep="none")
        for path in (root / "inside", *(root / "inside").rglob("*")):
            os.chown(path, OTHER_USER, OTHER_USER, follow_symlinks=False)
        (root / "cache").mkdir()
        os.chown(root / "cache", OTHER_USER, OTHER_USER)
        executable, path = _python_for(OTHER_USER)
        finished = repository.sweep(
            executable=executable,
            user=OTHER_USER,
            group=OTHER_USER,
            extra_groups=_groups_that_may_use_the_engine(),
            environment={
                "HOME": folder,
                "USER": "grace",
                "XDG_CACHE_HOME": f"{folder}/cache",
                "PYTHONPATH": path,
            },
        )
        assert finished.status == 0, finished.output
        answers = finished.job(0).json()
        assert (answers["uid"], answers["gid"], answers["user"]) == (
            OTHER_USER,
            OTHER_USER,
            "grace",
        )
        assert answers["home_use"] == "ok"
        paths = [finished.folder, *finished.folder.rglob("*")]
        assert {(path.stat().st_uid, path.stat().st_gid) for path in paths} == {
            (OTHER_USER, OTHER_USER)
        }


def _groups_that_may_use_the_engine() -> list[int]:
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    path = Path(address.removeprefix("unix://"))
    return [path.stat().st_gid] if path.exists() and stat.S_ISSOCK(path.stat().st_mode) else []


def _python_for(user: int) -> tuple[str, str]:
    """Return a Python that ``user`` may run, and a PYTHONPATH with what the tests run on.

    The tests' own may lie in root's home: then the system's, if it is of the same version.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry and Path(entry).is_dir())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for executable in (sys.executable, f"/usr/bin/python{version}"):
        try:
            command = (executable, "-c", "import docker, git, hydra")
            environment = {"PYTHONPATH": path}
            subprocess.run(command, user=user, cwd="/", env=environment, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return executable, path
    pytest.skip("there is no Python here that another user may run")
