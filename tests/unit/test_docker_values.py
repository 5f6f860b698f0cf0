"""The engine's words and this project's values. What it is asked for is in tests/docker."""

from __future__ import annotations

import pytest

from hydra_plugins.hydra_docker_launcher import _docker_values
from hydra_plugins.hydra_docker_launcher._capacity import leased
from hydra_plugins.hydra_docker_launcher._engine import (
    Boundary,
    ContainerSpec,
    Found,
    Limits,
    Occupant,
)
from hydra_plugins.hydra_docker_launcher._errors import ImageError
from hydra_plugins.hydra_docker_launcher._option_values import NO_GPUS, Gpus

ENTRY = {
    "Id": "c" * 64,
    "Names": ["/other/alias", "/train-0"],
    "Labels": {"a": "b"},
    "State": "exited",
    "Created": 1700000000,
    "ImageID": "sha256:" + "1" * 64,
}


def test_container():
    """A container has the name that is its own, not that of a link to it."""
    found = Found(
        id=ENTRY["Id"],
        name="train-0",
        labels={"a": "b"},
        status="exited",
        created=1700000000.0,
        image=ENTRY["ImageID"],
    )
    assert _docker_values.container(ENTRY) == found
    bare = {**ENTRY, "Names": None, "Labels": None}
    assert _docker_values.container(bare).name == "c" * 12
    assert _docker_values.container(bare).labels == {}


def test_one_attempt():
    """Two containers are for one attempt where sweep, job and attempt are known and equal."""
    labels = {"hydra.docker.sweep": "s", "hydra.docker.job": "0", "hydra.docker.attempt": "1"}
    assert _docker_values.of_one_attempt(labels, {**labels, "hydra.docker.run_id": "r"})
    for label in labels:
        without = {name: value for name, value in labels.items() if name != label}
        assert not _docker_values.of_one_attempt(labels, {**labels, label: "another"})
        assert not _docker_values.of_one_attempt(without, without)


def test_progress():
    """A line for each change of a layer; a failure says what to do where that is known."""
    steps = [
        {"status": "Pulling from app", "id": "1"},
        {"status": "Downloading", "id": "a"},
        {"status": "Downloading", "id": "a"},
        {"status": "Download complete", "id": "a"},
    ]
    lines = [*_docker_values.progress(steps, "pull the image app")]
    assert lines == ["1: Pulling from app", "a: Downloading", "a: Download complete"]
    full = [{"error": "write /var/lib/docker/tmp/x: no space left on device"}]
    with pytest.raises(ImageError, match=r"Could not pull the image app: write .*\n.*is full"):
        list(_docker_values.progress(full, "pull the image app"))


@pytest.mark.parametrize(
    ("pools", "address"),
    [
        ([{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}], "172.17.0.1"),
        ([{"Subnet": "172.18.0.0/16"}], "172.18.0.1"),
        ([], None),
        (None, None),
    ],
)
def test_gateway(pools, address):
    """The host's address on the bridge: what the engine says, else the first of the subnet."""
    assert _docker_values.gateway({"IPAM": {"Config": pools}}) == address


# ---- what runs -----------------------------------------------------------------------------------


def inspected(environment=(), **host):
    return {
        "Id": "c",
        "Name": "/train-0",
        "Config": {"Labels": {"a": "b"}, "Env": list(environment)},
        "HostConfig": {"NanoCpus": 0, "Memory": 0, "Runtime": "runc", **host},
    }


@pytest.mark.parametrize(
    ("host", "cpus"),
    [
        ({}, None),
        ({"NanoCpus": 1_500_000_000}, 1.5),
        ({"CpuQuota": 50_000}, 0.5),
        ({"CpuQuota": 400_000, "CpuPeriod": 200_000}, 2.0),
        ({"CpuQuota": -1}, None),
        ({"CpusetCpus": "0-2,7"}, 4.0),
        ({"CpusetCpus": "0-2", "NanoCpus": 1_000_000_000}, 1.0),
    ],
)
def test_cpus_of_what_runs(host, cpus):
    """However Docker was told, a container has that many CPUs at most."""
    found = Occupant("c", "train-0", {"a": "b"}, cpus, 7, NO_GPUS)
    assert _docker_values.occupant(inspected(**host, Memory=7)) == found


def test_memory_of_what_runs():
    """0 is Docker's word for no limit."""
    assert _docker_values.occupant(inspected()).memory is None


