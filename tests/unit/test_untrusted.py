"""Untrusted: what a container writes, plants and prints does nothing to the host."""

from __future__ import annotations

import json
import logging
import math
import os
import pathlib
import random
import re
import string
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import pytest

from hydra_plugins.hydra_docker_launcher import (
    _container_log,
    _job_files,
    _job_folder,
    _mlflow_artifacts,
    _outcome,
    _remote_error,
    _results,
    _untrusted,
)
from hydra_plugins.hydra_docker_launcher._container_log import ContainerLog
from hydra_plugins.hydra_docker_launcher._engine import (
    Boundary,
    ContainerSpec,
    ContainerState,
    Limits,
)
from hydra_plugins.hydra_docker_launcher._errors import DockerLauncherError, JobError, TrackingError
from hydra_plugins.hydra_docker_launcher._outcome import End, decide, last_lines, read_result
from hydra_plugins.hydra_docker_launcher._paths import JobPaths
from hydra_plugins.hydra_docker_launcher._untrusted import Folder

GIB = 1024**3
SPEC = ContainerSpec(
    name="train-0",
    image="sha256:abc",
    command=("python3", "/hydra/worker.py"),
    working_dir="/work",
    limits=Limits(cpus=1.0, memory=GIB, memory_swap=GIB, shm_size=GIB, pids=100),
    boundary=Boundary(user="1000:1000"),
)


def state(exit_code=0):
    return ContainerState(
        running=False,
        exit_code=exit_code,
        oom_killed=False,
        stopped=False,
        signal=None,
        error="",
        started_at="2026-11-22T10:00:00Z",
        finished_at="2026-11-22T10:00:01Z",
    )


@pytest.fixture
def secret(tmp_path):
    """A folder of the host that no job may read, change or add to."""
    folder = tmp_path / "host"
    folder.mkdir()
    for name in ("result.json", "container.json", "job.pickle", "config.yaml", "key"):
        (folder / name).write_text('{"outcome": "completed", "value": "secret"}')
    before = snapshot(folder)
    yield folder
    assert snapshot(folder) == before


def snapshot(folder):
    facts = folder.stat()
    files = {path.name: (path.read_text(), path.stat().st_mode) for path in folder.iterdir()}
    return files, facts.st_mode, facts.st_uid


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "0").mkdir()
    return JobPaths(tmp_path / "0")


# ---- what is planted -----------------------------------------------------------------------------


def test_folder_that_is_a_link(paths, secret):
    """Where .docker has become a link, nothing is read, written or removed behind it."""
    paths.private.symlink_to(secret)
    assert read_result(paths.result) is None
    with pytest.raises(DockerLauncherError, match="Cannot write to the job's output folder"):
        _job_files.write(paths, "a: 1\n", b"job", "1000:1000", (("key", b"s"),))
    with pytest.raises(OSError, match=r"\.docker"):
        _job_folder.write_container(paths, {"id": "abc"})
    _job_files.remove_private(paths, mounted=False)


def test_files_that_are_links(paths, secret):
    """The links are replaced and removed, not what they lead to."""
    paths.private.mkdir()
    for path in (paths.result, paths.config, paths.job, paths.container):
        path.symlink_to(secret / path.name)
    assert read_result(paths.result) is None
    _job_files.write(paths, "a: 1\n", b"job", None)
    _job_folder.write_container(paths, {"id": "abc"})
    assert not paths.result.is_symlink()
    assert paths.config.read_text() == "a: 1\n"
    assert paths.config.stat().st_mode & 0o777 == 0o600
    assert json.loads(paths.container.read_text()) == {"id": "abc"}
    paths.job.unlink()
    paths.job.symlink_to(secret / "job.pickle")
    _job_files.remove_private(paths, mounted=False)
    assert not paths.job.is_symlink()


def test_secrets_that_are_elsewhere(paths, secret, caplog):
    """A link in the place of the folder of secrets is not followed, but replaced."""
    paths.private.mkdir()
    paths.secrets.symlink_to(secret)
    there = sorted(secret.iterdir())
    _job_files.remove_private(paths, mounted=False)
    assert "Cannot remove the secrets" in caplog.text
    _job_files.write(paths, "a: 1\n", b"job", None, (("key", b"s"),))
    assert not paths.secrets.is_symlink()
    assert (paths.secrets / "key").read_bytes() == b"s"
    assert sorted(secret.iterdir()) == there


