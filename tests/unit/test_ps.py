"""hydra-docker ps, logs, doctor, and whose sweep may be stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import GIB, HOST
from git_repository import GitRepository, init, isolate

from hydra_plugins.hydra_docker_launcher import (
    _attach,
    _background,
    _docker_values,
    _doctor,
    _logs,
    _ownership,
    _pinning,
    _ps,
    _start,
    _sweep_folder,
    _team,
    _view_commands,
)
from hydra_plugins.hydra_docker_launcher._capacity import Promise
from hydra_plugins.hydra_docker_launcher._cli import main
from hydra_plugins.hydra_docker_launcher._doctor import Level
from hydra_plugins.hydra_docker_launcher._engine import (
    EngineFacts,
    Found,
    FoundImage,
    Grant,
    Host,
    Occupant,
    Ticket,
    Use,
)
from hydra_plugins.hydra_docker_launcher._errors import EngineError, SweepError, TrackingError
from hydra_plugins.hydra_docker_launcher._option_values import Gpus
from hydra_plugins.hydra_docker_launcher._paths import SweepPaths
from hydra_plugins.hydra_docker_launcher._ps import Amount, By, Jobs, LookedAfter
from hydra_plugins.hydra_docker_launcher._sweep_folder import Keeper
from hydra_plugins.hydra_docker_launcher._team import View
from hydra_plugins.hydra_docker_launcher._tickets import Place, to_ticket

NOW = 1_800_000_000.0
ID = "20270115-080000-abc123"
LOCAL = replace(HOST, name=os.uname().nodename)
INSTALL = "Install it: pip install"
FACTS = EngineFacts(
    address="unix:///var/run/docker.sock",
    version="20.10.24",
    api="1.41",
    host=replace(HOST, storage="overlay2", cgroup="1"),
    data_root="/var/lib/docker",
    cgroup_driver="cgroupfs",
    runtimes=("nvidia", "runc"),
)


@dataclass
class TeamEngine:
    """An engine with containers of several people. What it knows stands in its fields."""

    machine: Host = LOCAL
    found: list[Found] = field(default_factory=list)
    layers: list[FoundImage] = field(default_factory=list)
    grants: dict[str, Grant] = field(default_factory=dict)
    uses: dict[str, Use] = field(default_factory=dict)
    measured: list[str] = field(default_factory=list)
    stopped: list[tuple[str, float]] = field(default_factory=list)
    noted: list[Ticket] = field(default_factory=list)
    #: It refuses to list tickets, with these words.
    forbids: str | None = None

    def run(self, name: str, *, status: str = "running", **labels: object) -> None:
        """Have a container; ``labels`` without their prefix."""
        own = {f"hydra.docker.{label}": str(value) for label, value in labels.items()}
        self.found.append(Found(name, name, own, status, NOW - 3600, "sha256:1"))
        self.grants[name] = Grant(1.0, 2 * GIB, Gpus(count=1), grace=3.0)
        self.uses[name] = Use(0.5, GIB)

    def host(self) -> Host:
        return self.machine

    def containers(self, labels: dict[str, str | None]) -> tuple[Found, ...]:
        return tuple(
            one
            for one in self.found
            if all(
                name in one.labels and value in (None, one.labels[name])
                for name, value in labels.items()
            )
        )

    def images(self, labels: dict[str, str | None]) -> tuple[FoundImage, ...]:
        return tuple(image for image in self.layers if labels.keys() <= image.labels.keys())

    def grant(self, container: str) -> Grant | None:
        return self.grants.get(container)

    def use(self, container: str) -> Use | None:
        self.measured.append(container)
        return self.uses.get(container)

    def stop(self, container: str, grace: float) -> None:
        self.stopped.append((container, grace))

    def facts(self) -> EngineFacts:
        return FACTS

    def tickets(self, label: str) -> tuple[Ticket, ...]:
        if self.forbids is not None:
            raise EngineError(self.forbids)
        return tuple(self.noted)

    def occupants(self) -> tuple[Occupant, ...]:
        return tuple(
            Occupant(
                one.id,
                one.name,
                one.labels,
                self.grants[one.id].cpus,
                self.grants[one.id].memory,
                self.grants[one.id].gpus,
            )
            for one in self.found
            if one.status == "running" and one.id in self.grants
        )

    def now(self) -> float:
        return NOW


def a_layer(sweep: str = ID, folder: str = "", user: str = "bob") -> FoundImage:
    labels = {
        "hydra.docker.sweep": sweep,
        "hydra.docker.user": user,
        "hydra.docker.folder": folder,
    }
    name = f"hydra-docker/train:0123456789ab-{sweep[-6:]}"
    return FoundImage("sha256:2", (name,), (), labels, NOW - 7200, NOW, 1)


def a_job(number: int, outcome: str | None = None, **facts: Any) -> dict[str, Any]:
    return {"job": number, "output_dir": f"/out/{number}", "outcome": outcome, **facts}


def a_sweep(folder: Path, *jobs: dict[str, Any], is_open: bool = True, **head: Any) -> Path:
    """Have the folder of a sweep of the user who runs the tests."""
    folder.mkdir(parents=True)
    known = {
        "format": 1,
        "sweep": ID,
        "user": _pinning.identity("host").name,
        "started": "2027-01-15T05:00:00+00:00",
        **head,
        "jobs": list(jobs),
    }
    (folder / "sweep.json").write_text(json.dumps(known))
    if is_open:
        (folder / ".docker/jobs").mkdir(parents=True)
    return folder


def survey(engine: TeamEngine, **view: Any) -> _ps.Report:
    return _team.survey(engine, View(**view), NOW)


@pytest.fixture
def engine(monkeypatch) -> TeamEngine:
    made = TeamEngine()
    monkeypatch.setattr(_start, "docker_engine", lambda: made)
    return made


# ---- what is found -------------------------------------------------------------------------------


def test_sweep_in_its_folder(engine, tmp_path):
    """Labels and the engine's limits say what runs; the folder says what is over and who waits."""
    folder = a_sweep(
        tmp_path / "sweep",
        a_job(0, "completed", started="2027-01-15T07:00:00+00:00"),
        a_job(1, "out of memory", started="2027-01-15T07:30:00+00:00"),
        a_job(2, started="2027-01-15T07:40:00+00:00"),
        a_job(3),
        a_job(4),
    )
    taken = _sweep_folder.take(SweepPaths(folder))
    engine.run("train-2", sweep=ID, user="ada", job=2, folder=folder)
    engine.run("train-3", sweep=ID, user="ada", job=3, folder=folder, status="exited")
    (row,) = survey(engine).sweeps
    taken.release()

    assert row == _ps.SweepRow(
        sweep=ID,
        user="ada",
        folder=str(folder),
        started=NOW - 3 * 3600,
        age_s=3 * 3600,
        jobs=Jobs(running=1, waiting=1, completed=1, failed=1, unrecorded=1, total=5),
        promised=Amount(1.0, 2 * GIB, 1),
        used=Use(0.5, GIB),
        waiting_s=20 * 60,
        looked_after=LookedAfter(By.FOREGROUND, os.getpid(), os.uname().nodename),
        containers=("train-2",),
    )