@pytest.mark.parametrize(
    ("host", "variables", "gpus"),
    [
        ({"DeviceRequests": [{"DeviceIDs": ["GPU-1"], "Count": 0}]}, (), Gpus(ids=("GPU-1",))),
        ({"DeviceRequests": [{"DeviceIDs": None, "Count": -1}]}, (), Gpus(all=True)),
        ({"DeviceRequests": [{"DeviceIDs": None, "Count": 2}]}, (), Gpus(count=2)),
        ({"DeviceRequests": [{"DeviceIDs": ["nvidia.com/gpu=1"]}]}, (), Gpus(ids=("1",))),
        ({"DeviceRequests": [{"DeviceIDs": ["nvidia.com/gpu=all"]}]}, (), Gpus(all=True)),
        ({"Runtime": "nvidia"}, ("NVIDIA_VISIBLE_DEVICES=0,GPU-2",), Gpus(ids=("0", "GPU-2"))),
        ({"Runtime": "nvidia"}, ("A=B", "NVIDIA_VISIBLE_DEVICES=all"), Gpus(all=True)),
        ({"Runtime": "nvidia"}, ("NVIDIA_VISIBLE_DEVICES=void",), NO_GPUS),
        ({"Runtime": "nvidia"}, (), NO_GPUS),
        ({}, ("NVIDIA_VISIBLE_DEVICES=all",), NO_GPUS),  # an image for CUDA, another runtime
        (
            {"Devices": [{"PathOnHost": "/dev/nvidia1"}, {"PathOnHost": "/dev/nvidiactl"}]},
            (),
            Gpus(ids=("1",)),
        ),
    ],
)
def test_gpus_of_what_runs(host, variables, gpus):
    """By device requests, by NVIDIA's runtime, or by the devices themselves."""
    assert _docker_values.occupant(inspected(variables, **host)).gpus == gpus


@pytest.mark.parametrize(
    ("wanted", "got", "request_", "visible"),
    [
        (
            Gpus(count=2),
            Gpus(ids=("GPU-2", "GPU-3")),
            {"DeviceIDs": ["GPU-2", "GPU-3"]},
            "GPU-2,GPU-3",
        ),
        (Gpus(all=True), Gpus(ids=("GPU-1",)), {"DeviceIDs": ["GPU-1"]}, "GPU-1"),
        (Gpus(all=True), Gpus(all=True), {"Count": -1}, None),  # nobody knows which there are
        (NO_GPUS, NO_GPUS, None, None),
    ],
)
def test_leased_gpus_in_the_request(wanted, got, request_, visible):
    """The engine is asked for the leased GPUs by id, and its runtime is told of no others."""
    limits = Limits(cpus=1, memory=7, memory_swap=7, shm_size=7, pids=7)
    spec = ContainerSpec("a", "i", ("python3",), "/", limits, Boundary(user=None), wanted)
    made = leased(spec, got)

    requests = [] if request_ is None else [{**request_, "Capabilities": [["gpu"]]}]
    assert _docker_values.host_config(made)["device_requests"] == requests
    expected = {} if visible is None else {"NVIDIA_VISIBLE_DEVICES": visible}
    assert _docker_values.fields(made)["environment"] == expected
    assert _docker_values.fields(made)["labels"] == (
        {"hydra.docker.gpus": visible or "all"} if wanted else {}
    )


def test_what_an_engine_cannot_limit():
    """The engine says so of each kind; an engine that says nothing can."""
    info = {"Architecture": "x86_64", "Name": "box", "ServerVersion": "27", "NCPU": 2}
    info |= {"MemTotal": 7, "OSType": "linux"}
    assert _docker_values.host(info, None).cannot_limit == ()
    flags = {"CpuCfsQuota": False, "MemoryLimit": True, "SwapLimit": False, "PidsLimit": False}
    more = {"SecurityOptions": ["name=rootless"], "Warnings": ["WARNING: No swap limit support"]}
    host = _docker_values.host(info | flags | more, None)
    assert host.cannot_limit == ("cpus", "swap", "pids")
    assert (host.rootless, host.warnings) == (True, ("WARNING: No swap limit support",))


AN_END = {"StartedAt": "2026-11-22T10:00:00.5Z", "FinishedAt": "2026-11-22T10:05:00.5Z"}
FULL = 256  # events that an engine keeps


def happened(number, first):
    """Return so many events, one each second, the first at that time of the day."""
    first_ns = int(_docker_values.moment(f"2026-11-22T{first}Z") * 1e9)
    return [{"timeNano": first_ns + second * 10**9} for second in range(number)]


@pytest.mark.parametrize(
    ("events", "engine_started", "missed"),
    [
        # Whatever has happened since the engine was started is there: the end is from before.
        ([], None, True),
        (happened(FULL - 65, "10:06:00"), "2026-11-22T09:00:00Z", True),
        # It remembers what was before that end, but not the end.
        (happened(FULL, "10:04:59"), "2026-11-22T09:00:00Z", True),
        # It was started after the container was.
        (happened(FULL, "10:06:00"), "2026-11-22T11:05:30.123456789+01:00", True),
        # It has forgotten the time, and has been up all along, as far as anybody knows.
        (happened(FULL, "10:06:00"), "2026-11-22T09:00:00Z", None),
        (happened(FULL, "10:06:00"), None, None),
        # On a busy engine some have come since it was asked, which it does not tell.
        (happened(FULL - 64, "10:06:00"), "2026-11-22T09:00:00Z", None),
    ],
)
def test_end_that_is_in_no_event(events, engine_started, missed):
    """The engine was down when it came, or has only forgotten it."""
    network = None if engine_started is None else {"Created": engine_started}
    assert _docker_values.memory(events, network).has_missed(AN_END) is missed
