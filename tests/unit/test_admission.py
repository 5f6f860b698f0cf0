"""Admission: launchers agree through their engine who may start a container."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from dataclasses import replace

import pytest
from fakes import PATIENCE, FakeEngine

from hydra_plugins.hydra_docker_launcher import _admission, _shortage, _tickets
from hydra_plugins.hydra_docker_launcher._admission import Admission, Request
from hydra_plugins.hydra_docker_launcher._capacity import Machine, Promise
from hydra_plugins.hydra_docker_launcher._engine import (
    Boundary,
    ContainerSpec,
    Limits,
    Occupant,
    Ticket,
)
from hydra_plugins.hydra_docker_launcher._errors import EngineError
from hydra_plugins.hydra_docker_launcher._option_values import NO_GPUS, Gpus
from hydra_plugins.hydra_docker_launcher._tickets import Place

MACHINE = Machine(cpus=4, memory=1000, gpus=("A", "B"))
ELSEWHERE = "another-machine/1 77 5"  # a process that cannot be seen from here


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for name, value in (("FIRST_PAUSE", 0.002), ("LONGEST_PAUSE", 0.01), ("YIELD", 0.001)):
        monkeypatch.setattr(_admission, name, value)


def spec(sweep="s", job=0, cpus=1.0, memory=10, gpus=NO_GPUS, user="ann", share=False):
    labels = {
        "hydra.docker.sweep": sweep,
        "hydra.docker.job": str(job),
        "hydra.docker.attempt": "1",
        "hydra.docker.user": user,
        **({"hydra.docker.gpu_share": "true"} if share else {}),
    }
    return ContainerSpec(
        name=f"train-{sweep}-{job}",
        image="sha256:a",
        command=("python3",),
        working_dir="/",
        limits=Limits(cpus, memory, memory, memory, -1),
        boundary=Boundary(user=None),
        gpus=gpus,
        labels=tuple(labels.items()),
    )


def occupant(found, number="c"):
    """Return what the engine shows of a container that runs."""
    limits = found.limits
    labels = dict(found.labels)
    return Occupant(number, found.name, labels, limits.cpus, limits.memory, found.gpus)


def place(found, since=0.0, admitted=False, process=ELSEWHERE, seen=None, number="other"):
    return Place(
        id=number,
        name="",
        since=since,
        seen=time.time() if seen is None else seen,
        admitted=admitted,
        process=process,
        promise=Promise.to(found),
        attempt=tuple(dict(found.labels)[name] for name in _tickets.SAME),
    )


class Launcher:
    """One sweep's side of the agreement."""

    def __init__(self, engine, machine=MACHINE):
        self.woken = threading.Event()
        self.engine = engine
        self.admission = Admission(engine, machine, self.woken.set)

    def ask(self, found):
        number = int(dict(found.labels)["hydra.docker.job"])
        self.admission.ask(Request((number, 1), f"job #{number}", found))

    def answer(self, timeout=PATIENCE):
        """Return the container to start, as soon as it is admitted."""
        assert self.woken.wait(timeout)
        self.woken.clear()
        request, found = self.admission.answer()
        self.admission.taken()
        self.key = request.key
        return found

    def waits(self):
        """Tell whether it has its ticket up, and is not let in at several looks."""
        self.engine.wait_for(lambda: states(self.engine).count("waiting") > 0)
        return not self.woken.wait(0.05)


def states(engine):
    return [ticket.labels["hydra.docker.ticket.state"] for ticket in [*engine.noted.values()]]


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def launcher(engine):
    made = []

    def make(**options):
        made.append(Launcher(engine, **options))
        return made[-1]

    yield make
    for one in made:
        one.admission.stop()
    assert [name for name in engine.noted if "foreign" not in name] == []


def post(engine, one, serial=1):
    ticket = _tickets.to_ticket(one, serial, {})
    engine.noted[f"foreign-{ticket.name}"] = replace(ticket, name=f"foreign-{ticket.name}")


# ---- one launcher --------------------------------------------------------------------------------


def test_a_free_machine(engine, launcher):
    """Where there is room the job starts at once; until its container runs, its ticket counts."""
    one = launcher()
    one.ask(spec())
    found = one.answer()
    assert dict(found.labels)["hydra.docker.waited"].startswith("0.")
    assert states(engine) == ["admitted"]
    assert one.admission.holds((0, 1))

    one.admission.over((0, 1))
    engine.wait_for(lambda: not engine.noted)