def test_owner(paths, secret, monkeypatch):
    """A launcher that is root gives away what it has opened itself, and never by a name."""
    given = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(
        os, "fchown", lambda handle, *owner: given.append((os.fstat(handle).st_ino, *owner))
    )
    paths.private.mkdir()
    paths.config.hardlink_to(secret / "config.yaml")  # as if it could
    _job_files.write(paths, "a: 1\n", b"job", "1000:100", (("key", b"s"),))
    made = (paths.output, paths.private, paths.config, paths.job, paths.secrets)
    assert sorted(given) == sorted(
        (path.stat().st_ino, 1000, 100) for path in (*made, paths.secrets / "key")
    )


@pytest.mark.parametrize("plant", ["link", "pipe", "folder", "device"])
def test_log_that_is_none(paths, secret, plant):
    """Only a regular file gets the log, is shown, or is uploaded; nobody waits for a pipe."""
    if plant == "link":
        paths.log.symlink_to(secret / "key")
    elif plant == "pipe":
        os.mkfifo(paths.log)
    elif plant == "folder":
        paths.log.mkdir()
    else:
        paths.log.symlink_to("/dev/zero")
    assert last_lines(paths.log, 3) == []
    assert not _results.has_log(paths)
    for begin in (
        lambda: ContainerLog.first(paths.log),
        lambda: ContainerLog.further(paths.log, 2, "error"),
        lambda: ContainerLog.taken_up(paths.log, 1),
    ):
        with pytest.raises((OSError, DockerLauncherError)):
            begin()


def test_sparse_files(paths):
    """Terabytes that take no space are not read, not even looked through for the end of a line."""
    paths.private.mkdir()
    for path in (paths.result, paths.log):
        with path.open("wb") as file:
            file.truncate(1 << 40)
    tracemalloc.start()
    try:
        assert read_result(paths.result) is None
        assert len(last_lines(paths.log, 3)) == 1
        log = ContainerLog.taken_up(paths.log, 1, 2**20)
        log.resume()
        assert log.write(b"2026-11-22T10:00:01.000000000Z one")
        log.close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * 1024**2
    assert last_lines(paths.log, 1) == ["one"]


@pytest.mark.parametrize(
    "function", ["_harmless.harmless", "_harmless.plain", "_private.without_credentials"]
)
def test_long_lines(function):
    """A line without an end takes no time that grows with the square of its length.

    In a process of its own: nothing else interrupts a regular expression.
    """
    module, _, name = function.partition(".")
    pieces = (
        "\x1b]",
        "\x1b[",
        "\x1b]0;",
        "\x1b[0",
        "\x1b]\\",
        "\x1b[m",
        "\r",
        "a",
        "a.",
        "://a",
        "@",
    )
    script = (
        f"from hydra_plugins.hydra_docker_launcher.{module} import {name}\n"
        f"for piece in {pieces}:\n"
        f"    {name}('a://b ' + piece * ({2**18} // len(piece)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=60)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc/passwd"])
def test_names_that_lead_elsewhere(tmp_path, name):
    """A name is one in the folder, or it is refused."""
    folder = Folder.at(tmp_path)
    for call in (folder.open, folder.inner, folder.remove, folder.remove_folder):
        with pytest.raises(OSError, match="is no name in a folder"):
            call(name)
    with pytest.raises(OSError, match="is no name in a folder"):
        folder.write(name, b"", 0o600)
    folder.close()


def test_half_a_file(tmp_path, monkeypatch):
    """A file that could not be written whole leaves the old one, and no other."""

    def full(_):
        raise OSError(28, "No space left on device")

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Folder.at(tmp_path).write("a", b"new", 0o600)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_open_file(tmp_path, secret):
    """An open file is the same, whatever its name leads to meanwhile."""
    (tmp_path / "a").write_text("mine")
    folder = Folder.at(tmp_path)
    handle = folder.open("a")
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to(secret / "key")
    assert _untrusted.path_of(handle).read_text() == "mine"
    os.close(handle)
    folder.close()


# ---- the store, which jobs can write to ----------------------------------------------------------