def test_sweep_that_is_over(engine, tmp_path):
    """A sweep that has left a container is listed only when past ones are asked for."""
    folder = a_sweep(tmp_path / "sweep", a_job(0, "error"), is_open=False)
    engine.run("train-0", sweep=ID, user="ada", job=0, folder=folder, status="exited")
    assert survey(engine).sweeps == ()
    (row,) = survey(engine, past=True).sweeps
    assert (row.jobs.failed, row.looked_after.by) == (1, By.OVER)


def test_sweep_whose_jobs_all_wait(engine, tmp_path):
    """A sweep without a container is known by the image that it has for itself."""
    folder = a_sweep(tmp_path / "sweep", a_job(0), a_job(1))
    engine.layers = [a_layer(folder=str(folder))]
    (row,) = survey(engine).sweeps
    assert row.jobs == Jobs(0, waiting=2, completed=0, failed=0, unrecorded=0, total=2)
    assert row.waiting_s == 3 * 3600
    assert row.looked_after.by is By.NOBODY
    engine.layers = [a_layer(folder=str(tmp_path / "removed")), a_layer("x-000001")]
    assert survey(engine).sweeps == ()
    engine.machine = HOST  # folders of another machine are not here, and may be there
    assert [row.sweep for row in survey(engine).sweeps] == [ID]


#: Ledgers that somebody has written who wishes others no good.
ROGUES = {
    name: f'{{"sweep": "{ID}", "user": "bob", "jobs": [{{"job": {number}, "outcome": null}}]}}'
    for name, number in {
        "infinite": "Infinity",
        "no number": "NaN",
        "huge": "9" * 5000,
        "large": "9" * 10,
        "negative": "-1",
        "text": '"0"',
    }.items()
}


@pytest.mark.parametrize(
    "spoilt", ["none", "not json", "[]", '{"jobs": [1]}', "other", "pipe", *ROGUES]
)
def test_folder_that_tells_nothing(engine, tmp_path, spoilt):
    """Where a folder cannot be read, or is another sweep's by now, containers alone tell."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    ledger = folder / "sweep.json"
    if spoilt == "pipe":
        os.mkfifo(ledger)  # nobody ever writes into it
    elif spoilt == "other":
        ledger.write_text(json.dumps({"sweep": "another", "jobs": []}))
    elif spoilt != "none":
        ledger.write_text(ROGUES.get(spoilt, spoilt))
    engine.run("train-0", sweep=ID, user="bob", job=0, folder=folder)
    (row,) = survey(engine).sweeps
    assert row.jobs == Jobs(running=1)
    assert row.looked_after == LookedAfter(By.UNKNOWN)
    assert row.age_s == 3600
    assert row.waiting_s is None


@pytest.mark.parametrize("label", ["", "x", "²", "-1", "9" * 10, "9" * 5000])
def test_label_that_is_no_number(engine, label):
    """A container says of itself which job it is; one that says nonsense is none."""
    engine.run("train-0", sweep=ID, user="bob", job=label)
    (row,) = survey(engine).sweeps
    assert (row.jobs, row.containers) == (Jobs(running=0), ("train-0",))


def test_order_and_users(engine):
    """Sorted by user, then age; one's own alone, if that is asked for."""
    for name, user in (("c", "bob"), ("a", "bob"), ("b", "ada")):
        engine.run(f"train-{name}", sweep=f"sweep-{name}", user=user, job=0)
    engine.found[0] = replace(engine.found[0], created=NOW - 9000)
    rows = survey(engine).sweeps
    assert [(row.user, row.sweep[-1]) for row in rows] == [("ada", "b"), ("bob", "c"), ("bob", "a")]
    assert [row.user for row in survey(engine, user="ada").sweeps] == ["ada"]