@pytest.mark.parametrize(
    ("taken", "wanted"),
    [
        (spec(cpus=3.5), spec("t", cpus=1)),
        (spec(memory=995), spec("t", memory=10)),
        (spec(gpus=Gpus(ids=("A",))), spec("t", gpus=Gpus(ids=("A",)))),
        (spec(gpus=Gpus(ids=("1",))), spec("t", gpus=Gpus(count=2))),
        (spec(gpus=Gpus(all=True)), spec("t", gpus=Gpus(count=1))),
    ],
    ids=["cpus", "memory", "gpu", "count", "all"],
)
def test_what_runs_is_promised(engine, launcher, taken, wanted):
    """A job waits until what it needs is promised to no container that runs."""
    engine.others = (occupant(taken),)
    one = launcher()
    one.ask(wanted)
    assert one.waits()

    engine.others = ()
    one.answer()


def test_containers_of_others(engine, launcher):
    """What is no sweep's counts by its limits; without limits it is promised nothing."""
    redis = Occupant("r", "redis", {}, None, None)
    engine.others = (redis, Occupant("p", "postgres", {}, 3.0, None))
    one = launcher()
    one.ask(spec(cpus=2))
    assert one.waits()
    engine.others = (redis,)
    one.answer()


def test_gpus_are_leased_by_id(engine, launcher):
    """Each container gets GPUs that nobody has; it is told of these, and no others."""
    one, two = launcher(), launcher()
    one.ask(spec("s", gpus=Gpus(count=1)))
    first = one.answer()
    two.ask(spec("t", gpus=Gpus(count=1)))
    second = two.answer()

    for found, gpu in ((first, "A"), (second, "B")):
        assert found.gpus == Gpus(ids=(gpu,))
        assert dict(found.environment) == {"NVIDIA_VISIBLE_DEVICES": gpu}
        assert dict(found.labels)["hydra.docker.gpus"] == gpu


def test_shared_gpus(engine, launcher):
    """Who shares gets the GPU with the fewest users, and none that somebody has alone."""
    alone = occupant(spec("x", gpus=Gpus(ids=("A",))))
    engine.others = (alone,)
    one, two = launcher(), launcher()
    one.ask(spec("s", gpus=Gpus(count=1), share=True))
    two.ask(spec("t", gpus=Gpus(ids=("B",)), share=True))
    assert (one.answer().gpus, two.answer().gpus) == (Gpus(ids=("B",)), Gpus(ids=("B",)))
    three = launcher()
    three.ask(spec("u", gpus=Gpus(count=1)))
    assert three.waits()


def test_an_engine_that_refuses(engine, launcher):
    """Where nobody can tell whether there is room, the job does not start without."""
    engine.ticket_error = "volumes are forbidden here"
    one = launcher()
    one.ask(spec())
    answer = one.answer()
    assert isinstance(answer, EngineError)
    assert str(answer) == "volumes are forbidden here"


def test_a_ticket_that_somebody_removes(engine, launcher):
    """A waiting ticket is put up again; of an admitted one the job is told."""
    engine.others = (occupant(spec(cpus=4)),)
    one = launcher()
    one.ask(spec("t"))
    assert one.waits()
    engine.noted.clear()
    engine.wait_for(lambda: states(engine) == ["waiting"])
    engine.others = ()
    one.answer()
    engine.noted.clear()
    assert not one.admission.holds(one.key)


def test_renewed(engine, launcher, monkeypatch):
    """A ticket is renewed as long as it is needed: others may be unable to see the process."""
    monkeypatch.setattr(_admission, "BEAT", 0.02)
    one = launcher()
    one.ask(spec())
    one.answer()
    names = set(engine.noted)
    engine.wait_for(lambda: engine.noted and names.isdisjoint(engine.noted))
    assert states(engine)[-1] == "admitted"


def test_held(engine):
    """A container that is no job's waits too, and is promised what it needs as long as it runs."""
    with _admission.held(engine, MACHINE, spec()):
        assert states(engine) == ["admitted"]
    assert engine.noted == {}
    engine.ticket_error = "volumes are forbidden here"
    with pytest.raises(EngineError, match="forbidden"), _admission.held(engine, MACHINE, spec()):
        pytest.fail("it was let in")


# ---- several launchers ---------------------------------------------------------------------------


