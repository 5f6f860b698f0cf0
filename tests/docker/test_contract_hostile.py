"""Jobs that plant links, pipes, devices, huge files and bombs, and print without end: harmless."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from sweep_command import Finished, MakeRepository, Repository

CANARY = "canary-9f2c41"
HOWS = (
    "move_mounts",
    "link_results",
    "link_log",
    "pipes",
    "huge",
    "bomb",
    "lie",
    "escapes",
    "endless",
)
LIMIT = 200 * 1024


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the host beside nothing else."""
    file = tmp_path_factory.mktemp("host") / "secret"
    file.write_text(f'{{"outcome": "completed", "value": "{CANARY}"}}')
    return file


@pytest.fixture(scope="module")
def repository(make_repository: MakeRepository) -> Repository:
    return make_repository("hostile", cpus="0.2", mem_limit="128m", stray="collect", keep="all")


@pytest.fixture(scope="module")
def sweep(repository: Repository, secret: Path) -> Finished:
    return repository.sweep(
        f"+how={','.join(HOWS)}",
        f"+secret={secret}",
        "hydra.launcher.log_limit=200k",
        "+hydra.launcher.logging.options.max-size=500k",
        "hydra.launcher.volumes=[/etc/hostname:/etc/of-the-host]",
    )


def row(sweep: Finished, how: str) -> dict:
    return sweep.ledger["jobs"][HOWS.index(how)]


def test_ends(sweep: Finished) -> None:
    """Only what completed has completed; what lies or breaks the result has not."""
    assert dict(zip(HOWS, sweep.outcomes, strict=True)) == {
        "move_mounts": "completed",
        "link_results": "exited",
        "link_log": "error",
        "pipes": "exited",
        "huge": "exited",
        "bomb": "exited",
        "lie": "error",
        "escapes": "error",
        "endless": "completed",
    }, sweep.output
    assert "Traceback" not in sweep.output.partition("Error executing job")[0]


def test_mounts_stay(sweep: Finished) -> None:
    """Nothing that the engine looks up can be moved, and there are no devices."""
    answers = sweep.job(HOWS.index("move_mounts")).json()
    assert set(answers["moved"].values()) == {"EBUSY"}
    assert set(answers["removed"].values()) == {"EBUSY"}
    assert answers["device"] == "EPERM"


def test_secret(sweep: Finished, secret: Path) -> None:
    """What a link leads to is not read, not changed, and nothing is put beside it."""
    assert CANARY in secret.read_text()
    assert [path.name for path in secret.parent.iterdir()] == ["secret"]
    assert CANARY not in sweep.output
    files = [path for path in sweep.folder.rglob("*") if stat.S_ISREG(path.lstat().st_mode)]
    small = [path for path in files if path.stat().st_size < 10**8]
    assert len(small) > 30
    assert not [path for path in small if CANARY.encode() in path.read_bytes()]


def test_words(sweep: Finished) -> None:
    """No line that reaches a terminal, and no record, has more than colours in it."""
    cause = row(sweep, "escapes")["cause"]
    assert cause.isprintable()
    assert cause.startswith("raised Own: 2Jevil red")
    bad = {*map(chr, (*range(9), *range(11, 27), *range(127, 160), 0x202E))} - {"\r"}
    assert not set(sweep.output) & bad
    assert "\x1b[2J" not in sweep.output
    assert "\x1b]0" not in sweep.output


def test_log_limit(sweep: Finished) -> None:
    """The log of a job that prints without end stays small here and there, and has its end."""
    log = sweep.job(HOWS.index("endless")).log
    assert len(log) < LIMIT + 100_000
    assert "hydra-docker: log_limit=200k is reached" in log
    assert log.rstrip().endswith(f"029999 {'x' * 60}")
    assert sweep.output.count("has reached hydra.launcher.log_limit=200k") == 1


def test_rotation(sweep: Finished, repository: Repository) -> None:
    """The engine keeps no more of the output than it is told to."""
    found = repository.api.inspect_container(row(sweep, "endless")["container"])
    assert found["HostConfig"]["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "500k", "max-file": "5"},
    }


def test_warning(sweep: Finished) -> None:
    """What is opened is said once, in plain words."""
    assert sweep.output.count("Options open the boundary") == 1
    assert "volumes=[/etc/hostname:/etc/of-the-host]: what this host is made of" in sweep.output


def test_restart(repository: Repository, secret: Path) -> None:
    """The engine looks up the mounts again at a restart; the job could not change where."""
    finished = repository.sweep(
        "+how=again", f"+secret={secret}", "hydra.launcher.restart=on-failure:2"
    )
    assert finished.outcomes == ["completed"], finished.output
    answers = finished.job(0).json()
    assert set(answers["moved"].values()) == {"EBUSY"}
    assert "how: again" in answers["config"]
    assert "Options open the boundary" not in finished.output