class Client:
    """MLflow's client, of which only the address of a run's artifacts is asked for."""

    def __init__(self, address):
        self.address = address

    def get_run(self, run_id):
        return SimpleNamespace(info=SimpleNamespace(artifact_uri=self.address))


def test_artifacts_that_are_links(tmp_path, secret):
    """A job knows where its run's artifacts go, and may be there first."""
    store = tmp_path / "store"
    place = store / "artifacts" / "1" / "run"
    place.mkdir(parents=True)
    (place / "config.yaml").symlink_to(secret / "config.yaml")
    (place / "container.log").symlink_to(secret / "key")
    (place / "folder").symlink_to(secret)
    (tmp_path / "container.log").write_text("what was printed")
    client, folders = Client(f"file://{place}"), (store,)
    _mlflow_artifacts.log_content(client, folders, "run", "config.yaml", "a: 1")
    _mlflow_artifacts.log_file(client, folders, "run", "container.log", tmp_path / "container.log")
    written = {path.name: path.read_text() for path in place.iterdir() if not path.is_symlink()}
    assert written == {"config.yaml": "a: 1", "container.log": "what was printed"}
    with pytest.raises(OSError, match="folder"):
        _mlflow_artifacts.log_content(client, folders, "run", "folder/key", b"x")


@pytest.mark.parametrize("address", ["file://{}", "{}", "file://{}/../host"])
def test_artifacts_that_are_elsewhere(tmp_path, secret, address):
    """A job can write into the database where its run's artifacts are."""
    store = tmp_path / "store"
    store.mkdir()
    client = Client(address.format(store if ".." in address else secret))
    with pytest.raises(TrackingError, match="which is no folder of its store"):
        _mlflow_artifacts.log_content(client, (store,), "run", "key", "x")


def test_no_unpickling():
    """Only the worker, in the container, reads pickles."""
    package = pathlib.Path(_outcome.__file__).parent
    readers = re.compile(r"(pickle|dill|joblib|marshal|shelve)\.(load|open)|Unpickler")
    found = {path.stem for path in package.glob("*.py") if readers.search(path.read_text())}
    assert found == {"_worker"}


# ---- what is printed -----------------------------------------------------------------------------


def line(second, text):
    return f"2026-11-22T10:00:{second:02d}.000000000Z {text}".encode()


def test_log_without_end(paths):
    """Beyond the limit only the last lines are kept; the file says so, and stays small."""
    limit = 64 * 1024
    log = ContainerLog.first(paths.log, limit)
    assert log.write(line(1, "first"))
    for number in range(20_000):
        assert log.write(line(2, f"{number:06d} {'x' * 100}"))
    assert log.full
    log.close()
    lines = paths.log.read_text().splitlines()
    assert paths.log.stat().st_size < limit + _container_log.TAIL + 500
    assert lines[0].endswith(" first")
    assert sum(" hydra-docker: log_limit=64k is reached" in line for line in lines) == 1
    (left_out,) = (n for n, line in enumerate(lines) if " lines are left out here" in line)
    assert left_out + len(lines[left_out:]) == len(lines)
    assert [line.split()[1] for line in lines[-3:]] == ["019997", "019998", "019999"]
    number = int(lines[left_out].split()[2])
    assert number + len(lines) - 2 == 20_001  # none is lost without a word


def test_connection_lost_beyond_the_limit(paths):
    """What follows is asked for from the last line on, though that is not in the file yet."""
    log = ContainerLog.first(paths.log, 64 * 1024)
    log.write(line(1, "x" * 70_000))
    log.write(line(3, "a"))
    log.write(line(2, "b"))
    assert log.resume() == "2026-11-22T10:00:03.000000000Z"
    log.close()
    assert not log.write(line(4, "too late"))


def test_log_taken_up_beyond_the_limit(paths):
    """Another launcher keeps to the same limit."""
    for number in range(3):
        first = number == 0
        log = (
            ContainerLog.first(paths.log, 64 * 1024)
            if first
            else ContainerLog.taken_up(paths.log, 1, 64 * 1024)
        )
        log.resume()
        for row in range(5000):
            log.write(line(10 + number, f"{row} {'y' * 50}"))
        log.close()
    assert paths.log.stat().st_size < 64 * 1024 + 3 * (_container_log.TAIL + 500)


