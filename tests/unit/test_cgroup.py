"""Cgroup and nvidia-smi: what this machine tells of a container, to the documentation's letter."""

from __future__ import annotations

import os
import stat
import threading

import pytest
from fakes import PATIENCE

from hydra_plugins.hydra_docker_launcher import _docker_values, _nvidia
from hydra_plugins.hydra_docker_launcher._cgroup import Groups
from hydra_plugins.hydra_docker_launcher._engine import GpuSample, Sample
from hydra_plugins.hydra_docker_launcher._nvidia import Gpu, Nvidia, Reading
from hydra_plugins.hydra_docker_launcher._option_values import Gpus

ID = "1f" * 32
MIB = 1024**2

V1 = {
    "cpuacct/{}/cpuacct.usage": "2500000000\n",
    "memory/{}/memory.usage_in_bytes": "1000\n",
    "memory/{}/memory.stat": "inactive_file 1\ntotal_cache 700\ntotal_inactive_file 300\n",
    "memory/{}/cgroup.procs": "77\n78\n",
    "pids/{}/pids.current": "2\n",
    "blkio/{}/blkio.throttle.io_service_bytes_recursive": (
        "8:0 Read 10\n8:0 Write 20\n8:0 Sync 0\n8:0 Async 30\n8:0 Discard 0\n8:0 Total 30\n"
        "259:1 Read 1\n259:1 Write 2\n259:1 Total 3\nTotal 33\n"
    ),
}
V2 = {
    "cgroup.controllers": "cpu io memory pids\n",
    "{}/cpu.stat": "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n",
    "{}/memory.current": "1000\n",
    "{}/memory.stat": "anon 100\nfile 700\ninactive_anon 1\ninactive_file 300\nslab 5\n",
    "{}/cgroup.procs": "77\n78\n",
    "{}/pids.current": "2\n",
    "{}/io.stat": "8:0 rbytes=10 wbytes=20 rios=1 dbytes=0\n259:1 rbytes=1 wbytes=2\n",
}
DEV = (
    "Inter-|   Receive                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n"
    "    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n"
    "  eth0: 40 4 0 0 0 0 0 0 50 5 0 0 0 0 0 0\n"
    "  eth1:  2 4 0 0 0 0 0 0 3 5 0 0 0 0 0 0\n"
)
USED = {"cpu": 2.5, "memory": 700, "pids": 2, "read": 11, "written": 22}