def test_containers_of_other_tools(engine):
    """What runs without being a job of a sweep is summed; one that is not limited is said so."""
    engine.run("database")
    engine.run("browser")
    engine.run("old", status="exited")
    engine.grants["browser"] = Grant()
    engine.grants.pop("old")
    report = survey(engine)
    assert report.others == _ps.Others(2, Amount(1.0, 2 * GIB, 1, unlimited=1), Use(1.0, 2 * GIB))
    assert "others   2, promised 1 CPUs and 2g (1 without a limit), using 1 CPUs and 2g" in (
        _ps.table(report, None)
    )


def test_nothing_is_measured(engine):
    """Without the use, no container is measured; one that has gone meanwhile counts nothing."""
    engine.run("train-0", sweep=ID, user="ada", job=0)
    engine.run("train-1", sweep=ID, user="ada", job=1)
    engine.grants.pop("train-1")
    (row,) = survey(engine, use=False).sweeps
    assert engine.measured == []
    assert (row.jobs.running, row.promised.memory, row.used) == (1, 2 * GIB, None)


def a_ticket(
    number: str, *, user: str = "bob", job: int | None = 1, age: float = 90.0, **promise: Any
) -> Ticket:
    attempt = (ID, None if job is None else str(job), None if job is None else "1")
    labels = {
        "hydra.docker.user": user,
        "hydra.docker.folder": "/srv/sweep",
        "hydra.docker.sweep": ID,
        **({} if job is None else {"hydra.docker.job": str(job), "hydra.docker.attempt": "1"}),
    }
    since = NOW - age
    wanted = Promise(f"{user}'s train", ID, **promise)
    place = Place(number, "", since, NOW - 1, False, "elsewhere/1 77 5", wanted, attempt)
    return to_ticket(place, 1, labels)


def test_who_waits(engine):
    """Tickets tell of jobs that wait, also of folders that cannot be read, for what, and why."""
    engine.run("train-08-0", sweep=ID, user="bob", job=0, folder="/srv/sweep")
    engine.noted = [
        a_ticket("a", cpus=3.5, memory=GIB),
        a_ticket("b", user="ada", job=None, age=20.0, cpus=1.0, memory=GIB),
        a_ticket("gone", cpus=1.0, age=4000.0),
    ]
    dead = {**engine.noted[2].labels, "hydra.docker.ticket.seen": f"{NOW - 4000}"}
    engine.noted[2] = replace(engine.noted[2], labels=dead)
    report = survey(engine)

    reason = "1 of 4 CPUs are promised to others: bob's train-08 (1)"
    wait = _ps.Wait(ID, "bob", "/srv/sweep", 1, 90.0, "3.5 CPUs, 1g of memory", reason)
    assert report.waits[0] == wait
    assert report.sweeps[0].waiting_s == 90.0
    lines = _ps.table(report, None).splitlines()
    assert lines[1].split()[:6] == ["bob", "abc123", "1", "1+", "?", "?"]
    other = (
        "4.5 of 4 CPUs are promised to others or asked for before: bob's train (3.5), "
        "bob's train-08 (1)"
    )
    assert lines[-3:] == [
        "Waiting for room on this engine:",
        f"  bob abc123 #1, 1m, for 3.5 CPUs, 1g of memory: {reason}",
        f"  ada abc123 a look into its image, 20s, for 1 CPU, 1g of memory: {other}",
    ]
    assert max(map(len, _ps.table(report, 80).splitlines())) <= 80
    assert [wait.user for wait in survey(engine, user="ada").waits] == ["ada"]
    assert _ps.as_json(report)["waits"][0]["waited_s"] == 90


def test_who_waits_in_vain(engine):
    """A job that cannot start beside containers that are no sweep's is told apart."""
    engine.run("redis")
    engine.noted = [
        a_ticket("a", memory=8 * GIB),
        a_ticket("b", job=2, age=5.0, gpus=Gpus(count=2)),
        a_ticket("c", job=3, age=1.0, cpus=0.5),
    ]
    assert [wait.reason for wait in survey(engine).waits] == [
        "cannot start as it is: 2g of 8g memory is promised to others: the container redis (2g)",
        "1 GPUs are promised to others: the container redis (1)",
        "",
    ]


def test_many_that_wait(engine):
    """The longest waits are shown, and the others counted."""
    engine.noted = [a_ticket(f"{number}", job=number, cpus=1) for number in range(13)]
    assert _ps.table(survey(engine), 80).splitlines()[-1] == "  and 3 more"


def test_tickets_that_cannot_be_listed(engine):
    """The rest is shown all the same."""
    engine.forbids = "volumes are forbidden here"
    assert _ps.table(survey(engine), 80).splitlines()[-2:] == [
        "Waiting for room on this engine:",
        "  nobody can say: volumes are forbidden here",
    ]


# ---- how it is shown -----------------------------------------------------------------------------


def fifty(engine: TeamEngine) -> _ps.Report:
    for number in range(50):
        engine.run(
            f"train-{number}",
            sweep=f"20270115-080000-{number:06x}",
            user=("ada", "bartholomew.the.second", "c\x1b[2Jy")[number % 3],
            job=0,
            folder=f"/data/projects/vision/multirun/2027-01-15/08-00-{number:02d}",
        )
    return survey(engine)