# ---- fuzz ----------------------------------------------------------------------------------------

WORDS = (
    *("outcome", "value", "error", "type", "message", "args", "frames", "notes", "module"),
    *("cause", "context", "traceback", "memory", "peak", "oom_kills", "exit_code", "code", "full"),
    *("not_json", "after", "died", "completed", "exited", "not cloned", "builtins", "ValueError"),
    *("KeyError", "OSError", "UnicodeDecodeError", "ExceptionGroup", "SystemExit", "run_job"),
    *("/etc/passwd", "/dev/zero", "../../etc/shadow", "__class__", "type", "print"),
)
ODD = (
    *(None, True, False, 0, -1, 2**31, 2**63, -(2**200), 1e308, float("nan"), float("inf")),
    *("", "\x1b[2J\x1b]0;x\x07", "\u202e", "\ud800", "\0", "x" * 20_000, "\x9b2J", "a\nb\rc"),
)


def any_json(dice, depth=0):
    """Return a random value of JSON, often of the words that a result is made of."""
    kind = dice.random()
    if depth > 6 or kind < 0.25:
        return dice.choice(ODD)
    if kind < 0.5:
        return dice.choice(WORDS)
    if kind < 0.7:
        return [any_json(dice, depth + 1) for _ in range(dice.randrange(4))]
    return {dice.choice(WORDS): any_json(dice, depth + 1) for _ in range(dice.randrange(8))}


def any_result(dice):
    """Return a random result that has the outline of a true one."""
    content = any_json(dice)
    content = content if isinstance(content, dict) else {}
    if dice.random() < 0.8:
        content["outcome"] = dice.choice(("completed", "error", "exited", "not cloned", None))
    if dice.random() < 0.5:
        content["error"] = {
            "module": "builtins",
            "type": dice.choice(WORDS),
            "message": any_json(dice),
            "args": [any_json(dice) for _ in range(dice.randrange(6))],
            "frames": [
                [any_json(dice), any_json(dice), any_json(dice)] for _ in range(dice.randrange(3))
            ],
            dice.choice(("cause", "context")): any_json(dice),
            "traceback": any_json(dice),
        }
    return content


