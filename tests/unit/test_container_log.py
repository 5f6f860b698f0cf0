"""Container log: the file of a job's output, through attempts and launchers."""

from __future__ import annotations

import os
import re

import pytest

from hydra_plugins.hydra_docker_launcher._container_log import ContainerLog
from hydra_plugins.hydra_docker_launcher._errors import DockerLauncherError


def line(second, text, nanoseconds=0):
    """Return a line of the engine, as it was written at that second of a minute."""
    return f"2026-11-22T10:00:{second:02d}.{nanoseconds:09d}Z {text}".encode()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "container.log"


def write(path, *lines, end=b"\n"):
    path.write_bytes(b"\n".join(lines) + end)


def taken_up(path, lines, attempt=1):
    """Take a log up with an engine that has ``lines``; return those that are new."""
    log = ContainerLog.taken_up(path, attempt)
    since = log.resume()
    sent = [line for line in lines if since is None or line.split(b" ")[0] > since.encode()]
    new = [line for line in sent if log.write(line)]
    log.close()
    return new


def test_first_attempt(path):
    """What a sweep before has left in the folder is gone."""
    path.write_text("old\n")
    log = ContainerLog.first(path)
    assert log.resume() is None
    assert log.write(line(1, "a"))
    assert log.write(line(1, "a"))  # printed twice
    log.close()
    assert path.read_bytes().splitlines() == [line(1, "a")] * 2


def test_further_attempt(path):
    """It is appended, behind a line that tells why."""
    write(path, line(1, "a"), line(2, "half"), end=b"")
    log = ContainerLog.further(path, 2, "out of memory")
    assert log.resume() is None
    assert log.write(line(1, "a"))  # of another container
    log.close()
    first, half, mark, last = path.read_text().splitlines()
    assert [first, half, last] == [
        f"2026-11-22T10:00:0{n}.000000000Z {t}" for n, t in ((1, "a"), (2, "half"), (1, "a"))
    ]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z hydra-docker: attempt 2 "
        r"\(after: out of memory\)",
        mark,
    )


def test_taken_up(path):
    """Only what is missing is added; a line that was cut off by a crash is written whole."""
    every = [line(second, f"line {second}") for second in range(10)]
    write(path, *every[:7], every[7][:-4], end=b"")
    assert taken_up(path, every) == every[7:]
    assert path.read_bytes().splitlines() == every


def test_taken_up_with_nothing_in_it(path):
    """Where the file is gone or empty, everything is read."""
    every = [line(1, "a"), line(2, "b")]
    assert taken_up(path, every) == every
    path.write_bytes(every[0][:5])
    assert taken_up(path, every) == every
    assert path.read_bytes().splitlines() == every


def test_asks_for_little(path):
    """A second before the last line is where the engine is asked to begin."""
    every = [line(second, "x") for second in range(10)]
    write(path, *every)
    log = ContainerLog.taken_up(path, 1)
    assert log.resume() == "2026-11-22T10:00:07.999999000Z"
    log.close()


def test_lines_out_of_order(path):
    """Lines of stdout and stderr come each by itself: one that is late is not lost."""
    early, late = line(5, "stderr", 500), line(5, "stdout", 400)
    write(path, line(1, "a"), line(3, "b"), early)
    assert taken_up(path, [line(1, "a"), line(3, "b"), early, late]) == [late]


def test_equal_lines(path):
    """Each counts: what the file has once and the engine twice is written once more."""
    twice = line(5, "same")
    write(path, line(1, "a"), twice)
    assert taken_up(path, [line(1, "a"), twice, twice]) == [twice]


@pytest.mark.parametrize("length", [10, 5_000])
def test_long_log(path, length):
    """Where the last two seconds are more than the first look has, it looks further."""
    every = [line(second // 40, "x" * length, second % 40) for second in range(400)]
    write(path, *every[:395])
    assert taken_up(path, every) == every[395:]
    assert path.read_bytes().splitlines() == every


def test_second_attempt_taken_up(path):
    """The lines of the attempt before are another container's."""
    write(path, line(5, "a"), line(6, "b"))
    log = ContainerLog.further(path, 2, "error")
    log.write(line(5, "a"))
    log.close()
    before = path.read_bytes().splitlines()
    assert taken_up(path, [line(5, "a"), line(6, "b")], attempt=2) == [line(6, "b")]
    assert path.read_bytes().splitlines() == [*before, line(6, "b")]


def test_second_attempt_without_output_taken_up(path):
    """The line between the attempts has the time of this host, not of the engine."""
    write(path, line(5, "a"))
    ContainerLog.further(path, 2, "error").close()
    assert taken_up(path, [line(5, "a")], attempt=2) == [line(5, "a")]


def test_garbage(path):
    """A container may have written into the file: nothing is lost for that."""
    path.write_bytes(b"\xff\n\n9999 no time\n")
    assert taken_up(path, [line(5, "a")]) == [line(5, "a")]


def test_read_again(path):
    """A container that was restarted sends what it has sent before; so does a broken connection."""
    log = ContainerLog.first(path)
    every = [line(second, "x") for second in range(5)]
    for one in every[:3]:
        assert log.write(one)
    since = log.resume()
    assert since == "2026-11-22T10:00:00.999999000Z"
    assert [log.write(one) for one in every[1:]] == [False, False, True, True]
    log.resume()
    assert [log.write(one) for one in every[3:]] == [False, False]
    log.close()
    assert path.read_bytes().splitlines() == every


def test_closed(path):
    """Another launcher may go on with the file: nothing is written any more."""
    log = ContainerLog.first(path)
    log.close()
    log.close()
    assert not log.write(line(1, "a"))
    assert log.resume() is None
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "begin",
    [
        ContainerLog.first,
        lambda path: ContainerLog.further(path, 2, "error"),
        lambda path: ContainerLog.taken_up(path, 1),
    ],
)
def test_no_regular_file(tmp_path, begin):
    """A container cannot have another file written to, nor have the launcher wait for ever."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="symbolic"):
        begin(tmp_path / "link")
    with pytest.raises(DockerLauncherError, match="pipe is no regular file"):
        begin(tmp_path / "pipe")
    assert (tmp_path / "precious").read_text() == "precious"