@pytest.mark.parametrize("width", [80, 100, 120, None])
def test_width(engine, width):
    """Fifty sweeps make fifty lines, none longer than the terminal; what is cut is the folder."""
    lines = _ps.table(fifty(engine), width).splitlines()
    rows = lines[: lines.index("")]
    assert len(rows) == 51
    assert max(len(line) for line in rows) <= (width or 1000)
    assert rows[0].split()[:6] == ["USER", "SWEEP", "RUN", "WAIT", "DONE", "FAIL"]
    assert ("FOLDER" in rows[0]) == (width != 80)
    assert all("08-00-" in row for row in rows[1:]) == (width != 80)
    assert "\x1b" not in "".join(lines)
    assert re.split(r" {2,}", rows[1])[:9] == [
        "ada", "000000", "1", "?", "?", "?", "0.5/1", "1g/2g", "1",
    ]  # fmt: skip


def test_nobody_looks_after_it(engine, tmp_path):
    """Below the table stands what goes on with sweeps that nobody looks after."""
    for number in range(5):
        sweep = f"20270115-080000-{number:06d}"
        folder = a_sweep(tmp_path / str(number), a_job(0), sweep=sweep)
        engine.run(f"train-{number}", sweep=sweep, user="ada", job=0, folder=folder)
    lines = _ps.table(survey(engine), 120).splitlines()
    assert lines[-5:] == [
        "Nobody looks after these; this goes on with them:",
        *(f"  hydra-docker attach {tmp_path / str(number)}" for number in range(3)),
        "  and 2 more",
    ]


def test_launcher_in_the_background(engine, tmp_path):
    """A process in the background has the sign that a shell gives it."""
    folder = a_sweep(tmp_path / "sweep", a_job(0))
    taken = _sweep_folder.take(SweepPaths(folder), background=True)
    engine.run("train-0", sweep=ID, user="ada", job=0, folder=folder)
    assert f"  {os.getpid()}&  " in _ps.table(survey(engine), None)
    taken.release()


def test_nothing_runs(engine, capsys):
    """An engine without sweeps is no error."""
    assert main(["ps"]) == 0
    assert capsys.readouterr().out == (
        "No sweep runs on this engine.\n\n"
        f"{LOCAL.name} has 4 CPUs and 8g of memory\n"
        "sweeps   0, promised 0 CPUs and 0\nothers   0, promised 0 CPUs and 0\n"
    )


def test_json(engine, capsys):
    """Scripts get every value, with its unit, and null for what is not known."""
    engine.run("train-0", sweep=ID, user="bob", job=0, folder="/srv/sweep")
    assert main(["ps", "--json", "--all-users"]) == 0
    told = json.loads(capsys.readouterr().out)
    (sweep,) = told["sweeps"]
    assert isinstance(sweep.pop("age_s"), int)
    assert sweep == {
        "sweep": ID,
        "user": "bob",
        "folder": "/srv/sweep",
        "started": NOW - 3600,
        "jobs": {
            "running": 1,
            "waiting": None,
            "completed": None,
            "failed": None,
            "unrecorded": None,
            "total": None,
        },
        "promised": {"cpus": 1.0, "memory": 2 * GIB, "gpus": 1, "unlimited": 0},
        "used": {"cpus": 0.5, "memory": GIB},
        "waiting_s": None,
        "looked_after": {"by": "unknown", "pid": None, "host": None},
        "containers": ["train-0"],
    }
    assert told["waits"] == []
    assert told["others"] == {
        "containers": 0,
        "promised": {"cpus": 0, "memory": 0, "gpus": 0, "unlimited": 0},
        "used": None,
    }
    assert told["host"] == {"name": LOCAL.name, "cpus": 4, "memory": 8 * GIB}


def test_watch(engine, capsys, monkeypatch):
    """It looks again until Ctrl-C."""
    naps = iter((None, KeyboardInterrupt))

    def nap(_seconds):
        error = next(naps)
        if error is not None:
            raise error

    monkeypatch.setattr(_view_commands, "time", SimpleNamespace(time=lambda: NOW, sleep=nap))
    assert main(["ps", "--mine", "--watch"]) == 130
    assert capsys.readouterr().out.count("No sweep runs") == 2


