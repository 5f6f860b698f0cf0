"""Stray files: what of a container's own file system counts, what is told of it, what is copied."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fakes import GIB, FakeEngine, Play

from hydra_plugins.hydra_docker_launcher import _cloning, _stray
from hydra_plugins.hydra_docker_launcher._engine import (
    Boundary,
    Change,
    ContainerSpec,
    Limits,
    Mount,
)
from hydra_plugins.hydra_docker_launcher._outcome import End, Outcome, Stray, StrayFile
from hydra_plugins.hydra_docker_launcher._stray_rules import Policy, Rules, leaves, tops

COMPLETED = Outcome(End.COMPLETED, "completed", 0, value=0.5)
WORK = "/srv/project"


def a_spec(output: Path = Path("/srv/project/multirun/0"), **changes) -> ContainerSpec:
    spec = ContainerSpec(
        name="job",
        image="sha256:a",
        command=("python3",),
        working_dir=WORK,
        limits=Limits(1, GIB, GIB, GIB, -1),
        boundary=Boundary(user=None, tmpfs=(("/scratch", ""),)),
        environment=(("HOME", "/hydra/home"),),
        mounts=(Mount(str(output), str(output)), Mount("v", "/data", named=True)),
        labels=(("hydra.docker.job", "0"),),
    )
    return replace(spec, **changes)


# ---- what counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        f"{WORK}/model.pt",
        f"{WORK}/.hidden/model.pt",
        f"{WORK}/log/.model.pt",
        f"{WORK}/model.pyc.txt",
        "/srv/else/model.pt",
        "/hydra/home/model.pt",
        "/root/model.pt",
        "/home/ann/model.pt",
        "/home/ann/runs/.best",
        "/usr/src/app/model.pt",
        "/opt/ml/model.pt",
        "/dataset/table.csv",
        "/model.pt",
    ],
)
def test_what_counts(path):
    """Files in the launch folder, in a home, and wherever else people keep what they want."""
    assert not Rules(a_spec(), WORK).leave_out(path)


@pytest.mark.parametrize(
    "path",
    [
        f"{WORK}/multirun/0",
        f"{WORK}/multirun/0/model.pt",
        "/data",
        "/data/table.csv",
        "/scratch",
        "/hydra/config.yaml",
        "/hydra/secrets/key",
        "/hydra/home/.cache/torch/hub.pt",
        "/hydra/home/.netrc",
        "/root/.config/tool.ini",
        "/home/ann/.local/share/tool",
        "/.dockerenv",
        "/tmp/model.pt",
        "/var/tmp/model.pt",
        "/run/lock/x",
        "/etc/ld.so.cache",
        "/usr/bin/nvidia-smi",
        "/usr/lib/x86_64-linux-gnu/libcuda.so.535",
        "/usr/local/lib/python3.11/site.py",
        "/opt/conda/lib/python3.11/site-packages/tool/data.json",
        f"{WORK}/__pycache__/model.nbi",
        f"{WORK}/model.pyc",
        f"{WORK}/.pytest_cache/README.md",
    ],
)
def test_what_does_not_count(path):
    """Mounts, the launcher's own, the system's, settings and caches."""
    assert Rules(a_spec(), WORK).leave_out(path)


def test_launch_folder_in_such_a_folder():
    """What is below the launch folder or the repository counts, wherever they are."""
    rules = Rules(a_spec(working_dir="/tmp/try/scripts"), "/tmp/try")
    assert not rules.leave_out("/tmp/try/model.pt")
    assert not rules.leave_out("/tmp/try/scripts/model.pt")
    assert rules.leave_out("/tmp/other")
    rules = Rules(a_spec(working_dir="/home/ann/.trees/a"), "/home/ann/.trees/a")
    assert not rules.leave_out("/home/ann/.trees/a/model.pt")
    assert rules.leave_out("/home/ann/.trees/b")
    assert Rules(a_spec(working_dir="/"), "/").leave_out("/tmp/other")


def test_home_that_the_user_names():
    """HOME may be another one."""
    rules = Rules(a_spec(environment=(("HOME", "/srv/me"),)), WORK)
    assert rules.leave_out("/srv/me/.cache/x")
    assert not rules.leave_out("/srv/me/cache/x")


def test_clone():
    """In a clone, its own files do not count; where they are not known, nothing in it does."""
    rules = Rules(a_spec(), WORK, is_clone=True, cloned=frozenset({"train.py", "lib/a.py"}))
    assert rules.leave_out(f"{WORK}/train.py")
    assert rules.leave_out(f"{WORK}/lib/a.py")
    assert rules.leave_out(f"{WORK}/.git/objects/ab/cd")
    assert rules.leave_out(f"{WORK}/lib/.git")
    assert not rules.leave_out(f"{WORK}/lib/model.pt")
    assert not rules.leave_out("/srv/model.pt")
    unknown = Rules(a_spec(), WORK, is_clone=True)
    assert unknown.leave_out(f"{WORK}/lib/model.pt")
    assert not unknown.leave_out("/srv/model.pt")


def test_leaves():
    """What is deleted, and folders that are named for what is below them, are no leaves."""
    changes = [
        Change("changed", "/srv"),
        Change("added", "/srv/b"),
        Change("added", "/srv/b/model.pt"),
        Change("changed", "/srv/a"),
        Change("deleted", "/srv/old"),
        Change("changed", "/etc"),
        Change("deleted", "/etc/issue"),
    ]
    assert leaves(changes) == ["/srv/a", "/srv/b/model.pt"]


def test_tops():
    """A new folder is asked for as a whole, unless something in it does not count."""
    added = ["/srv/new", "/srv/new/a", "/srv/new/a/1", "/srv/new/2", "/srv/3"]
    mixed = ["/srv/mixed", "/srv/mixed/4", "/srv/mixed/clean", "/srv/mixed/clean/5"]
    changes = [Change("changed", "/srv"), *(Change("added", path) for path in added + mixed)]
    counting = ["/srv/3", "/srv/mixed/4", "/srv/mixed/clean/5", "/srv/new/2", "/srv/new/a/1"]
    assert tops(changes, counting, ["/srv/mixed/x.pyc"]) == {
        "/srv/3": ["/srv/3"],
        "/srv/mixed/4": ["/srv/mixed/4"],
        "/srv/mixed/clean": ["/srv/mixed/clean/5"],
        "/srv/new": ["/srv/new/2", "/srv/new/a/1"],
    }


# ---- a job ---------------------------------------------------------------------------------------


@dataclass
class Bench:
    """A job that has ended in a container of a fake engine."""

    output: Path
    engine: FakeEngine = field(default_factory=FakeEngine)

    def after(
        self, mode: str, outcome: Outcome = COMPLETED, limit: int = GIB, cloned=False, **play
    ) -> Outcome:
        self.engine.plays = {0: Play(**play)}
        self.container = self.engine.create(a_spec(self.output))
        self.engine.calls.clear()
        policy = Policy(mode, limit, WORK, cloned)
        return _stray.after(
            outcome, policy, a_spec(self.output), self.output, self.engine, self.container
        )

    def archives(self) -> list[str]:
        return [call[1] for call in self.engine.calls if call[0] == "archive"]

    @property
    def collected(self) -> dict[str, bytes]:
        """Files below ``stray``, by their paths in the container."""
        folder = self.output / "stray"
        return {
            f"/{path.relative_to(folder)}": path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def bench(tmp_path) -> Bench:
    output = tmp_path / "0"
    output.mkdir()
    return Bench(output)


def test_warn(bench):
    """The files are named, with their sizes; links and folders are none."""
    left = {
        f"{WORK}/model.pt": b"x" * 2048,
        f"{WORK}/latest": "model.pt",
        f"{WORK}/empty": None,
        f"{WORK}/__pycache__/a.pyc": b"x",
        "/tmp/x": b"x",
    }
    outcome = bench.after("warn", left=left)
    stray = Stray(1, (StrayFile(f"{WORK}/model.pt", 2048),))
    assert outcome == replace(COMPLETED, stray=stray)
    assert not (bench.output / "stray").exists()
    assert stray.as_json() == {"total": 1, "paths": [f"{WORK}/model.pt"]}


def test_nothing_written(bench):
    """A container that has written nothing is not compared with its image."""
    assert bench.after("warn") == COMPLETED
    assert bench.engine.calls == []


def test_nothing_that_counts(bench):
    """Where nothing counts, nothing is asked for."""
    assert bench.after("warn", left={"/tmp/x": b"x"}) == COMPLETED
    assert bench.archives() == []


def test_clone_of_a_job(bench):
    """What the clone has brought is read where the container has written it down."""
    assert _stray.CLONED_FILES == _cloning.FILES
    names = "a.py\0caf\xe9\0".encode("latin-1")
    left = {
        f"{WORK}/a.py": b"x",
        f"{WORK}/caf\ufffd": b"x",
        f"{WORK}/model.pt": b"x",
        f"{WORK}/.git/{_cloning.FILES}": names,
    }
    stray = bench.after("warn", left=left, cloned=True).stray
    assert stray == Stray(1, (StrayFile(f"{WORK}/model.pt", 1),))
    del left[f"{WORK}/.git/{_cloning.FILES}"]
    assert bench.after("warn", left=left, cloned=True) == COMPLETED


def test_ignore(bench):
    """The engine is not asked at all."""
    assert bench.after("ignore", left={"/model.pt": b"x"}) == COMPLETED
    assert bench.engine.calls == []


@pytest.mark.parametrize("end", [End.NOT_STARTED, End.LOST])
def test_container_that_is_not_there(bench, end):
    """Of a job that never ran or whose container is gone, there is nothing to look at."""
    outcome = Outcome(end, "gone")
    assert bench.after("warn", outcome, left={"/model.pt": b"x"}) == outcome
    assert bench.engine.calls == []


@pytest.mark.parametrize(
    "end", [End.ERROR, End.EXITED, End.OUT_OF_MEMORY, End.TIMED_OUT, End.STOPPED]
)
def test_job_that_failed(bench, end):
    """Its files count as well, and its end stays what it is, also with ``error``."""
    for mode in ("warn", "error"):
        outcome = bench.after(mode, Outcome(end, "why"), left={"/model.pt": b"x"})
        assert outcome == Outcome(end, "why", stray=Stray(1, (StrayFile("/model.pt", 1),)))


def test_error(bench):
    """A job that completed and left files has not completed; the cause names them."""
    outcome = bench.after("error", left={"/model.pt": b"x", "/a\n\x1b[2J": b"", "/b": b"x" * 1024})
    assert (outcome.end, outcome.value) == (End.ERROR, None)
    assert outcome.cause == (
        "left 3 files in its container and in no mount, which hydra.launcher.stray=error forbids: "
        r"/a\n\x1b[2J (0b), /b (1k), /model.pt (1b). Write below hydra.runtime.output_dir, or into "
        "a volume."
    )
    assert outcome.stray is not None
    assert _stray.report("job #0", outcome.stray, first=True) is None


def test_error_without_files(bench):
    """Where only caches are left, a job has completed."""
    left = {"/hydra/home/.cache/x": b"x", f"{WORK}/empty": None}
    assert bench.after("error", left=left) == COMPLETED


@pytest.mark.parametrize("mode", ["warn", "collect", "error"])
def test_engine_that_cannot_say(bench, mode):
    """What cannot be looked at changes no outcome, and is told."""
    outcome = bench.after(mode, left={"/model.pt": b"x"}, diff_error="no space left")
    assert outcome.end is End.COMPLETED
    assert outcome.stray is not None
    told = _stray.report("job #0", outcome.stray, first=True)
    unchecked = " (hydra.launcher.stray=error: not checked)" if mode == "error" else ""
    assert told == (
        f"job #0: what it left in its container could not be looked at: no space left{unchecked}"
    )


def test_many_files(bench):
    """Only a few are asked for; a hundred are written down, and all are counted."""
    left = {f"{WORK}/{number:03}": b"x" for number in range(120)}
    stray = bench.after("warn", left=left).stray
    assert stray is not None
    assert (stray.total, len(stray.files), len(bench.archives())) == (120, 100, 5)


def test_files_after_folders(bench):
    """Folders whose time alone has changed do not hide the file behind them, nor count."""
    left = {f"{WORK}/{number:03}": None for number in range(30)} | {f"{WORK}/z": b"x"}
    stray = bench.after("error", left=left).stray
    assert stray is not None
    assert (stray.total, stray.files) == (1, (StrayFile(f"{WORK}/z", 1),))


# ---- what is said --------------------------------------------------------------------------------


def test_report():
    """The first job of a sweep gets what to do about it, the others a line."""
    files = tuple(StrayFile(f"/srv/{number}", 1024) for number in range(5))
    stray = Stray(7, (*files, StrayFile("/srv/5"), StrayFile("/srv/6")))
    assert _stray.report("job #0", stray, first=True) == (
        "job #0 left 7 files in its container and in no mount, which go with the container:\n"
        "  /srv/0 (1k)\n  /srv/1 (1k)\n  /srv/2 (1k)\n  /srv/3 (1k)\n  /srv/4 (1k)\n  and 2 more\n"
        + _stray.ADVICE
    )
    assert _stray.report("job #1", Stray(1, (StrayFile("/srv/0"),)), first=False) == (
        "job #1 left 1 file in its container and in no mount: /srv/0"
    )


# ---- collecting ----------------------------------------------------------------------------------


def test_collect(bench):
    """Files come below ``stray`` at their paths; links are neither followed nor made."""
    left = {
        f"{WORK}/model.pt": b"weights",
        f"{WORK}/runs": None,
        f"{WORK}/runs/1": b"one",
        f"{WORK}/runs/deep": None,
        f"{WORK}/runs/deep/2": b"two",
        f"{WORK}/runs/latest": "/etc/passwd",
        "/hydra/home/notes.txt": b"notes",
    }
    outcome = bench.after("collect", left=left)
    assert bench.collected == {
        "/hydra/home/notes.txt": b"notes",
        f"{WORK}/model.pt": b"weights",
        f"{WORK}/runs/1": b"one",
        f"{WORK}/runs/deep/2": b"two",
    }
    assert not any(path.is_symlink() for path in bench.output.rglob("*"))
    assert bench.archives() == ["/hydra/home/notes.txt", f"{WORK}/model.pt", f"{WORK}/runs"]
    stray = outcome.stray
    assert stray is not None
    assert (outcome.end, stray.total, stray.left, stray.folder) == (
        End.COMPLETED,
        4,
        (),
        bench.output / "stray",
    )
    assert _stray.report("job #0", stray, first=True) is None
    assert _stray.collected("job #0", stray) == (
        f"job #0: 4 files of its container are in {bench.output / 'stray'}"
    )


def test_collect_again(bench):
    """What a further attempt leaves takes the place of what an earlier one has."""
    bench.after("collect", left={"/model.pt": b"first", "/a": b"a"})
    bench.after("collect", left={"/model.pt": b"second"})
    assert bench.collected == {"/a": b"a", "/model.pt": b"second"}
    assert sorted(path.name for path in (bench.output / "stray").iterdir()) == ["a", "model.pt"]


def test_collect_nothing(bench):
    """Where only a link was left, there is no empty folder of it."""
    assert bench.after("collect", left={"/x": "/etc/passwd", "/y": b"x" * 9}, limit=1).stray
    assert list(bench.output.iterdir()) == []


def test_limit(bench):
    """What goes beyond the limit is left and named; what fits is taken, before and behind it."""
    left = {
        f"{WORK}/runs": None,
        f"{WORK}/runs/1": b"one",
        f"{WORK}/runs/2": b"x" * 10_000,
        f"{WORK}/runs/3": b"three",
    }
    stray = bench.after("collect", left=left, limit=8192).stray
    assert bench.collected == {f"{WORK}/runs/1": b"one", f"{WORK}/runs/3": b"three"}
    assert stray is not None
    assert stray.total == 3
    assert _stray.report("job #0", stray, first=True) == (
        "job #0 left 1 file that could not be collected:\n"
        f"  {WORK}/runs/2 (9.8k): over stray_limit=8k"
    )
    assert stray.as_json()["left"] == {f"{WORK}/runs/2": "over stray_limit=8k"}


def test_limit_counts_empty_files(bench):
    """Empty files would fill a disk as well."""
    left = {f"/{number}": b"" for number in range(5)} | {"/x": b"x"}
    stray = bench.after("collect", left=left, limit=3 * 4096).stray
    assert stray is not None
    assert (len(bench.collected), stray.left_total) == (3, 3)


def test_planted_link(bench, tmp_path):
    """A link in the place of ``stray`` is not followed: nothing is written, and that is told."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (bench.output / "stray").symlink_to(elsewhere)
    stray = bench.after("collect", left={"/model.pt": b"x"}).stray
    assert list(elsewhere.iterdir()) == []
    assert stray is not None
    assert (stray.folder, stray.left_total) == (None, 1)
    told = _stray.report("job #0", stray, first=True)
    assert told is not None
    assert str(bench.output / "stray") in told


