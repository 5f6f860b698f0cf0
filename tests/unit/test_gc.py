"""hydra-docker gc: what it finds and removes, and that nothing else is touched."""

from __future__ import annotations

import fcntl
import io
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fakes import HOST
from git_repository import GitRepository, everything, init, isolate, pin_at
from test_gc_plan import (
    BUILT,
    DAY,
    HOUR,
    ID,
    LABELS,
    LAYER,
    NOW,
    OF_JOB,
    TERMS,
    a_container,
    an_image,
)

from hydra_plugins.hydra_docker_launcher import (
    _gc,
    _gc_caches,
    _gc_plan,
    _gc_sweeps,
    _pinning,
    _start,
)
from hydra_plugins.hydra_docker_launcher._capacity import Promise
from hydra_plugins.hydra_docker_launcher._cli import main
from hydra_plugins.hydra_docker_launcher._engine import (
    ContainerState,
    Found,
    FoundImage,
    Host,
    Ticket,
)
from hydra_plugins.hydra_docker_launcher._errors import DockerLauncherError, EngineError
from hydra_plugins.hydra_docker_launcher._gc_plan import (
    Standing,
    Thing,
)
from hydra_plugins.hydra_docker_launcher._preflight import FORMAT
from hydra_plugins.hydra_docker_launcher._tickets import STALE, Place, to_ticket

# ---- hidden refs ---------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch) -> GitRepository:
    isolate(tmp_path, monkeypatch)
    made = init(tmp_path / "project")
    made.commit(train__py="one")
    return made


def hidden(repository: GitRepository) -> list[str]:
    listed = repository.git("for-each-ref", "--format=%(objectname)", "refs/hydra-docker")
    return sorted(listed.splitlines())


def a_snapshot(repository: GitRepository, text: str) -> str:
    repository.write("train.py", text)
    return pin_at(repository.root, dirty="snapshot").commit


def test_hidden_refs(repository, tmp_path):
    """Snapshots that nothing names go with their reflogs; branches, files and index stay."""
    past, image, lost, named_by_sub = (a_snapshot(repository, text) for text in "abcd")
    fetched = repository.git("rev-parse", "HEAD")
    repository.git("update-ref", f"refs/hydra-docker/fetched/{fetched}", fetched)
    a_ledger(repository.root / "multirun/1", source={"commit": past, "parent": fetched})
    worktree = tmp_path / "worktree"
    repository.git("worktree", "add", "--quiet", str(worktree), "HEAD")
    a_ledger(worktree / "sub/reproduced/1", source={"commit": named_by_sub, "parent": None})
    layer = an_image("i", LAYER, labels={**LABELS, "hydra.docker.commit": image}, used=time.time())
    engine = GcEngine(found_images=(layer,))
    folders = (_gc.repository_of(repository.root), _gc.repository_of(worktree))

    def survey(**other) -> list[Thing]:
        terms = replace(TERMS, now=time.time() + 60 * DAY)
        request = _gc.Request(terms, ("refs",), folders, **other)
        return _gc.survey(engine, request)

    young = _gc.survey(
        engine, _gc.Request(replace(TERMS, now=time.time() + DAY), ("refs",), folders)
    )
    assert [thing.goes for thing in young] == [False] * 5
    things = survey()
    assert [t.keys[2] for t in things if t.goes] == [lost]
    assert {t.why for t in things if t.keys[2] == past} == {
        f"{repository.root / 'multirun/1'} names it"
    }
    before = everything(repository.root)
    assert _gc.remove(engine, [t for t in things if t.goes], TERMS) == []
    assert hidden(repository) == sorted([past, image, named_by_sub, fetched])
    gone = set(before) - set(everything(repository.root))
    assert {path.name for path in gone} == {lost}
    assert {t.keys[2] for t in survey(refs_of_past_sweeps=True) if t.goes} == {
        past,
        named_by_sub,
        fetched,
    }


