"""The engine's words and this project's values. What it is asked for is in tests/docker."""

from __future__ import annotations

import pytest

from hydra_plugins.hydra_docker_launcher import _docker_values
from hydra_plugins.hydra_docker_launcher._engine import Found
from hydra_plugins.hydra_docker_launcher._errors import ImageError

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


def test_replays():
    """Lines that come once more are left out; those that are only late are not."""
    replays = _docker_values.Replays(memory=4)
    sent = ["1 a", "2 b", "2 b", "2 c", "5 e", "4 d", "2 c", "5 e", "4 d", "6 f", "6 f", "1 a"]
    taken = [line for line in sent if not replays.is_one(line.encode())]
    # The last one is from longer ago than is remembered.
    assert taken == ["1 a", "2 b", "2 c", "5 e", "4 d", "6 f", "1 a"]