def test_planted_links_within(bench, tmp_path):
    """Links below ``stray`` are not followed either: one at a file's place is replaced."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("untouched")
    (bench.output / "stray").mkdir()
    (bench.output / "stray/srv").symlink_to(elsewhere)
    (bench.output / "stray/model.pt").symlink_to(elsewhere / "file")
    left = {"/model.pt": b"x", "/srv/file": b"x", "/srv/new": b"x"}
    stray = bench.after("collect", left=left).stray
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == {"file": "untouched"}
    assert (bench.output / "stray/model.pt").read_bytes() == b"x"
    assert not (bench.output / "stray/model.pt").is_symlink()
    assert stray is not None
    assert [file.path for file in stray.left] == ["/srv/file", "/srv/new"]


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_something_else_in_its_place(bench, kind):
    """A file or a pipe called ``stray`` neither blocks nor is written to."""
    place = bench.output / "stray"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.write_text("mine")
    stray = bench.after("collect", left={"/model.pt": b"x"}).stray
    assert stray is not None
    assert stray.left_total == 1


def test_folder_in_a_files_place(bench):
    """A folder at a file's place stays; the file is left, and nothing half done with it."""
    (bench.output / "stray/model.pt").mkdir(parents=True)
    stray = bench.after("collect", left={"/model.pt": b"x"}).stray
    assert stray is not None
    assert stray.left_total == 1
    assert [path.name for path in (bench.output / "stray").iterdir()] == ["model.pt"]


