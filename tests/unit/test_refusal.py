"""Which of the engine's answers are final, and what they mean for the user."""

from __future__ import annotations

import pytest

from hydra_plugins.hydra_docker_launcher import _refusal

#: What Engine 20.10 answers with status 500.
FINAL = (
    'error gathering device information while adding custom device "/dev/x": no such file',
    'could not select device driver "" with capabilities: [[gpu]]',
    'failed to create shim task: OCI runtime create failed: error mounting "tmpfs" to rootfs',
    'invalid --security-opt 2: "nosuch=1"',
    "unable to find user nobodyx: no matching entries in passwd file",
    "Cannot mkdir: /etc/passwd is not a directory",
    "Error processing tar file(exit status 1): archive/tar: invalid tar header",
    "mkdir /var/lib/docker/overlay2/x: no space left on device",
    "open /var/lib/docker/tmp/x: disk quota exceeded",
    "task 954a2bf1e9db: already exists",
    "driver failed programming external connectivity: port is already allocated",
)
PASSING = (
    "transport is closing: unavailable",
    'error while dialing "/run/containerd/containerd.sock: connect: no such file or directory"',
    "context deadline exceeded",
    "dial unix /run/containerd/containerd.sock: connect: connection refused: unavailable",
    'driver "overlay2" failed to remove root filesystem: unlinkat x: device or resource busy',
    "failed to create shim task: ttrpc: closed: unknown",
    "",
)


@pytest.mark.parametrize("text", FINAL)
def test_final(text):
    """Docker's own errors that no second request can help are known by their words."""
    assert not _refusal.may_pass(500, text)


@pytest.mark.parametrize("text", PASSING)
def test_passing(text):
    """Other errors of the engine's may pass; what is wrong with the request never does."""
    assert [_refusal.may_pass(status, text) for status in (500, 502, 503)] == [True] * 3
    assert [_refusal.may_pass(status, text) for status in (304, 400, 404, 409)] == [False] * 4


def test_full_disk():
    """A full disk comes with what to do about it; nothing else does."""
    advised = [text for text in (*FINAL, *PASSING) if _refusal.advice(text)]
    assert advised == [FINAL[7], FINAL[8]]
    advice = _refusal.advice("write /x: No space left on device")
    assert "`docker system df`" in advice
    assert "`hydra-docker gc`" in advice
    assert "Docker Root Dir" in advice