def any_bytes(dice):
    """Return random bytes, or JSON with a few of its bytes changed."""
    if dice.random() < 0.3:
        return dice.randbytes(dice.randrange(200))
    content = bytearray(json.dumps(any_result(dice)).encode())
    for _ in range(dice.randrange(5)):
        place = dice.randrange(len(content))
        content[place : place + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
    return bytes(content)


def is_harmless(text):
    return text.isprintable() or all(
        character.isprintable() or character in "\n\t\u200b\u200c\u200d\xa0\xad"
        for character in text.replace("\x1b[", "")
    )


@pytest.mark.parametrize("seed", range(4))
def test_any_result(paths, seed):
    """Whatever result.json says, the job has an end, which can be told, raised and written down."""
    dice = random.Random(seed)
    paths.private.mkdir()
    job = SimpleNamespace(title="job #0", paths=paths)
    for _ in range(200):
        content = any_bytes(dice) if dice.random() < 0.5 else b""
        paths.result.write_bytes(content or json.dumps(any_result(dice)).encode())
        result = read_result(paths.result)
        assert result is None or isinstance(result, dict)
        code = dice.choice((0, 1, 137, 143, 255))
        outcome = decide(state(code), result, spec=SPEC, lines=("a", "b"))
        assert outcome.end is not End.COMPLETED or (code == 0 and result is not None)
        assert len(outcome.cause) < 25_000
        for text in (outcome.cause, outcome.advice, outcome.warning, outcome.not_json):
            assert text is None or plain_enough(text), text
        json.dumps(outcome.cause).encode()
        outcome.cause.encode()  # as a tag in a database
        if outcome.end is not End.COMPLETED:
            error = _results.exception(job, outcome)
            assert isinstance(error, Exception)
            str(error).encode()
            logging.getLogger("fuzz").debug("no", exc_info=error)


def plain_enough(text):
    return not set(text) & {*map(chr, (*range(9), *range(11, 32), *range(127, 160), 0x202E))}


@pytest.mark.parametrize("seed", range(2))
def test_any_log(paths, seed):
    """Whatever stands in container.log, launchers take it up, and show its end."""
    dice = random.Random(seed)
    alphabet = [*string.printable.encode(), 0, 27, 155, 255]
    for _ in range(150):
        lines = []
        for _ in range(dice.randrange(30)):
            noise = bytes(dice.choices(alphabet, k=dice.randrange(60)))
            stamp = line(dice.randrange(60), "").rstrip() if dice.random() < 0.7 else b"not a time"
            lines.append(stamp + b" " + noise)
        paths.log.write_bytes(dice.choice((b"\n", b"", b"\r\n", b"\0")).join(lines))
        assert all(is_harmless(text) for text in last_lines(paths.log, 5))
        log = ContainerLog.taken_up(paths.log, dice.choice((1, 2)), dice.choice((None, 70_000)))
        since = log.resume()
        assert since is None or isinstance(since, str)
        for sent in lines:
            log.write(sent.replace(b"\n", b""))
        log.resume()
        log.close()


# ---- what an exception says ----------------------------------------------------------------------


def error(**changes):
    return {
        "module": "builtins",
        "type": "ValueError",
        "message": "no",
        "args": ["no"],
        "frames": [["/app/train.py", "run_job", 3]],
        "traceback": "Traceback: no",
        **changes,
    }


def test_exception_with_escapes(paths):
    """An exception that is raised again on the host is printed by whoever catches it."""
    said = "\x1b]0;title\x07\x1b[2Jno\u202e way"
    outcome = decide(
        state(1),
        {"outcome": "error", "error": error(message=said, args=[said], notes=["\x1b[1A"])},
        spec=SPEC,
    )
    raised = _results.exception(SimpleNamespace(title="job #0", paths=paths), outcome)
    assert (type(raised), str(raised)) == (ValueError, "no way")
    assert raised.__notes__[0] == ""
    assert outcome.cause == "raised ValueError: no way"
    foreign = decide(
        state(1),
        {"outcome": "error", "error": error(module="x", traceback="a\x1b[2Jb\rc")},
        spec=SPEC,
    )
    other = _results.exception(SimpleNamespace(title="job #0", paths=paths), foreign)
    assert isinstance(other, JobError)
    assert str(other).endswith("abc")


def test_frames_of_files_of_the_host(tmp_path):
    """A traceback shows lines of Python sources, and of no other file that a container names."""
    key = tmp_path / "id_ed25519"
    key.write_text("secret\n")
    rebuilt = _remote_error.rebuild(error(frames=[[str(key), "run_job", 1]]))
    assert rebuilt.__traceback__.tb_frame.f_code.co_filename == f"<{key}>"


# ---- JSON bombs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        '{"value": ' + "9" * 4001 + "}",
        '{"value": ' + "[" * 200 + "]" * 200 + "}",
        '{"value": ' + '{"a":' * 200 + "1" + "}" * 200 + "}",
        '{"value": "' + "x" * (_outcome.MAX_RESULT) + '"}',
        '{"value": "\\',
    ],
    ids=["digits", "lists", "dicts", "large", "cut"],
)
def test_bombs(paths, content):
    """What could break whoever goes through it later is no result."""
    paths.private.mkdir()
    paths.result.write_text(content)
    assert read_result(paths.result) is None


def test_what_is_allowed(paths):
    """NaN is what many a training returns; of a name that is there twice, the last one counts."""
    paths.private.mkdir()
    paths.result.write_text('{"value": 1, "value": [NaN, Infinity, ' + "9" * 4000 + "]}")
    nan, infinity, large = read_result(paths.result)["value"]
    assert (math.isnan(nan), infinity, large) == (True, float("inf"), 10**4000 - 1)


def test_size(tmp_path):
    """A file that is not there has none."""
    assert _untrusted.size(tmp_path / "none", 1) is None


def test_file_that_was_not_written_to_its_end(paths):
    """What a launcher that was killed as it wrote has left goes, and nothing else."""
    paths.private.mkdir()
    partial = paths.private / ".container.json.0123456789abcdef"
    for remove in (
        lambda: _job_files.remove_private(paths, mounted=True),
        lambda: _job_files.write(paths, "a: 1\n", b"job", None),
    ):
        partial.write_text("{")
        (paths.private / ".own").write_text("")
        remove()
        assert not partial.exists()
        assert (paths.private / ".own").exists()