def write(root, files, path):
    for name, content in files.items():
        file = root / name.format(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


@pytest.fixture
def machine(tmp_path):
    """Return a function that makes a machine's files, with the container's cgroup at a path."""

    def make(files, path):
        write(tmp_path / "cgroup", files, path)
        write(tmp_path / "proc", {"{}/net/dev": DEV}, "77")
        return Groups(tmp_path / "cgroup", tmp_path / "proc")

    return make


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("path", [f"docker/{ID}", f"system.slice/docker-{ID}.scope"])
def test_sample(machine, files, path):
    """Both versions, with both of Docker's drivers."""
    group = machine(files, path).find(ID)
    sample = group.sample(network=True)
    assert sample == Sample(sample.time, **USED, received=42, sent=53)
    assert group.processes() == (77, 78)
    assert machine(files, path).find("2e" * 32) is None


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_network_of_the_host(machine, files):
    """A container with network_mode=host has no traffic of its own: nothing is said of it."""
    sample = machine(files, f"docker/{ID}").find(ID).sample(network=False)
    assert (sample.received, sample.sent) == (None, None)


def test_network_of_a_process_that_has_ended(machine, tmp_path):
    """The network is found by any process of the container that is left."""
    group = machine(V2, f"docker/{ID}").find(ID)
    assert group.sample(network=True).sent == 53
    (tmp_path / "proc" / "77" / "net" / "dev").unlink()
    write(tmp_path / "proc", {"{}/net/dev": DEV.replace(" 50 ", " 60 ")}, "78")
    assert group.sample(network=True).sent == 63
    (tmp_path / "proc" / "78" / "net" / "dev").unlink()
    assert group.sample(network=True).sent is None


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_container_that_has_ended(machine, tmp_path, files):
    """Its files are gone: no sample, and no error."""
    group = machine(files, f"docker/{ID}").find(ID)
    for name in files:
        if "{}" in name:
            (tmp_path / "cgroup" / name.format(f"docker/{ID}")).unlink()
    assert group.sample(network=True) is None
    assert group.processes() == ()


@pytest.mark.parametrize("files", [V1, V2], ids=["v1", "v2"])
def test_without_controllers(machine, tmp_path, files):
    """A machine that counts no processes and no block I/O: the rest is told."""
    group = machine(files, f"docker/{ID}").find(ID)
    for name in files:
        if "pids." in name or "io." in name:
            (tmp_path / "cgroup" / name.format(f"docker/{ID}")).unlink()
    sample = group.sample(network=False)
    assert sample == Sample(sample.time, 2.5, 700)


@pytest.mark.parametrize(
    ("files", "lines"),
    [
        (V1, "9:name=systemd:/\n4:hugetlb,memory:/{}\n1:cpu:/{}\n0::/\n"),
        (V2, "0::/{}\n"),
    ],
    ids=["v1", "v2"],
)
def test_somewhere_else(machine, tmp_path, files, lines):
    """A cgroup_parent of the engine, or an engine without root: a process tells where it is.

    The others are then where that one is.
    """
    parent = "user.slice/user-1000.slice/{odd}"
    groups = machine(files, f"{parent}/docker-{ID}.scope")
    write(
        tmp_path / "proc", {"{}/cgroup": lines.replace("{}", f"{parent}/docker-{ID}.scope")}, "77"
    )
    write(tmp_path / "proc", {"{}/cgroup": "0::/x\n4:memory:/x\n"}, "78")
    assert groups.find(ID) is None
    # The numbers of processes on another machine are no proof.
    assert groups.find_by_process(ID, 78) is None
    assert groups.find_by_process(ID, 79) is None
    assert groups.find_by_process(ID, 77).sample(network=False).memory == 700
    other = "2e" * 32
    write(tmp_path / "cgroup", files, f"{parent}/docker-{other}.scope")
    assert groups.find(other).sample(network=False).memory == 700


# ---- the engine's own statistics -----------------------------------------------------------------

STATS = {
    "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
    "memory_stats": {"usage": 1000, "stats": {"total_inactive_file": 300, "inactive_file": 1}},
    "pids_stats": {"current": 2},
    "blkio_stats": {
        "io_service_bytes_recursive": [
            {"major": 8, "minor": 0, "op": "Read", "value": 10},
            {"major": 8, "minor": 0, "op": "Write", "value": 20},
            {"major": 8, "minor": 0, "op": "Total", "value": 30},
            {"major": 259, "minor": 0, "op": "read", "value": 1},
            {"major": 259, "minor": 0, "op": "write", "value": 2},
        ]
    },
    "networks": {"eth0": {"rx_bytes": 40, "tx_bytes": 50}, "eth1": {"rx_bytes": 2, "tx_bytes": 3}},
}


def test_statistics():
    """An engine's words, of both versions, mean the same as the files."""
    expected = Sample(7.0, **USED, received=42, sent=53)
    assert _docker_values.sample(STATS, 7.0) == expected
    v2 = {"usage": 1000, "stats": {"inactive_file": 300}}
    assert _docker_values.sample({**STATS, "memory_stats": v2}, 7.0) == expected


def test_statistics_of_little():
    """No network of its own, no block device, or no container that runs."""
    blkio = {"io_service_bytes_recursive": None}
    alone = {k: v for k, v in STATS.items() if k != "networks"} | {"blkio_stats": blkio}
    assert _docker_values.sample(alone, 7.0) == Sample(7.0, 2.5, 700, 2)
    assert _docker_values.sample({**STATS, "memory_stats": {}}, 7.0) is None


# ---- GPUs ----------------------------------------------------------------------------------------

GPUS = (
    "GPU-a, 0, 1000, 24576, 35\n"
    "GPU-b, 1, 300, 24576, [N/A]\n"
    "GPU-c, 2, [GPU is lost], [GPU is lost], [GPU is lost]\n"
)
APPS = "77, GPU-a, 800\n78, GPU-a, 100\n99, GPU-b, 250\n"
A, B = Gpu("GPU-a", 0, 1000 * MIB, 24576 * MIB, 35.0), Gpu("GPU-b", 1, 300 * MIB, 24576 * MIB)


def test_answers():
    """Lines that say nothing of a number are left out."""
    apps = {(77, "GPU-a"): 800 * MIB, (78, "GPU-a"): 100 * MIB, (99, "GPU-b"): 250 * MIB}
    assert _nvidia.reading(GPUS, APPS) == Reading((A, B), apps)
    assert _nvidia.reading(GPUS, None) == Reading((A, B), None)
    assert _nvidia.reading("", "") == Reading((), {})
    assert _nvidia.reading("", "77, GPU-a, [N/A]\n").apps is None


@pytest.mark.parametrize(
    ("gpus", "processes", "expected"),
    [
        (Gpus(ids=("GPU-a",)), (77, 78), {0: 900}),
        (Gpus(ids=("0", "1")), (77,), {0: 800, 1: 0}),
        (Gpus(all=True), (99,), {0: 0, 1: 250}),
        (Gpus(count=1), (99,), {1: 250}),
        (Gpus(count=1), (5,), {}),
    ],
)
def test_gpus_of_a_container(gpus, processes, expected):
    """Its GPUs by id, by number, or those that its processes use; and what these use of them."""
    found = _nvidia.reading(GPUS, APPS).of(gpus, processes)
    assert {sample.index: sample.memory // MIB for sample in found} == expected


def test_processes_that_are_not_told():
    """Without processes (as in some virtual machines), all that a GPU uses is its container's."""
    found = _nvidia.reading(GPUS, "77, GPU-a, [N/A]\n").of(Gpus(ids=("GPU-a",)), (77,))
    assert found == (GpuSample(0, 1000 * MIB, 24576 * MIB, 35.0),)


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Return a function that puts an ``nvidia-smi`` on the path; its calls are in a file."""

    def make(code=0):
        program = tmp_path / "nvidia-smi"
        (tmp_path / "gpus").write_text(GPUS)
        (tmp_path / "apps").write_text(APPS)
        program.write_text(
            f'#!/bin/sh\ncd {tmp_path}\necho "$@" >> calls\n'
            f"case $1 in --query-gpu=*) cat gpus;; *) cat apps;; esac\nexit {code}\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return tmp_path / "calls"

    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + "/usr/bin:/bin")
    return make


def answer(nvidia):
    """Return what has been told, when nobody is asked any more."""
    nvidia.read()
    for thread in threading.enumerate():
        if thread.name == "nvidia-smi":
            thread.join(PATIENCE)
    return nvidia.read()


def test_call(smi):
    """It is asked with two calls, once for all containers."""
    calls = smi()
    nvidia = Nvidia()
    assert nvidia.read() == _nvidia.NOTHING  # at once: it is just being asked
    assert answer(nvidia) == answer(nvidia) == _nvidia.reading(GPUS, APPS)
    csv = "--format=csv,noheader,nounits"
    assert calls.read_text().splitlines() == [
        f"--query-gpu=uuid,index,memory.used,memory.total,utilization.gpu {csv}",
        f"--query-compute-apps=pid,gpu_uuid,used_memory {csv}",
    ]


def test_driver_that_does_not_answer(smi, monkeypatch):
    """It is asked three times, and then no more."""
    monkeypatch.setattr(_nvidia, "INTERVAL", 0.0)
    monkeypatch.setattr(_nvidia, "SHARE", 1e9)
    calls = smi(code=9)
    nvidia = Nvidia()
    assert [answer(nvidia) for _ in range(5)] == [_nvidia.NOTHING] * 5
    assert len(calls.read_text().splitlines()) == 3


def test_machine_without_gpus(tmp_path, monkeypatch):
    """Nothing is started."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert answer(Nvidia()) == _nvidia.NOTHING