def test_age_of_a_ref_without_reflog(repository):
    """It is that of its file, or of the file that refs are packed into."""
    commit = repository.git("rev-parse", "HEAD")
    ref = f"refs/hydra-docker/fetched/{commit}"
    repository.git("update-ref", ref, commit)
    os.utime(repository.root / ".git" / ref, (NOW - 50 * DAY,) * 2)
    request = _gc.Request(TERMS, ("refs",), (_gc.repository_of(repository.root),))
    (thing,) = _gc.survey(GcEngine(), request)
    assert (thing.goes, thing.age) == (True, 50 * DAY)
    repository.git("pack-refs", "--all")
    os.utime(repository.root / ".git/packed-refs", (NOW - 40 * DAY,) * 2)
    (thing,) = _gc.survey(GcEngine(), request)
    assert (thing.goes, thing.age) == (True, 40 * DAY)


def test_ref_that_leads_elsewhere_by_now(repository):
    """It is not removed."""
    commit = repository.git("rev-parse", "HEAD")
    ref = f"refs/hydra-docker/fetched/{commit}"
    repository.git("update-ref", ref, commit)
    request = _gc.Request(
        replace(TERMS, now=time.time() + 60 * DAY), ("refs",), (_gc.repository_of(repository.root),)
    )
    things = _gc.survey(GcEngine(), request)
    other = repository.commit(train__py="two")
    repository.git("update-ref", ref, other)
    ((_, why),) = _gc.remove(GcEngine(), things, TERMS)
    assert "but expected" in why
    assert hidden(repository) == [other]


def test_snapshots_of_submodules(repository, tmp_path):
    """What a snapshot that stays needs of a submodule stays; the rest of it goes."""
    library = init(tmp_path / "library")
    library.commit(lib__py="one")
    repository.add_submodule(library, "lib")
    repository.commit()
    inner = GitRepository(repository.root / "lib")
    inner.write("lib.py", "two")
    kept = pin_at(repository.root, dirty="snapshot").commit
    inner.write("lib.py", "three")
    pin_at(repository.root, dirty="snapshot")
    first, second = hidden(inner), hidden(repository)
    assert (len(first), len(second)) == (2, 2)
    a_ledger(repository.root / "multirun/1", source={"commit": kept, "parent": None})
    request = _gc.Request(
        replace(TERMS, now=time.time() + 60 * DAY), ("refs",), (_gc.repository_of(repository.root),)
    )
    engine = GcEngine()
    things = _gc.survey(engine, request)
    assert _gc.remove(engine, things, TERMS) == []
    assert hidden(repository) == [kept]
    assert hidden(inner) == [inner.git("-C", "..", "ls-tree", kept, "lib").split()[2]]


# ---- caches --------------------------------------------------------------------------------------


def test_caches(tmp_path):
    """Facts of images that are gone go, and clones that nobody used; the engine's folder stays."""
    there, gone = "a" * 64, "b" * 64
    names = {
        f"images/{there}-0.0-{FORMAT}.json": "the engine has the image",
        f"images/{gone}-image-{FORMAT}.json": "facts of an image that is gone",
        f"images/{there}-0.0-{FORMAT - 1}.json": "written by another version",
        f"images/{gone}-0.0-{FORMAT}.4711": "never finished",
        f"repositories/{'1' * 16}/.git/HEAD": "a clone for reproduce",
        f"repositories/{'2' * 16}.partial/x": "a clone that was never finished",
        "images/notes.txt": None,
        "engine/data/x": None,
        "hashes.db": None,
    }
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("12345")
    found = _gc_caches.found(tmp_path, {f"sha256:{there}"})
    assert sorted(item.needed or item.what for item in found) == sorted(
        filter(None, names.values())
    )
    assert all(item.size == 5 for item in found)

    young = _gc_plan.caches(found, replace(TERMS, now=time.time() + HOUR / 2, older_than=0))
    assert [thing.goes for thing in young] == [False] * 6
    old = _gc_plan.caches(found, replace(TERMS, now=time.time() + 8 * DAY))
    assert _gc.remove(GcEngine(), old, TERMS) == []
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(name for name in left if not name.endswith(".lock")) == sorted(
        [f"images/{there}-0.0-{FORMAT}.json", "images/notes.txt", "engine/data/x", "hashes.db"]
    )