def hostile(*members: tuple[str, bytes, bytes, int]) -> bytes:
    """Return an archive of members: name, type, content, mode."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, kind, content, mode in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.size = kind, mode, len(content)
            entry.linkname = "/etc/passwd"
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


class HostileEngine(FakeEngine):
    """Gives the same archive whatever is asked for."""

    content = b""

    def archive(self, container, path):
        yield self.content


def test_hostile_archive(bench, tmp_path):
    """Names that lead elsewhere are not taken, nor links, devices and bits that give rights."""
    bench.engine = HostileEngine()
    file = tarfile.REGTYPE
    bench.engine.content = hostile(
        ("new", tarfile.DIRTYPE, b"", 0o777),
        ("new/../../../../escaped", file, b"x", 0o644),
        ("/escaped", file, b"x", 0o644),
        ("other/escaped", file, b"x", 0o644),
        ("new/not-in-the-diff", file, b"x", 0o644),
        ("new//escaped", file, b"x", 0o644),
        ("new/link", tarfile.SYMTYPE, b"", 0o777),
        ("new/device", tarfile.CHRTYPE, b"", 0o666),
        ("new/pipe", tarfile.FIFOTYPE, b"", 0o666),
        ("new/setuid", file, b"x", 0o6777),
        ("new/plain", file, b"y", 0o000),
    )
    left = {"/srv/new": None, "/srv/new/plain": b"y", "/srv/new/setuid": b"x"}
    stray = bench.after("collect", left=left).stray
    assert stray is not None
    assert (stray.total, stray.left) == (2, ())
    assert bench.collected == {"/srv/new/plain": b"y", "/srv/new/setuid": b"x"}
    folder = bench.output / "stray/srv/new"
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in folder.iterdir()}
    assert modes == {"plain": 0o600, "setuid": 0o755}
    everything = {path.name for path in tmp_path.rglob("*")}
    assert everything == {"0", "stray", "srv", "new", "plain", "setuid"}


def test_archive_that_breaks_off(bench):
    """A file of which only a part came is left, and no part of it stays."""
    bench.engine = HostileEngine()
    bench.engine.content = hostile(("model.pt", tarfile.REGTYPE, b"x" * 5000, 0o644))[:2000]
    stray = bench.after("collect", left={"/model.pt": b"x" * 5000}).stray
    assert stray is not None
    assert (stray.total, stray.left_total) == (1, 1)
    assert list(bench.output.iterdir()) == []


def test_launcher_that_was_killed_as_it_collected(bench, tmp_path):
    """What it has left half written goes; no link of the container's is followed for that."""
    half = f".partial-{'0' * 16}"
    elsewhere = tmp_path / "elsewhere"
    stray = bench.output / "stray"
    for folder in (stray / "srv", elsewhere):
        folder.mkdir(parents=True)
        (folder / half).write_text("x")
        (folder / "model.pt").write_text("x")
    (stray / "link").symlink_to(elsewhere)
    os.mkfifo(stray / "pipe")

    _stray.tidy(Policy("warn"), bench.output)
    assert (stray / "srv" / half).exists()
    _stray.tidy(Policy("collect"), bench.output)

    assert [path.name for path in (stray / "srv").iterdir()] == ["model.pt"]
    assert {path.name for path in elsewhere.iterdir()} == {half, "model.pt"}
    _stray.tidy(Policy("collect"), elsewhere)  # which has no such folder


def test_link_in_the_place_of_the_folder(bench, tmp_path):
    """Nothing is removed where it leads."""
    half = tmp_path / f".partial-{'0' * 16}"
    half.write_text("x")
    (bench.output / "stray").symlink_to(tmp_path)
    _stray.tidy(Policy("collect"), bench.output)
    assert half.exists()


def test_engine_that_stops_to_answer(bench):
    """After a few requests that fail, the rest is left without further ones."""

    class Gone(FakeEngine):
        def archive(self, container, path):
            self._note("archive", path)
            yield b""

    bench.engine = Gone()
    stray = bench.after("collect", left={f"/{number}": b"x" for number in range(9)}).stray
    assert stray is not None
    assert (stray.total, stray.left_total, len(bench.archives())) == (9, 9, 3)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owner(bench):
    """Files and folders belong to whom the output folder belongs."""
    os.chown(bench.output, 1234, 2345)
    bench.after("collect", left={"/srv/model.pt": b"x"})
    for name in ("stray", "stray/srv", "stray/srv/model.pt"):
        facts = (bench.output / name).stat()
        assert (facts.st_uid, facts.st_gid) == (1234, 2345)