def test_who_waits_longer_comes_first(engine, launcher):
    """A small job does not take what an older one waits for, though it would fit now."""
    engine.others = (occupant(spec(cpus=2)),)
    post(engine, place(spec("old", cpus=4), since=1.0))
    one = launcher()
    one.ask(spec("t", cpus=1))
    assert one.waits()

    engine.noted = {n: t for n, t in engine.noted.items() if "foreign" not in n}
    one.answer()


def test_who_came_later_waits(engine, launcher):
    """Younger tickets do not hinder, as long as they only wait."""
    post(engine, place(spec("young", cpus=4), since=time.time() + 1000))
    one = launcher()
    one.ask(spec("t", cpus=4))
    one.answer()


def test_beside_who_waits(engine, launcher):
    """What nobody waits for is given to whoever fits in."""
    post(engine, place(spec("old", cpus=1, gpus=Gpus(count=2)), since=1.0))
    engine.others = (occupant(spec("x", gpus=Gpus(ids=("A",)))),)
    one, two = launcher(), launcher()
    one.ask(spec("t", cpus=2))
    one.answer()
    two.ask(spec("u", cpus=0.1, gpus=Gpus(count=1)))  # the older one needs it
    assert two.waits()


@pytest.mark.parametrize(("since", "gets_in"), [(1.0, False), (9e9, True)])
def test_both_at_once(engine, launcher, since, gets_in):
    """Of two that are admitted at the same moment, and have no room together, the older stays."""
    rival = place(spec("rival", cpus=4), since=since, admitted=True)
    came = []

    def act():
        if not came and "admitted" in states(engine):  # after its first look, before its second
            came.append(True)
            post(engine, rival)
        elif came and since > 1e9 and len(came) < 3:
            came.append(True)
            if len(came) == 3:  # the younger one steps back
                engine.noted = {n: t for n, t in engine.noted.items() if "foreign" not in n}

    engine.before_look = act
    one = launcher()
    one.ask(spec("t", cpus=1))
    if gets_in:
        one.answer()
    else:
        assert one.waits()
        assert sorted(states(engine)) == ["admitted", "waiting"]


def test_a_younger_one_that_does_not_step_back(engine, launcher):
    """It has looked before: it starts already, and the older one waits for its end."""
    post(engine, place(spec("young", cpus=4), since=9e9, admitted=True))
    one = launcher()
    one.ask(spec("t", cpus=1))
    assert one.waits()