def test_clone_in_use(tmp_path):
    """A clone that somebody fetches into is not removed; its last use counts."""
    clone = tmp_path / "repositories" / ("1" * 16)
    clone.mkdir(parents=True)
    os.utime(clone, (NOW - 80 * DAY,) * 2)
    lock = clone.with_suffix(".lock")
    lock.touch()
    os.utime(lock, (NOW - 3 * DAY,) * 2)
    (item,) = _gc_caches.found(tmp_path, ())
    assert item.used == NOW - 3 * DAY
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DockerLauncherError, match="in use now"):
            _gc_caches.remove(clone)
    assert clone.is_dir()


# ---- folders of sweeps ---------------------------------------------------------------------------


def a_ledger(folder: Path, outcome: str | None = "error", **head) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    row = {"job": 3, "output_dir": str(folder / "3"), "outcome": outcome}
    content = {"sweep": ID, "folder": str(folder), **head, "jobs": [row]}
    (folder / "sweep.json").write_text(json.dumps(content))
    return folder


def test_standing_of_a_sweep(tmp_path):
    """The lock tells a sweep in progress, null outcomes and files of jobs one that died."""
    folder = a_ledger(tmp_path / "sweep", started="2026-11-22T10:00:00+00:00")

    def standing(place: Path = folder, *, local: bool = True) -> Standing:
        return _gc_sweeps.look(place, local=local).standing

    state = _gc_sweeps.look(folder, local=True)
    assert (state.standing, state.id, state.outcomes) == (Standing.OVER, ID, {3: "error"})
    assert (state.started, state.outputs) == (1795341600.0, {3: folder / "3"})
    for private in (folder / ".docker", folder.with_name(".sweep.docker")):
        (private / "jobs").mkdir(parents=True)
        assert standing() is Standing.OVER
        (private / "jobs/3.json").touch()
        assert standing() is Standing.UNSETTLED
        with (private / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert standing() is Standing.IN_PROGRESS
        assert standing() is Standing.UNSETTLED
        (private / "jobs/3.json").rename(private / "sweep.json")
        assert standing() is Standing.UNSETTLED
        (private / "sweep.json").unlink()
    a_ledger(folder, outcome=None)
    assert standing() is Standing.UNSETTLED
    (folder / "sweep.json").write_text('{"jobs": 3}')
    assert standing() is Standing.UNKNOWN
    (folder / "sweep.json").unlink()
    assert standing() is Standing.OVER
    assert standing(tmp_path / "gone/away") is Standing.GONE
    elsewhere = _gc_sweeps.look(tmp_path / "gone", local=False)
    assert (elsewhere.standing, elsewhere.detail) == (
        Standing.UNKNOWN,
        f"{tmp_path / 'gone'} is not on this machine",
    )


def test_leftovers_of_a_killed_launcher(tmp_path):
    """Secrets and pickled configs are found and removed; the config and the results stay."""
    folder = a_ledger(tmp_path / "sweep")
    private = folder / "3/.docker"
    (private / "secrets").mkdir(parents=True)
    kept = ("config.yaml", "result.json")
    for name in ("job.pickle", "returned.json", "secrets/credential", *kept):
        (private / name).touch()
    state = _gc_sweeps.look(folder, local=True)
    assert _gc_sweeps.leftovers([state], os.getuid() + 1) == []
    found = _gc_sweeps.leftovers([state, state], os.getuid())
    assert [(file.path, file.secret) for file in found] == [
        (private / "job.pickle", False),
        (private / "returned.json", True),
        (private / "secrets/credential", True),
    ]
    for file in found:
        _gc_sweeps.remove(folder, file.path)
        _gc_sweeps.remove(folder, file.path)
    assert sorted(path.name for path in private.iterdir()) == [*kept]


def test_config_of_a_container_that_is_kept(tmp_path):
    """What is written down of a config stands in the place of the one with secrets: it stays."""
    folder = a_ledger(tmp_path / "sweep")
    private = folder / "3/.docker"
    (private / "secrets").mkdir(parents=True)
    (private / "config.yaml").write_text("password: <hidden>")
    state = _gc_sweeps.look(folder, local=True)
    (private / "secrets/config.yaml").hardlink_to(private / "config.yaml")
    assert _gc_sweeps.leftovers([state], None) == []
    (private / "secrets/config.yaml").unlink()
    (private / "secrets/config.yaml").write_text("password: abc")
    assert [file.secret for file in _gc_sweeps.leftovers([state], None)] == [True]


def test_links_of_a_container(tmp_path):
    """A job can put links into its folder: none is followed, neither to look nor to remove."""
    mine = tmp_path / "home/secrets"
    mine.mkdir(parents=True)
    (mine / "key").touch()
    (mine.parent / "job.pickle").touch()
    folder = a_ledger(tmp_path / "sweep")
    (folder / "3").mkdir()
    (folder / "3/.docker").symlink_to(mine.parent)
    state = _gc_sweeps.look(folder, local=True)
    assert _gc_sweeps.leftovers([state], None) == []
    with pytest.raises(DockerLauncherError, match="Cannot remove"):
        _gc_sweeps.remove(folder, folder / "3/.docker/secrets/key")
    (folder / "3/.docker").unlink()
    (folder / "3/.docker").mkdir()
    (folder / "3/.docker/secrets").symlink_to(mine)
    assert _gc_sweeps.leftovers([state], None) == []
    outside = {"job": 3, "output_dir": str(mine.parent), "outcome": "error"}
    (folder / "sweep.json").write_text(json.dumps({"folder": str(folder), "jobs": [outside]}))
    assert _gc_sweeps.look(folder, local=True).outputs == {}
    with pytest.raises(DockerLauncherError, match="leads out of"):
        _gc_sweeps.remove(folder, folder / "../home/secrets/key")
    assert (mine / "key").exists()


# ---- the command ---------------------------------------------------------------------------------


@dataclass
class GcEngine:
    """An engine with leftovers. ``refuses`` are what it does not remove, and why."""

    found: tuple[Found, ...] = ()
    found_images: tuple[FoundImage, ...] = ()
    ended: float = NOW - 8 * DAY
    machine: Host = field(default_factory=lambda: replace(HOST, name=os.uname().nodename))
    refuses: Mapping[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    noted: tuple[Ticket, ...] = ()

    def now(self) -> float:
        return NOW

    def tickets(self, label: str) -> tuple[Ticket, ...]:
        return tuple(ticket for ticket in self.noted if label in ticket.labels)

    def drop_ticket(self, name: str) -> None:
        self._remove(name)

    def host(self) -> Host:
        return self.machine

    def containers(self, labels: Mapping[str, str | None]) -> tuple[Found, ...]:
        return self.found

    def images(self, labels: Mapping[str, str | None]) -> tuple[FoundImage, ...]:
        return self.found_images

    def state(self, container: str) -> ContainerState:
        ended = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.ended))
        return ContainerState(
            running=False,
            exit_code=1,
            oom_killed=False,
            stopped=False,
            signal=None,
            error="",
            started_at="2026-11-22T10:00:00Z",
            finished_at=f"{ended}.123456789Z",
        )

    def discard(self, container: str) -> None:
        self._remove(container)

    def discard_image(self, name: str) -> None:
        self._remove(name)

    def _remove(self, name: str) -> None:
        if name in self.refuses:
            raise EngineError(f"The engine could not remove it: {self.refuses[name]}")
        self.removed.append(name)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass
