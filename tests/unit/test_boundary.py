"""Boundary: what options open is told, once, in plain words; the defaults open nothing."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from hydra_plugins.hydra_docker_launcher import _boundary, _options, config
from hydra_plugins.hydra_docker_launcher._boundary import Surroundings

AROUND = Surroundings(home="/home/ada", sockets=("/run/user/9/docker.sock", *_boundary.SOCKETS))


def options(tmp_path, **given):
    node = OmegaConf.to_container(OmegaConf.merge(config._open_schema(), given), resolve=True)
    return _options.parse(node, environ={}, folder=tmp_path)


def told(tmp_path, **given):
    """Return the lines about a job's options, each without what it means."""
    parsed = options(tmp_path, **given)
    lines = _boundary.openings(parsed.job, parsed.sweep.user, AROUND)
    assert all(": " in line for line in lines)
    return [line.partition(": ")[0] for line in lines]


def test_defaults(tmp_path):
    """What a container may do unless options say more is nothing to warn of."""
    (tmp_path / "data").mkdir()
    harmless = {
        "gpus": 1,
        "runtime": "nvidia",
        "network_mode": "none",
        "user": "1000:1000",
        "volumes": [f"{tmp_path}/data:/data", "cache:/cache", "/dev/null:/null"],
        "devices": ["/dev/null"],
        "security_opt": ["no-new-privileges:true", "seccomp=builtin"],
    }
    assert told(tmp_path) == told(tmp_path, **harmless) == []


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({"user": "0"}, ["user=0"]),
        ({"user": "0:1000"}, ["user=0:1000"]),
        ({"user": "image"}, ["user=image"]),
        ({"cap_drop": []}, ["cap_drop=[]"]),
        ({"cap_add": ["SYS_ADMIN", "CAP_CHOWN"]}, ["cap_add=[SYS_ADMIN]", "cap_add=[CAP_CHOWN]"]),
        ({"security_opt": []}, ["security_opt=[]"]),
        (
            {"security_opt": ["no-new-privileges:false"]},
            ["security_opt=[no-new-privileges:false]"],
        ),
        (
            {"security_opt": ["no-new-privileges", "seccomp:unconfined", "apparmor=unconfined"]},
            ["security_opt=[seccomp:unconfined]", "security_opt=[apparmor=unconfined]"],
        ),
        (
            {"security_opt": ["no-new-privileges:true", "no-new-privileges:false"]},
            ["security_opt=[no-new-privileges:true,no-new-privileges:false]"],
        ),
        ({"security_opt": ["no-new-privileges:false", "no-new-privileges=true"]}, []),
        ({"network_mode": "host"}, ["network_mode=host"]),
        ({"network_mode": "container:db"}, ["network_mode=container:db"]),
        ({"devices": ["/dev/ptmx"]}, ["devices=[/dev/ptmx:/dev/ptmx:rwm]"]),
        ({"runtime": "own"}, ["runtime=own"]),
        ({"init": False}, ["init=false"]),
        ({"volumes": ["/:/host:ro"]}, ["volumes=[/:/host:ro]"]),
        ({"volumes": ["/run:/r:ro"]}, ["volumes=[/run:/r:ro]"]),
        ({"volumes": ["/etc:/e"]}, ["volumes=[/etc:/e]"]),
        ({"volumes": ["/etc/passwd:/p"]}, ["volumes=[/etc/passwd:/p]"]),
        ({"volumes": ["/etc:/e:ro"]}, ["volumes=[/etc:/e:ro]"]),
        ({"volumes": ["/proc:/p", "/sys:/s"]}, ["volumes=[/proc:/p]", "volumes=[/sys:/s]"]),
        ({"volumes": ["/sys:/s:ro"]}, []),
        ({"volumes": ["/home:/h:ro"]}, ["volumes=[/home:/h:ro]"]),
    ],
    ids=str,
)
def test_openings(tmp_path, given, lines):
    """Each option that opens something is named with its value."""
    assert told(tmp_path, **given) == lines


def test_sockets(tmp_path):
    """The engine's socket, and any other, are told apart from files; links do not hide them."""
    (tmp_path / "own.sock").touch()
    (tmp_path / "link").symlink_to("/run")
    parsed = options(tmp_path, volumes=["./own.sock:/s", "./link:/r"])
    own, run = _boundary.openings(parsed.job, "host", AROUND)
    assert own.startswith(f"volumes=[{tmp_path}/own.sock:/s]: a socket of the host")
    assert run.startswith("volumes=[/run:/r]: the engine's socket (/run/user/9/docker.sock)")


def test_once(tmp_path):
    """A sweep is told once of what several jobs open; of what a later batch opens, then."""
    one = options(tmp_path, network_mode="host").job
    other = options(tmp_path, network_mode="host", cap_add=["SYS_PTRACE"]).job
    known: set[str] = set()
    first = _boundary.warning([one, one], "host", AROUND, known)
    assert first is not None
    assert first.splitlines()[0] == _boundary.HEADING
    assert first.count("network_mode=host") == 1
    assert _boundary.warning([one], "host", AROUND, known) is None
    later = _boundary.warning([one, other], "host", AROUND, known)
    assert later is not None
    assert later.splitlines()[1:] == [
        "  hydra.launcher.cap_add=[SYS_PTRACE]: the memory of other processes that it sees"
    ]