def test_never_too_much(engine):
    """Four launchers, jobs of all sizes: the machine is never promised twice, and all jobs run."""
    lock = threading.Lock()
    running = {}
    most = {"cpus": 0.0, "memory": 0}
    failures = []

    def sweep(name):
        launcher = Launcher(engine)
        try:
            for job in range(12):
                one = spec(name, job, cpus=(job * 7 + len(name)) % 4 + 1, memory=200 + 50 * job)
                launcher.ask(one)
                found = launcher.answer()
                with lock:
                    running[name] = occupant(found, name)
                    engine.others = tuple(running.values())
                    most["cpus"] = max(most["cpus"], sum(o.cpus for o in running.values()))
                    most["memory"] = max(most["memory"], sum(o.memory for o in running.values()))
                launcher.admission.over(launcher.key)
                time.sleep(0.002)
                with lock:
                    del running[name]
                    engine.others = tuple(running.values())
                launcher.admission.poke()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)
        finally:
            launcher.admission.stop()

    threads = [threading.Thread(target=sweep, args=("s" * n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert failures == []
    assert most["cpus"] <= MACHINE.cpus
    assert most["memory"] <= MACHINE.memory
    assert most["cpus"] > 1
    assert engine.noted == {}


# ---- containers that are no sweep's --------------------------------------------------------------


REDIS = Occupant("r", "redis", {}, None, 10)


def test_who_can_never_start_holds_up_nobody(engine, launcher, caplog, monkeypatch):
    """A job that does not fit beside a container that may run for good waits alone, and is told."""
    monkeypatch.setattr(_admission, "TOLD_AFTER", 0.0)
    engine.others = (REDIS,)
    all_memory, small = launcher(), launcher()
    all_memory.ask(spec("a", memory=1000))
    assert all_memory.waits()
    small.ask(spec("b", cpus=0.1, memory=10, user="bob"))
    small.answer()

    told = (
        "job #0 cannot start while the container redis runs: it asks for 1000b of memory, but 10b "
        "of 1000b memory is promised to others: the container redis (10b). Lower "
        "hydra.launcher.mem_limit, or stop it. Others do not wait for it meanwhile"
    )
    assert caplog.messages == [told]
    small.admission.over(small.key)
    engine.others = ()
    all_memory.answer()


def test_what_waits_for_jobs_is_not_passed(engine, launcher):
    """Beside what is no sweep's it fits: whoever is younger waits, though a sweep has the room."""
    engine.others = (REDIS, occupant(spec("long", memory=900)))
    post(engine, place(spec("old", memory=990), since=1.0))
    one = launcher()
    one.ask(spec("t", memory=10))
    assert one.waits()


def test_a_look_into_an_image_is_no_container_for_good(engine, launcher):
    """It ends by itself: who waits for it keeps its place."""
    look = Occupant("p", "hydra-docker-preflight-77-0123abcd", {}, 1.0, 500)
    engine.others = (look,)
    post(engine, place(spec("old", memory=990), since=1.0))
    one = launcher()
    one.ask(spec("t", memory=10))
    assert one.waits()


@pytest.mark.parametrize(
    ("gpus", "known", "passes"),
    [
        (Gpus(all=True), ("A", "B"), True),
        (Gpus(count=2), ("A", "B"), True),
        (Gpus(count=1), ("A", "B"), False),
        (Gpus(ids=("0",)), (), True),
        # How many there are only those know that ask for some.
        (Gpus(count=2), (), False),
    ],
)
def test_gpus_of_a_container_for_good(engine, launcher, gpus, known, passes):
    """The same goes for GPUs that a container has which is no sweep's."""
    engine.others = (Occupant("j", "jupyter", {}, None, None, Gpus(ids=("0",))),)
    post(engine, place(spec("old", cpus=4, gpus=gpus), since=1.0))
    one = launcher(machine=replace(MACHINE, gpus=known))
    one.ask(spec("t"))
    assert one.answer() if passes else one.waits()


# ---- launchers that are gone ---------------------------------------------------------------------


def test_a_killed_launcher_leaves_no_promise(engine, launcher):
    """Its tickets are removed by whoever sees first that its process is gone."""
    process = subprocess.Popen(["sleep", "60"])
    known = f"{_tickets._machine()} {process.pid} {_tickets._started(process.pid)}"
    post(engine, place(spec("dead", cpus=4), since=1.0, admitted=True, process=known))
    one = launcher()
    one.ask(spec("t"))
    assert one.waits()

    process.kill()
    process.wait()

    one.answer()
    assert not any("foreign" in name for name in engine.noted)


def test_a_launcher_that_is_not_heard_of(engine, launcher):
    """Of a process on another machine, its ticket counts as long as it is renewed."""
    silent = engine.now() - _tickets.STALE - 1
    post(engine, place(spec("dead", cpus=4), since=1.0, admitted=True, seen=silent))
    one = launcher()
    one.ask(spec("t"))
    one.answer()
    assert not any("foreign" in name for name in engine.noted)


def test_a_launcher_that_is_suspended(engine, launcher):
    """A process that runs and has not renewed its ticket for long holds up nobody."""
    silent = engine.now() - _tickets.STALE - 1
    mine = _tickets.this_process()
    post(engine, place(spec("stopped", cpus=4), since=1.0, process=mine, seen=silent))
    one = launcher()
    one.ask(spec("t"))
    one.answer()
    assert not any("foreign" in name for name in engine.noted)


def test_a_promise_that_was_not_renewed(engine, launcher):
    """Who was suspended has lost what it was promised: others have it, and its job asks again."""
    one = launcher()
    one.ask(spec())
    one.answer()
    assert one.admission.holds(one.key)
    (known,) = engine.noted

    ticket = one.admission._tickets[one.key]
    ticket.place = replace(ticket.place, seen=ticket.place.seen - _tickets.STALE - 1)
    one.admission.poke()

    assert not one.admission.holds(one.key)
    assert list(engine.noted) == [known]  # not renewed either


def test_what_is_left_is_dropped(engine):
    """Tickets of launchers that are gone can be removed without asking for anything."""
    post(engine, place(spec("dead"), seen=engine.now() - _tickets.STALE - 1, number="dead"))
    post(engine, place(spec("alive"), number="alive"))
    _tickets.drop_left(engine)
    assert [found.labels["hydra.docker.ticket"] for found in engine.noted.values()] == ["alive"]


def test_processes():
    """A process is known by its pid and its start, on this start of this machine."""
    mine = _tickets.this_process()
    assert _tickets.is_alive(mine) is True
    assert _tickets.is_alive(f"{mine}0") is False  # another one has got its number
    assert _tickets.is_alive(ELSEWHERE) is None
    assert _tickets.is_alive("") is None
    assert _tickets.is_alive(f"{_tickets._machine()} 0 5") is None
    assert _tickets.is_alive(f"{_tickets._machine()} {'9' * 30} 5") is None
    assert mine.split()[1] == str(os.getpid())


# ---- what a ticket says --------------------------------------------------------------------------


@pytest.mark.parametrize("gpus", [NO_GPUS, Gpus(count=2), Gpus(all=True), Gpus(ids=("0", "GPU-1"))])
def test_a_ticket_is_read_as_it_was_written(gpus):
    """Whatever a ticket says, every launcher reads the same."""
    found = spec("s", cpus=0.1, memory=12, gpus=gpus, share=True)
    written = replace(
        place(found, since=12.5, admitted=True, seen=13.25), user="ann", folder="/outputs"
    )
    labels = {**dict(found.labels), "hydra.docker.folder": "/outputs", "secret": "no"}
    ticket = _tickets.to_ticket(written, 3, labels)
    assert ticket.labels.keys() & {"secret"} == set()
    assert _tickets.from_ticket(ticket) == replace(written, name=ticket.name)


def test_a_ticket_of_another_version():
    """What cannot be read is no ticket."""
    assert _tickets.from_ticket(Ticket("t", {"hydra.docker.ticket": "x"})) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpus", "inf"),
        ("cpus", "nan"),
        ("cpus", "-4"),
        ("memory", "9" * 5000),
        ("memory", "9" * 400),
        ("memory", "-1"),
        ("gpus", "-1"),
        ("since", "nan"),
        ("seen", "1e400"),
    ],
)
def test_a_ticket_that_makes_no_sense(name, value):
    """Anybody can make a ticket: one that nobody can reckon with is none."""
    ticket = _tickets.to_ticket(place(spec()), 1, {})
    labels = {**ticket.labels, f"hydra.docker.ticket.{name}": value}
    assert _tickets.from_ticket(replace(ticket, labels=labels)) is None


# ---- what the user is told -----------------------------------------------------------------------


def test_told_once(engine, launcher, caplog, monkeypatch):
    """The reason of a wait is shown once, and again when it is another one."""
    monkeypatch.setattr(_admission, "TOLD_AFTER", 0.0)
    monkeypatch.setattr(_admission, "TOLD_AGAIN", 0.0)
    caplog.set_level(logging.INFO, logger="hydra_docker_launcher")
    engine.others = (
        occupant(spec("10-00-00", cpus=2.5), "a"),
        occupant(spec("10-00-00", 1, cpus=1), "b"),
        Occupant("r", "redis", {}, None, None),
    )
    engine.before_look = engine.look_again
    one = launcher()
    one.ask(spec("t"))
    assert one.waits()
    first = (
        "job #0 waits: 3.5 of 4 CPUs are promised to others: ann's train-10-00-00 (3.5); "
        "without limits, and not counted: redis"
    )
    assert caplog.messages == [first]
    engine.others = (occupant(spec("11-00-00", cpus=4, user="bob")),)
    engine.wait_for(lambda: len(caplog.messages) > 1)
    assert caplog.messages[1:] == [
        "job #0 waits: 4 of 4 CPUs are promised to others: bob's train-11-00-00 (4)"
    ]


def test_not_told_of_its_own_sweep(engine, launcher, caplog, monkeypatch):
    """That the jobs of one sweep wait for each other is nothing new."""
    monkeypatch.setattr(_admission, "TOLD_AFTER", 0.0)
    caplog.set_level(logging.INFO, logger="hydra_docker_launcher")
    engine.others = (occupant(spec("s", cpus=4)),)
    one = launcher()
    one.ask(spec("s", 1))
    assert one.waits()
    assert caplog.messages == []


@pytest.mark.parametrize(
    "labels", [(), (("hydra.docker.sweep", "s"), ("hydra.docker.user", "ann"))], ids=["none", "own"]
)
def test_told_of_a_look_into_an_image(engine, caplog, monkeypatch, labels):
    """All containers are others to it, its ticket says whose it is, and no option makes it less."""
    monkeypatch.setattr(_admission, "TOLD_AFTER", 0.0)
    monkeypatch.setattr(_admission, "TOLD_AGAIN", 0.0)
    caplog.set_level(logging.INFO, logger="hydra_docker_launcher")
    engine.others = (Occupant("p", "postgres", {}, 4.0, None),)
    engine.before_look = engine.look_again

    def wait():
        with _admission.held(engine, MACHINE, spec(), labels):
            pass

    thread = threading.Thread(target=wait)
    thread.start()
    engine.wait_for(lambda: caplog.messages != [])
    (ticket,) = engine.noted.values()
    assert ticket.labels.items() >= dict(labels).items()
    engine.others = (Occupant("q", "hydra-docker-preflight-77-0123abcd", {}, 4.0, 10),)
    engine.wait_for(lambda: len(caplog.messages) > 1)
    engine.others = ()
    thread.join(PATIENCE)

    first = (
        "The look into the image cannot start while the container postgres runs: it asks for 1 "
        "CPU, but 4 of 4 CPUs are promised to others: the container postgres (4). Stop it, or set "
        "hydra.launcher.admission=sweep. Others do not wait for it meanwhile"
    )
    second = (
        "The look into the image waits: 4 of 4 CPUs are promised to others: the container "
        "hydra-docker-preflight-77-0123abcd (4)"
    )
    assert caplog.messages == [first, second]


def test_words():
    """Each thing that is short is named, with who has most of it."""
    others = [
        Promise("ann's a", "a", cpus=2, memory=600, gpus=Gpus(ids=("A",))),
        Promise("bob's b", "b", cpus=1, memory=300),
    ]
    assert _shortage.describe(MACHINE, others, ("memory", "GPUs")) == (
        "900b of 1000b memory is promised to others: ann's a (600b), bob's b (300b); "
        "1 of 2 GPUs are promised to others: ann's a (1)"
    )
    many = [replace(others[1], holder=f"{n}") for n in range(6)]
    assert _shortage.describe(MACHINE, many, ("CPUs",)).endswith("3 (1) and 2 more")


def test_words_of_others():
    """Names come from other people's labels: they play no tricks on a terminal."""
    rogue = Promise("\x1b[2Jroot\n's job", "a", cpus=4)
    assert "\x1b" not in _shortage.describe(MACHINE, [rogue], ("CPUs",))
    assert "\n" not in _shortage.for_good(MACHINE, rogue, [rogue], ("CPUs",), adjustable=True)


def test_what_is_asked_for():
    """What a container asks for, of all or of what is short."""
    wanted = Promise("ann's a", "a", cpus=0.5, memory=600, gpus=Gpus(all=True))
    assert _shortage.wish(MACHINE, wanted) == "0.5 CPUs, 600b of memory, all GPUs"
    assert _shortage.wish(MACHINE, wanted, ("memory",)) == "600b of memory"
    one = Promise("ann's a", "a", cpus=1, gpus=Gpus(ids=("A",)))
    assert _shortage.wish(MACHINE, one) == "1 CPU, 1 GPU"
    text = _shortage.for_good(
        MACHINE,
        wanted,
        [replace(wanted, holder=str(n)) for n in range(6)],
        ("CPUs",),
        adjustable=False,
    )
    assert text.startswith("cannot start while 0 and 1 and 2 and 3 and 2 more run: it asks for 0.5")
    assert "Stop them, or set" in text


def test_ctrl_c_at_any_step_leaves_the_lock_free(engine):
    """A signal that comes while the main thread asks does not keep the other threads out."""
    asked = Admission(engine, MACHINE, lambda: None)

    def press(_number, _frame):
        raise KeyboardInterrupt

    def is_free():
        free = []
        thread = threading.Thread(
            target=lambda: free.append(asked._changed.acquire(blocking=False))
        )
        thread.start()
        thread.join(PATIENCE)
        return free == [True]

    before = signal.signal(signal.SIGALRM, press)
    try:
        for number in range(300):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 5e-5 + number * 5e-7)
                while True:
                    asked.answer()
            assert is_free()
            asked._changed.release()
    finally:
        signal.signal(signal.SIGALRM, before)