class Bench:
    engine: GcEngine
    folder: Path
    root: Path


@pytest.fixture
def bench(repository, tmp_path, monkeypatch):
    """A repository with a sweep whose container, image, ref, cache and secret have been left."""
    folder = a_ledger(repository.root / "multirun/10-00-00")
    secret = folder / "3/.docker/secrets/credential"
    secret.parent.mkdir(parents=True)
    secret.touch()
    a_snapshot(repository, "a")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cached = _pinning.cache_folder() / f"images/{'b' * 64}-0.0-{FORMAT}.json"
    cached.parent.mkdir(parents=True)
    cached.write_text("x" * 2048)
    user = {"hydra.docker.user": _pinning.identity("host").name}
    labels = {**OF_JOB, **user, "hydra.docker.folder": str(folder)}
    engine = GcEngine(
        found=(
            a_container(labels=labels),
            a_container("train-10-00-00-4", labels={**labels, "hydra.docker.job": "4"}),
        ),
        found_images=(an_image("i", LAYER, labels={**LABELS, **user}, size=3 * 1024**2),),
    )
    now = time.time() + 60 * DAY
    monkeypatch.setattr(time, "time", lambda: now)
    engine.ended = now - 8 * DAY
    monkeypatch.chdir(repository.root)
    monkeypatch.setattr(_start, "docker_engine", lambda: engine)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return Bench(engine, folder, tmp_path)