def test_reader_that_has_enough(tmp_path):
    """``hydra-docker doctor | head -1`` ends without a traceback."""
    path = os.pathsep.join([str(Path(_ps.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        (sys.executable, "-m", "hydra_plugins.hydra_docker_launcher._cli", "doctor"),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "DOCKER_HOST": "unix:///no/such/socket"},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ps", "--mine", "--all-users"], "not allowed with argument --mine"),
        (["ps", "--json", "--watch"], "not allowed with argument --json"),
        (["logs", "x", "--tail", "-1"], "'-1' is no number of lines"),
        (["logs", "x", "one"], "invalid int value: 'one'"),
        (["stop", "x", "#1"], "invalid int value: '#1'"),
    ],
)
def test_wrong_use(capsys, arguments, said):
    """Wrong use ends with exit code 2, and says what is right."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


# ---- the engine's words --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "config", "grant"),
    [
        ({"NanoCpus": 1_500_000_000, "Memory": GIB}, {"StopTimeout": 3}, Grant(1.5, GIB, grace=3)),
        ({"CpuQuota": 50_000, "Memory": 0}, {"StopTimeout": None}, Grant(0.5)),
        ({"CpuQuota": 50_000, "CpuPeriod": 25_000}, {}, Grant(2.0)),
        ({"NanoCpus": 0, "CpuQuota": -1, "Memory": -1}, {}, Grant()),
        (
            {"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}]},
            {},
            Grant(gpus=Gpus(all=True)),
        ),
        (
            {
                "DeviceRequests": [
                    {"DeviceIDs": ["GPU-1", "GPU-2"], "Capabilities": [["gpu"]]},
                    {"Driver": "nvidia", "Count": 2, "DeviceIDs": None},
                    {"Driver": "cdi", "DeviceIDs": ["vendor.com/nic=0"]},
                ]
            },
            {},
            Grant(gpus=Gpus(count=2, ids=("GPU-1", "GPU-2"))),
        ),
    ],
)
def test_grant(limits, config, grant):
    """The engine's limits in this project's values, in whatever way they were given."""
    assert _docker_values.grant({"HostConfig": limits, "Config": config}) == grant


def a_sample(cpu: int, system: int, memory: dict[str, Any]) -> dict[str, Any]:
    return {
        "cpu_stats": {
            "cpu_usage": {"total_usage": cpu, "percpu_usage": [1, 1]},
            "system_cpu_usage": system,
            "online_cpus": 2,
        },
        "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
        "memory_stats": memory,
    }


@pytest.mark.parametrize(
    ("stats", "use"),
    [
        (a_sample(600, 2000, {"usage": 90, "stats": {"total_inactive_file": 30}}), Use(1.0, 60)),
        (a_sample(600, 2000, {"usage": 90, "stats": {"inactive_file": 30}}), Use(1.0, 60)),
        (a_sample(600, 2000, {"usage": 90, "stats": {"inactive_file": 91}}), Use(1.0, 90)),
        (a_sample(100, 1000, {"usage": 90}), Use(0.0, 90)),
        (a_sample(600, 2000, {}), None),
        ({}, None),
    ],
)
def test_use(stats, use):
    """CPUs are of the time between two samples; memory is without what could be dropped."""
    assert _docker_values.use(stats) == use


def test_facts():
    """A limit that the engine ignores is told by the option's name."""
    info = {
        "ServerVersion": "20.10.24",
        "DockerRootDir": "/var/lib/docker",
        "CgroupDriver": "systemd",
        "Runtimes": {"runc": {}, "nvidia": {}},
        "MemoryLimit": True,
        "SwapLimit": False,
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "Warnings": None,
    }
    facts = _docker_values.facts(info, FACTS.host, FACTS.address, "1.41")
    assert facts == replace(
        FACTS, cgroup_driver="systemd", limits=("memswap_limit", "pids_limit"), warnings=()
    )


# ---- logs ----------------------------------------------------------------------------------------


@pytest.fixture
def printed(tmp_path) -> Path:
    """The folder of a sweep with two jobs that have printed lines by turns."""
    folder = tmp_path / "sweep"
    jobs = [
        a_job(number, "completed") | {"output_dir": str(folder / str(number))} for number in (0, 1)
    ]
    a_sweep(folder, *jobs, is_open=False)
    for number in (0, 1):
        (folder / str(number)).mkdir()
        lines = (
            f"2027-01-15T08:00:0{2 * step + number}.000000000Z step {step}\x1b[2J"
            for step in range(3)
        )
        (folder / str(number) / "container.log").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ([], ["#0 | step 0", "#1 | step 0", "#0 | step 1", "#1 | step 1", "#0 | step 2"]),
        (["1"], ["#1 | step 0", "#1 | step 1", "#1 | step 2"]),
        (["--tail", "1"], ["#0 | step 2", "#1 | step 2"]),
        (["--tail", "0", "0"], []),
        (["-n", "9", "-f", "0"], ["#0 | step 0", "#0 | step 1", "#0 | step 2"]),
        (["0", "--tail", "1", "-t"], ["#0 | 2027-01-15T08:00:04.000000000Z step 2"]),
    ],
)
def test_logs(printed, capsys, arguments, lines):
    """What jobs have printed, in the order of time, without what plays tricks on a terminal."""
    assert main(["logs", str(printed), *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[: len(lines) or None] == lines


def test_tail_of_a_long_log(tmp_path):
    """The last lines are found from the end, however long they are."""
    file = tmp_path / "log"
    lines = [f"{number} {'x' * 50_000}\n" for number in range(10)]
    file.write_text("".join(lines))
    with file.open("rb") as opened:
        for last in (1, 3, 10, 99):
            start = _logs._start_of_last(opened.fileno(), last)
            assert start == len("".join(lines[: max(0, 10 - last)]))


def test_log_that_is_followed(printed, monkeypatch):
    """Lines are shown as they come, each once, and a half one when it is whole."""
    ledger = json.loads((printed / "sweep.json").read_text())
    ledger["jobs"][1]["outcome"] = None
    (printed / "sweep.json").write_text(json.dumps(ledger))
    (printed / ".docker").mkdir()
    taken = _sweep_folder.take(SweepPaths(printed))
    log, shown = printed / "1/container.log", []

    def nap(_seconds):
        """Write more, and in the end record the job's end."""
        with log.open("a") as file:
            file.write(next(parts))
        if len(shown) == 3:
            ledger["jobs"][1]["outcome"] = "error"
            (printed / "sweep.json").write_text(json.dumps(ledger))

    parts = iter([" is", " done\n2027-01-15T08:00:09.000000000Z bye", "\n"])
    monkeypatch.setattr(_logs, "time", SimpleNamespace(sleep=nap))
    wish = _logs.Wish(jobs=(1,), follow=True)
    assert _logs.show(printed, wish, shown.append) is True
    taken.release()
    assert shown == ["#1 | step 0", "#1 | step 1", "#1 | step 2 is done", "#1 | bye"]


def test_nobody_writes_the_log(printed, capsys):
    """Where nobody looks after the sweep, nothing more comes, and that is said."""
    ledger = json.loads((printed / "sweep.json").read_text())
    ledger["jobs"][1]["outcome"] = None
    (printed / "sweep.json").write_text(json.dumps(ledger))
    assert main(["logs", str(printed), "--follow", "1"]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("#1 | ") == 3
    assert f"hydra-docker attach {printed}" in captured.err


@pytest.mark.parametrize("trick", ["link", "pipe", "folder"])
def test_log_that_is_no_log(printed, capsys, trick):
    """A container can put anything where its log is: no link is followed, no pipe waited for."""
    log = printed / "0/container.log"
    log.unlink()
    if trick == "link":
        log.symlink_to("/etc/passwd")
    elif trick == "pipe":
        os.mkfifo(log)
    else:
        log.mkdir()
    assert main(["logs", str(printed)]) == 1
    assert f"error: {log}" in capsys.readouterr().err


def test_no_such_job(printed, capsys, tmp_path):
    """A number that no job has is an error, and so is a folder of no sweep."""
    assert main(["logs", str(printed), "7"]) == 1
    assert capsys.readouterr().err == "error: The sweep has no job #7; it has 0 to 1\n"
    assert main(["logs", str(tmp_path)]) == 1
    assert "is the folder of no sweep" in capsys.readouterr().err


# ---- names, and whose it is ----------------------------------------------------------------------


def test_names_of_a_sweep(engine, tmp_path, monkeypatch):
    """A folder, an id, its end, the beginning of a container's name: they all say which sweep."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    engine.run("train-08-0", sweep=ID, user="ada", job=0, folder="/srv/sweep")
    engine.run("other-08-0", sweep="20270115-090000-def123", job=0, folder="/srv/other")
    engine.layers = [a_layer("20270115-100000-fff000", folder="/srv/waits")]
    for name, folder in {
        "here": tmp_path / "here",
        "./gone": tmp_path / "gone",
        ID: Path("/srv/sweep"),
        "abc123": Path("/srv/sweep"),
        "train-08": Path("/srv/sweep"),
        "fff000": Path("/srv/waits"),
    }.items():
        assert _team.folder_of(name, lambda: engine) == folder
    with pytest.raises(SweepError, match="Several sweeps are called 123"):
        _team.folder_of("123", lambda: engine)
    with pytest.raises(SweepError, match="no sweep of that name on this engine"):
        _team.folder_of("nowhere", lambda: engine)


@pytest.fixture
def somebody(tmp_path) -> Path:
    """The folder of a sweep of somebody else."""
    return a_sweep(tmp_path / "sweep", a_job(0), a_job(1), user="bob")


@pytest.mark.parametrize("command", ["stop", "attach"])
def test_sweep_of_somebody_else(somebody, engine, capsys, command):
    """A user stops only their own sweeps, unless told otherwise."""
    assert main([command, str(somebody)]) == 1
    error = capsys.readouterr().err
    assert f"The sweep in {somebody} is bob (uid {os.getuid()})'s, and you are " in error
    assert "--others" in error
    assert engine.stopped == []


def test_others_all_the_same(somebody, capsys, monkeypatch):
    """With --others it is stopped all the same."""
    asked = []

    def stop(folder, **_):
        asked.append(folder)
        return SimpleNamespace(rows={})

    monkeypatch.setattr(_attach, "stop", stop)
    assert main(["stop", "--others", str(somebody)]) == 0
    assert asked == [somebody]


def test_owner_by_number(somebody):
    """The name alone does not make a sweep one's own: its files have an owner."""
    with pytest.raises(SweepError, match="is bob"):
        _ownership.check(somebody, _ownership.Owner("bob", 4711), doing="stop")
    _ownership.check(somebody, _ownership.Owner("bob", os.getuid()), doing="stop")
    (somebody / "sweep.json").unlink()
    assert _ownership.owner_of(somebody) == _ownership.Owner(None, os.getuid())
    _ownership.check(somebody, _ownership.Owner("ada", os.getuid()), doing="stop")
    with pytest.raises(SweepError, match=rf"\(uid {os.getuid()}\)'s, and you are ada"):
        _ownership.check(somebody, _ownership.Owner("ada", 4711), doing="stop")


def test_files_that_are_not_ours(somebody, engine, capsys, monkeypatch):
    """Who may not touch a sweep's files can stop its containers, and is told what is left."""
    monkeypatch.setattr(_ownership, "is_writable", lambda _: False)
    engine.run("train-0", sweep=ID, user="bob", job=0, folder="/by/another/path")
    assert main(["stop", "--others", str(somebody)]) == 1
    assert engine.stopped == [("train-0", 3.0)]
    said = capsys.readouterr().out
    assert said.startswith("stopped: #0\n")
    assert f"only bob (uid {os.getuid()}) and root can end it" in said
    assert main(["attach", "--others", str(somebody)]) == 1
    assert "only bob" in capsys.readouterr().err


def test_folder_that_nobody_else_may_enter(tmp_path, engine, capsys, monkeypatch):
    """Where not even the sweep's folder can be looked into, its labels are enough to stop it."""

    def refuse(_folder):
        raise PermissionError

    monkeypatch.setattr(_sweep_folder, "find", refuse)
    engine.run("train-0", sweep=ID, user="bob", job=0, folder=tmp_path)
    assert main(["stop", "abc123"]) == 1
    assert f"The sweep in {tmp_path} is somebody else's, and you are " in capsys.readouterr().err
    assert main(["attach", "--others", "abc123"]) == 1
    assert "only somebody else and root can take it up" in capsys.readouterr().err
    assert main(["stop", "abc123", "--others"]) == 1
    assert engine.stopped == [("train-0", 3.0)]
    assert "stopped: #0" in capsys.readouterr().out
    (tmp_path / "sweep.json").symlink_to(tmp_path)
    assert main(["logs", "abc123"]) == 1
    assert "sweep.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", [["0"], []], ids=["job", "all"])
def test_folder_on_another_machine(engine, capsys, jobs):
    """Where no folder tells whose a sweep is, its containers do."""
    engine.run("train-0", sweep=ID, user="bob", job=0, folder="/on/another/machine")
    engine.run("train-1", sweep=ID, user="bob", job=1, folder="/on/another/machine")
    assert main(["stop", "abc123", *jobs]) == 1
    error = capsys.readouterr().err
    assert "The container train-0 is bob's, and you are " in error
    assert "--others" in error
    assert engine.stopped == []

    assert main(["stop", "abc123", "--others", *jobs]) == (0 if jobs else 1)
    assert [name for name, _ in engine.stopped] == ["train-0", *([] if jobs else ["train-1"])]
    out = capsys.readouterr().out
    assert jobs or "only its user, where its folder is, can end it" in out


def test_own_sweep_on_another_machine(engine, capsys):
    """One's own can be stopped from any machine that reaches the engine."""
    me = _pinning.identity("host").name
    engine.run("train-0", sweep=ID, user=me, job=0, folder="/on/another/machine")
    assert main(["stop", "abc123"]) == 1  # jobs that wait are its launcher's to stop
    assert engine.stopped == [("train-0", 3.0)]
    engine.found = []
    assert main(["stop", "/on/another/machine"]) == 1
    assert "There is no folder /on/another/machine here" in capsys.readouterr().err
    engine.run("train-2", sweep=ID, job=2, folder="/on/another/machine")
    assert main(["stop", "abc123", "2"]) == 1
    assert "is nobody's that could be told" in capsys.readouterr().err


def test_single_jobs(tmp_path, engine, capsys):
    """Single jobs are stopped with their own grace; the rest of the sweep is left alone."""
    folder = a_sweep(tmp_path / "sweep", a_job(0), a_job(1), a_job(2, "completed"), a_job(3))
    for number in (0, 1):
        engine.run(f"train-{number}", sweep=ID, job=number, folder=folder)
    assert main(["stop", str(folder), "1"]) == 0
    assert engine.stopped == [("train-1", 3.0)]
    assert capsys.readouterr().out == (
        f"stopped: #1\nNobody looks after the sweep, to record it: hydra-docker attach {folder}\n"
    )
    for number, said in (
        ("2", "Job #2 has ended already: completed"),
        ("3", "Job #3 has no container that runs. One that waits for its turn can only be "),
        ("4", "The sweep has no job #4; it has 0 to 3"),
    ):
        assert main(["stop", str(folder), "0", number]) == 1
        assert said in capsys.readouterr().err
    assert engine.stopped == [("train-1", 3.0)]


def test_launcher_in_the_foreground(tmp_path, monkeypatch):
    """Only the user's own command on this machine is sent a signal, and its end is waited for."""
    keepers = [Keeper(4711, socket.gethostname(), background=False)] * 3 + [None]
    killed, left = [], iter(keepers)
    monkeypatch.setattr(_sweep_folder, "keeper", lambda _: next(left))
    monkeypatch.setattr(os, "kill", lambda *signal: killed.append(signal))
    _background.end_launcher(SweepPaths(tmp_path))
    assert killed == [(4711, signal.SIGTERM)]
    assert next(left, "all were looked at") == "all were looked at"
    for other in (
        None,
        Keeper(4711, "another", background=False),
        Keeper(4711, socket.gethostname(), background=True),
        Keeper(0, "", background=False),
    ):
        monkeypatch.setattr(_sweep_folder, "keeper", lambda _, other=other: other)
        _background.end_launcher(SweepPaths(tmp_path))
    assert len(killed) == 1


# ---- doctor --------------------------------------------------------------------------------------


def told(findings: Any) -> dict[str, str]:
    return {finding.what: str(finding) for finding in findings}


def test_healthy_engine():
    """An engine that does all is so in a line for each."""
    findings = list(_doctor.engine(FACTS))
    assert {finding.level for finding in findings} == {Level.OK}
    limits = "cpus, mem_limit, memswap_limit, pids_limit work"
    machine = "on box: 4 CPUs, 8g of memory"
    assert [str(finding) for finding in findings] == [
        f"ok       engine: Docker 20.10.24 at unix:///var/run/docker.sock {machine}",
        "ok       api: version 1.41",
        f"ok       limits: {limits} (cgroup version 1, driver cgroupfs)",
        "ok       storage: driver overlay2",
        "ok       gpus: the engine has the NVIDIA runtime",
    ]


def test_limits_that_do_not_work():
    """A limit without effect is told by its option, with the remedy."""
    warnings = ("WARNING: No swap limit support", "WARNING: bridge-nf-call-iptables is disabled")
    facts = replace(FACTS, limits=("memswap_limit",), warnings=warnings, api="1.39", runtimes=())
    facts = replace(facts, host=replace(facts.host, storage="vfs"))
    said = told(_doctor.engine(facts))
    assert said["memswap_limit"].startswith("warning  memswap_limit: the engine cannot limit it")
    assert "swapaccount=1" in said["memswap_limit"]
    assert "bridge-nf-call-iptables" in said["engine says"]
    assert said["api"].startswith("problem  api: version 1.39 is old. Install Docker 20.10")
    assert said["storage"].startswith("warning  storage: driver vfs is slow")
    assert said["gpus"] == "ok       gpus: no NVIDIA runtime, so jobs have no GPUs"
    assert "limits" not in said
    rootless = told(_doctor.engine(replace(FACTS, cgroup_driver="none")))
    assert {"cpus", "mem_limit", "memswap_limit", "pids_limit"} <= rootless.keys()
    assert rootless["cpus"].startswith("problem  cpus: ")
    assert "Delegate=" in rootless["cpus"]
    old = told(_doctor.engine(replace(FACTS, api="1.40")))
    assert old["api"].startswith("warning  api: version 1.40 is old")


@pytest.mark.parametrize(
    ("error", "environ", "remedy"),
    [
        ("Permission denied", {}, "Your user may not use it: sudo usermod"),
        ("refused", {"DOCKER_HOST": "tcp://box:1"}, "DOCKER_HOST=tcp://box:1 says where to look"),
        ("No such file", {}, "Start Docker (sudo systemctl start docker)"),
    ],
)
def test_no_engine(error, environ, remedy):
    """Where no engine answers, the reason decides what to do."""
    finding = _doctor.no_engine(f"No Docker engine answers: {error}\nmore", environ)
    assert finding.level is Level.PROBLEM
    assert str(finding).startswith(f"problem  engine: No Docker engine answers: {error}. {remedy}")


@pytest.mark.parametrize(
    ("found", "python", "said"),
    [
        ({"hydra-core": "1.4.0rc3"}, (3, 10), "ok       packages: hydra-core 1.4.0rc3"),
        (
            {"hydra-core": "1.5.0"},
            (3, 10),
            f"problem  hydra-core: 1.5.0 is not supported. {INSTALL} 'hydra-core>=1.3,<1.5'",
        ),
        (
            {"mlflow": None},
            (3, 10),
            f"problem  mlflow: is not installed. {INSTALL} 'mlflow>=3.1'",
        ),
        ({}, (3, 9), "problem  python: 3.9 is too old. Use Python 3.10 or newer"),
    ],
)
def test_versions(found, python, said):
    """A package that is missing, too old or too new is told with what to install."""
    assert [str(finding) for finding in _doctor.versions(found, python)] == [said]


def test_supported_versions():
    """They are those of setup.py."""
    setup = (Path(__file__).parents[2] / "setup.py").read_text()
    for name, (at_least, below) in _doctor.SUPPORTED.items():
        assert f'"{name}>={at_least}{f",<{below}" if below else ""}"' in setup


@pytest.mark.parametrize(
    ("free", "level"),
    [(20 * GIB, Level.OK), (2 * GIB, Level.WARNING), (GIB // 2, Level.PROBLEM)],
)
def test_disk(free, level):
    """A disk that runs full is told before a sweep fills it."""
    finding = _doctor.disk("disk of this folder", Path("/data"), free)
    assert finding.level is level
    assert ("hydra-docker gc" in str(finding)) == (level is not Level.OK)


@pytest.fixture
def repository(tmp_path, monkeypatch) -> GitRepository:
    isolate(tmp_path, monkeypatch)
    made = init(tmp_path / "project")
    made.commit(train__py="one")
    return made


def test_repository(repository, tmp_path):
    """What is not committed and not pushed is told; changed YAML is no code."""
    (clean,) = _doctor.repository(repository.root)
    assert clean.level is Level.OK
    assert clean.state.endswith("; there is no remote")
    repository.write("conf.yaml", "lr: 1")
    assert [finding.level for finding in _doctor.repository(repository.root)] == [Level.OK]
    for name in "abcd":
        repository.write(f"{name}.py", "")
    repository.git("init", "--bare", "--quiet", str(tmp_path / "remote.git"))
    repository.git("remote", "add", "origin", str(tmp_path / "remote.git"))
    repository.git("fetch", "--quiet", "origin")
    dirty, unpushed = _doctor.repository(repository.root)
    assert "uncommitted changes: a.py, b.py, c.py and 1 more. Commit them" in str(dirty)
    assert "is on no branch of a remote" in str(unpushed)
    assert "git push" in str(unpushed)
    (none,) = _doctor.repository(tmp_path)
    assert none.level is Level.PROBLEM
    assert "git init" in str(none)


def test_store(tmp_path, monkeypatch):
    """A store that does not answer is a problem; one that the first sweep makes is none."""
    opened = []

    def broken(_uri, _folder):
        raise TrackingError("http://box does not answer\nStart it.")

    new = _doctor.store(broken, tmp_path, {})
    assert new.level is Level.OK
    assert "is made by the first sweep" in new.state
    environ = {"MLFLOW_TRACKING_URI": "http://ada:secret@box"}
    answers = _doctor.store(lambda *given: opened.append(given), tmp_path, environ)
    assert opened == [(None, tmp_path)]
    assert str(answers) == "ok       mlflow: http://ada:***@box answers"
    silent = _doctor.store(broken, tmp_path, environ)
    assert str(silent) == "problem  mlflow: http://box does not answer. Start it."


def test_doctor(engine, repository, capsys, monkeypatch):
    """Exit code 1 where there is a problem, with a line for each thing all the same."""
    monkeypatch.chdir(repository.root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-2]] == ["ok"] * (len(lines) - 2)
    assert lines[-1] == "All is well."

    def dead():
        raise EngineError("No Docker engine answers: gone\nStart Docker")

    monkeypatch.setattr(_start, "docker_engine", dead)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("problem  engine: No Docker engine answers: gone. ")
    assert any(line.startswith("ok       repository: ") for line in lines)
    assert lines[-1] == "1 problem"