LISTED = """\
containers
  train-10-00-00-3  8d    its job is over: error
  train-10-00-00-4  8d    its sweep is over
"""


def test_dry_run(bench, capsys):
    """A dry run lists what would go, and what stays, and changes nothing."""
    before = everything(bench.root)
    assert main(["gc", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(LISTED)
    assert f"\nimages\n  {LAYER}  " in out
    assert "  3m  its sweep is over\n" in out
    assert "\nrefs\n  snapshots/" in out
    assert (
        f"\nsecrets\n  {bench.folder}/3/.docker/secrets/credential  60d    its job is over" in out
    )
    assert "\n6 things to remove, 3m in images and caches\n" in out
    assert bench.engine.removed == []
    assert everything(bench.root) == before


def test_removes_what_was_listed(bench, capsys):
    """With --yes nobody is asked; a second run finds nothing."""
    assert main(["gc", "--yes"]) == 0
    assert capsys.readouterr().out.endswith("Removed 6 of 6.\n")
    assert bench.engine.removed == ["train-10-00-00-3", "train-10-00-00-4", LAYER]
    assert not (bench.folder / "3/.docker/secrets").exists()
    assert (bench.folder / "sweep.json").is_file()
    bench.engine.found, bench.engine.found_images = (), ()
    assert main(["gc", "--yes"]) == 0
    assert capsys.readouterr().out == "Nothing to remove.\n"


def a_ticket(number: str, *, age: float, **labels: str) -> Ticket:
    since = NOW - age
    own = Promise("ann's train", ID, cpus=1.0)
    place = Place(number, "", since, since, False, "elsewhere/1 77 5", own, (ID, "3", "1"))
    return to_ticket(place, 1, {f"hydra.docker.{name}": text for name, text in labels.items()})


def test_tickets(bench, capsys):
    """Those of launchers that are gone are removed, whatever their age; others are kept."""
    me = _pinning.identity("host").name
    left, kept, bobs = (
        a_ticket("left", age=STALE + 1, user=me, folder=str(bench.folder)),
        a_ticket("kept", age=STALE - 1, user=me, folder="/elsewhere"),
        a_ticket("bobs", age=HOUR, user="bob"),
    )
    odd = Ticket("odd", {"hydra.docker.ticket": "x"})
    bench.engine.noted = (left, kept, bobs, odd)
    assert main(["gc", "--yes", "--only", "tickets"]) == 0
    out = capsys.readouterr().out
    assert f"tickets\n  {left.name}  1m    its launcher is gone\n" in out
    assert f"Kept:\n  tickets {kept.name}: its launcher is there\n" in out
    assert bench.engine.removed == [left.name]

    assert main(["gc", "--dry-run", "--only", "tickets", "--all-users"]) == 0
    assert bobs.name in capsys.readouterr().out
    assert main(["gc", "--dry-run", "--only", "tickets", "--sweep", str(bench.folder)]) == 0
    out = capsys.readouterr().out
    assert left.name in out
    assert kept.name not in out


@pytest.mark.parametrize(("answer", "removed"), [("y\n", 6), ("\n", 0), ("no\n", 0), ("", 0)])
def test_question(bench, capsys, monkeypatch, answer, removed):
    """On a terminal it asks first; only a yes is one."""
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert main(["gc"]) == 0
    last = "Removed 6 of 6." if removed else "Nothing has been removed."
    assert capsys.readouterr().out.splitlines()[-1].endswith(last)
    assert bool(bench.engine.removed) == bool(removed)


def test_no_terminal(bench, capsys):
    """Without a terminal, --yes must say so."""
    assert main(["gc"]) == 2
    assert capsys.readouterr() == (
        "",
        "hydra-docker: there is no terminal to ask at; give --yes, or --dry-run to see the list\n",
    )
    assert bench.engine.removed == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--older-than", "soon"], "'soon' must be an age such as 7d, 36h, 1d12h or 30m (d, h, m)"),
        (["--older-than", "-1d"], "expected one argument"),
        (["--only", "volumes"], "'volumes' is none of containers, images, tickets, refs, "),
        (["--only", ""], "'' is none of"),
    ],
)
def test_wrong_use(capsys, arguments, said):
    """Wrong use ends with exit code 2, and says what is valid."""
    with pytest.raises(SystemExit) as raised:
        main(["gc", *arguments])
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (["--only", "containers"], 2),
        (["--only", "containers, secrets"], 3),
        (["--older-than", "90d"], 2),  # what is left over goes after an hour, whatever is said
        (["--sweep", "multirun/10-00-00"], 4),
        (["--sweep", "multirun/10-00-00", "--only", "caches"], 0),
    ],
)
def test_part_of_it(bench, capsys, arguments, number):
    """Kinds, an age and a sweep can be asked for."""
    assert main(["gc", "--dry-run", *arguments]) == 0
    out = capsys.readouterr().out
    assert (f"\n{number} thing" in out) if number else out.startswith("Nothing to remove.\n")


def test_sweep_that_is_none(bench, capsys):
    """A folder without a sweep is an error: nothing of it could be found."""
    assert main(["gc", "--dry-run", "--sweep", "multirun/other"]) == 1
    assert capsys.readouterr().err == (
        f"error: {bench.folder.parent}/other is no folder of a sweep: it has no sweep.json, and no "
        "container and no image has it in its labels\n"
    )
    other = a_ledger(bench.folder.with_name("other"), sweep="20261122-110000-fedcba")
    assert main(["gc", "--dry-run", "--sweep", str(other)]) == 0
    assert capsys.readouterr().out == "Nothing to remove.\n"


def test_folder_by_another_path(bench, capsys, tmp_path):
    """A sweep that was launched through a link is the same sweep as in the working tree."""
    link = tmp_path / "link"
    link.symlink_to(bench.folder.parent)
    labels = {**bench.engine.found[0].labels, "hydra.docker.folder": str(link / "10-00-00")}
    bench.engine.found = (a_container(status="running", labels=labels),)
    assert main(["gc", "--dry-run", "--only", "secrets"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Nothing to remove.\nKept:\n")
    assert out.count("/3/.docker/secrets/credential: its container needs it") == 1
    assert main(["gc", "--dry-run", "--sweep", str(link / "10-00-00")]) == 0
    assert "containers train-10-00-00-3: runs, and" in capsys.readouterr().out


def test_images_of_containers_that_are_not_asked_for(bench, capsys):
    """Where containers stay, so do their images."""
    bench.engine.found_images = tuple(
        replace(image, id="layer") for image in bench.engine.found_images
    )
    assert main(["gc", "--dry-run", "--only", "images"]) == 0
    assert capsys.readouterr().out == (
        f"Nothing to remove.\nKept:\n  images {LAYER}: the container train-10-00-00-3 uses it\n"
    )


def test_what_cannot_be_removed(bench, capsys):
    """The rest is removed; what is still there is named, and the exit code is 1."""
    bench.engine.refuses = {LAYER: "conflict: container abc is using it"}
    assert main(["gc", "--yes", "--only", "containers,images"]) == 1
    captured = capsys.readouterr()
    assert captured.out.endswith("Removed 2 of 3.\n")
    assert captured.err == (
        f"error: {LAYER} is still there: The engine could not remove it: conflict: container abc "
        "is using it\n"
    )


def test_taken_up_in_the_meantime(bench, capsys, monkeypatch):
    """What a sweep has begun to use since the list was made stays: nothing is forced."""

    class Slow(Terminal):
        def readline(self, *_) -> str:
            lock.parent.mkdir()
            self.held = lock.open("w")
            fcntl.flock(self.held, fcntl.LOCK_EX)
            bench.engine.found_images = (replace(built, used=time.time() + 1),)
            return "y\n"

    lock = bench.folder / ".docker/lock"
    built = replace(bench.engine.found_images[0], names=(BUILT,))
    bench.engine.found_images = (built,)
    monkeypatch.setattr("sys.stdin", Slow())
    assert main(["gc", "--only", "containers,images,secrets"]) == 1
    said = "is still there: in use now:"
    assert capsys.readouterr().err.splitlines() == [
        f"error: train-10-00-00-3 {said} its sweep is in progress",
        f"error: train-10-00-00-4 {said} its sweep is in progress",
        f"error: {BUILT} {said} a sweep has just asked for it",
        f"error: {bench.folder}/3/.docker/secrets/credential {said} its sweep is in progress",
    ]
    assert bench.engine.removed == []
    assert (bench.folder / "3/.docker/secrets/credential").exists()


def test_outside_of_a_repository(bench, capsys, monkeypatch, tmp_path):
    """There it says what is not looked at; a folder that is named must be in a repository."""
    monkeypatch.chdir(tmp_path)
    assert main(["gc", "--dry-run"]) == 0
    remark = f"No hidden refs, no folders of sweeps: {tmp_path} is not in a git repository"
    assert capsys.readouterr().out.splitlines()[-1].startswith(remark)
    assert main(["gc", "--dry-run", "--repository", str(tmp_path)]) == 1
    assert "is not in a git repository" in capsys.readouterr().err
    assert main(["gc", "--dry-run", "--repository", "project"]) == 0
    assert "\nrefs\n" in capsys.readouterr().out


def test_engine_of_another_machine(bench, capsys):
    """Where the folders are on another machine, one that is not here says nothing."""
    bench.engine.machine = HOST
    gone = {**bench.engine.found[0].labels, "hydra.docker.folder": "/elsewhere/10-00-00"}
    bench.engine.found = (a_container(labels=gone),)
    assert main(["gc", "--dry-run", "--only", "containers"]) == 0
    assert capsys.readouterr().out == (
        "Nothing to remove.\nKept:\n"
        "  containers train-10-00-00-3: /elsewhere/10-00-00 is not on this machine\n"
    )


def test_many_that_stay(bench, capsys):
    """More than three that stay for the same reason are counted."""
    (first, _) = bench.engine.found
    bench.engine.found = tuple(
        replace(first, id=f"{n}", status="running", name=f"train-10-00-00-3-{n}") for n in range(4)
    )
    lock = bench.folder / ".docker/lock"
    lock.parent.mkdir()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main(["gc", "--dry-run", "--only", "containers"]) == 0
    assert capsys.readouterr().out == "Nothing to remove.\nKept:\n  4 containers: runs\n"
