"""DESIGN.md section 8 on a real engine: every way a job can end, told apart, in one sweep."""

from __future__ import annotations

import itertools
import json
import re
import signal
from dataclasses import dataclass
from typing import Any

import pytest
from docker.errors import NotFound
from sweep_command import Finished, MakeRepository, Repository, wait_for

HOWS = (
    "wait_for_kill",
    "wait_for_stop",
    "wait_for_removal",
    "run_overtime",
    "completed",
    "raise_builtin",
    "raise_own",
    "raise_chained",
    "exit_with_code",
    "exit_before",
    "exit_after",
    "exit_hard",
    "kill_itself",
    "segfault",
    "use_memory",
    "lose_a_child",
    "fail_with_a_child",
    "fill_shm",
    "fill_tmpfs",
    "bus_error",
    "fork_bomb",
    "opaque",
    "noisy",
    "never_starts",
)


@dataclass(frozen=True)
class Ends:
    """A sweep in which every job ended in another way."""

    repository: Repository
    finished: Finished

    def number(self, how: str) -> int:
        return HOWS.index(how)

    def row(self, how: str) -> dict[str, Any]:
        """Return outcome, cause and exit code, as ``sweep.json`` has them."""
        row = self.finished.ledger["jobs"][self.number(how)]
        return {name: row[name] for name in ("outcome", "cause", "exit_code")}

    def known(self, how: str, name: str) -> Any:
        """Return what ``sweep.json`` and the container's file have beside that: the same."""
        row = self.finished.ledger["jobs"][self.number(how)]
        container = self.finished.job(self.number(how)).json(".docker/container.json")
        assert row.get(name) == container.get(name)
        return row.get(name)

    def result(self, how: str) -> dict[str, Any]:
        return self.finished.results[self.number(how)]

    def error(self, how: str) -> dict[str, Any]:
        result = self.result(how)
        assert result["status"] == "FAILED"
        return result["error"]

    def report(self, how: str) -> str:
        """Return the job's error message, which has to say all that this returns, and no more."""
        error = self.error(how)
        assert error["type"] == "JobError"
        text: str = error["text"]
        log = self.finished.folder / str(self.number(how)) / "container.log"
        title = f"job #{self.number(how)} (how={how}) "
        assert text.startswith(title)
        assert f"\nLog: {log}" in text
        assert text.splitlines()[0] in self.finished.output
        return text.removeprefix(title)


@pytest.fixture(scope="module")
def ends(make_repository: MakeRepository) -> Ends:
    """Run the sweep; kill, stop and remove the containers of three jobs from outside."""
    repository = make_repository("ends", n_jobs="4")
    command = repository.start("how=" + ",".join(HOWS), "hydra/sweeper=recording")
    api = repository.api
    for how, end in (
        ("wait_for_kill", api.kill),
        ("wait_for_stop", lambda container: api.stop(container, timeout=1)),
        ("wait_for_removal", lambda container: api.remove_container(container, force=True)),
    ):
        number = HOWS.index(how)
        command.wait_for_line(number, "waiting")
        end(command.container(number))
    return Ends(repository, command.finish())


def test_order(ends: Ends) -> None:
    """Results come in the order of the jobs, whatever order they ended in; siblings all finish."""
    expected = [f"how={how}" for how in HOWS]
    assert [result["overrides"] for result in ends.finished.results] == [[e] for e in expected]
    assert [row["overrides"] for row in ends.finished.ledger["jobs"]] == [[e] for e in expected]
    assert [result["num"] for result in ends.finished.results] == list(range(len(HOWS)))


def test_command(ends: Ends) -> None:
    """A sweep with failed jobs exits with 1, counts the ends, and shows the first error."""
    assert ends.finished.status == 1
    counts = next(re.finditer(r"\[HYDRA\] ((\d+ [a-z ]+(, |\n))+)", ends.finished.output))[1]
    assert sorted(counts.strip().split(", ")) == [
        "1 could not start",
        "1 lost",
        "1 stopped",
        "1 timed out",
        "2 out of memory",
        "5 completed",
        "5 error",
        "8 exited",
    ]
    assert "\njob #0 (how=wait_for_kill) exited: its container was sent" in ends.finished.output


def test_completed(ends: Ends) -> None:
    """A task function that returned, in a script that ended with 0, has completed."""
    assert ends.row("completed") == {"outcome": "completed", "cause": "completed", "exit_code": 0}
    result = ends.result("completed")
    assert result["status"] == "COMPLETED"
    assert result["value"] == {"accuracy": 0.5, "layers": [1, 2]}
    assert result["working_dir"] == str(ends.repository.root)
    assert result["task_name"] == "app"


def test_value_that_is_no_json(ends: Ends) -> None:
    """A return value that JSON does not have comes back as its repr, with a warning."""
    assert ends.result("opaque")["value"] == "{1, 2}"
    assert "(how=opaque) returned a builtins.set, which is no JSON value" in ends.finished.output


def test_builtin_exception(ends: Ends) -> None:
    """One of Python's own exceptions comes back as itself, the job's report in its notes."""
    assert ends.row("raise_builtin") == {
        "outcome": "error",
        "cause": "raised ValueError: lr must be positive",
        "exit_code": 1,
    }
    error = ends.error("raise_builtin")
    assert (error["type"], error["text"]) == ("ValueError", "lr must be positive")
    number = ends.number("raise_builtin")
    (report,) = error["notes"]
    title, log = report.split("\n")
    assert (
        title == f"job #{number} (how=raise_builtin) error: raised ValueError: lr must be positive"
    )
    assert log == f"Log: {ends.finished.folder}/{number}/container.log"
    script = str(ends.repository.root / "app.py")
    frames = [(file, name) for file, name, _ in error["frames"]]
    assert frames[-2:] == [(script, "main"), (script, "raise_builtin")]


def test_chained_exception(ends: Ends) -> None:
    """The cause of an exception comes along."""
    error = ends.error("raise_chained")
    assert (error["type"], error["text"]) == ("RuntimeError", "no learning rate")
    assert (error["cause"]["type"], error["cause"]["text"]) == ("KeyError", "'lr'")


def test_own_exception(ends: Ends) -> None:
    """An exception type of the script's own is shown with type, message and traceback."""
    assert ends.row("raise_own")["outcome"] == "error"
    report = ends.report("raise_own")
    assert report.startswith("error: raised OwnError: loss is nan\n")
    assert 'app.py", line' in report
    assert report.endswith("OwnError: loss is nan")


def test_sys_exit(ends: Ends) -> None:
    """``sys.exit(3)`` is told as such, with the last lines of the log."""
    assert ends.row("exit_with_code") == {
        "outcome": "exited",
        "cause": "called sys.exit(3) before its task function returned",
        "exit_code": 3,
    }
    report = ends.report("exit_with_code")
    assert report.startswith("exited: called sys.exit(3) before its task function returned\n")
    assert report.endswith("\n  giving up")


def test_sys_exit_0(ends: Ends) -> None:
    """Exit code 0 alone is no completion: the task function has not returned."""
    assert ends.row("exit_before") == {
        "outcome": "exited",
        "cause": "called sys.exit(0) before its task function returned",
        "exit_code": 0,
    }


def test_sys_exit_after_completion(ends: Ends) -> None:
    """A script that fails after its task function returned has not completed."""
    assert ends.row("exit_after") == {
        "outcome": "exited",
        "cause": "its task function returned, but the script then ended with exit code 5",
        "exit_code": 5,
    }


def test_death_without_a_result(ends: Ends) -> None:
    """A process that ends without a word is told by its exit code."""
    assert ends.row("exit_hard") == {
        "outcome": "exited",
        "cause": "ended with exit code 7, without a result",
        "exit_code": 7,
    }


def test_signals(ends: Ends) -> None:
    """A process that dies of a signal of its own is told by the signal's name."""
    assert ends.row("kill_itself") == {
        "outcome": "exited",
        "cause": "died of SIGKILL (exit code 137)",
        "exit_code": 137,
    }
    assert ends.row("segfault") == {
        "outcome": "exited",
        "cause": "died of SIGSEGV (exit code 139)",
        "exit_code": 139,
    }
    assert ends.known("kill_itself", "advice").startswith("Nobody did that through the engine")
    assert ends.known("segfault", "advice").startswith("Native code has crashed.")
    assert ends.known("wait_for_kill", "advice") is None


def test_out_of_memory(ends: Ends) -> None:
    """A job that needs more than mem_limit is out of memory; the limit is in the message."""
    assert ends.row("use_memory") == {
        "outcome": "out of memory",
        "cause": "used all of mem_limit=96m",
        "exit_code": 137,
    }
    assert ends.report("use_memory").splitlines() == [
        "out of memory: used all of mem_limit=96m",
        "Raise hydra.launcher.mem_limit, or make the job need less.",
        f"Log: {ends.finished.folder}/{ends.number('use_memory')}/container.log",
        "  filling the memory",
    ]


def test_child_out_of_memory(ends: Ends) -> None:
    """A job that survives the death of a child of its own has completed, with a warning."""
    assert ends.row("lose_a_child")["outcome"] == "completed"
    assert ends.result("lose_a_child")["value"] == -9
    warning = "completed, but one of its processes was killed for want of memory (mem_limit=128m)"
    assert ends.known("lose_a_child", "warning") == warning
    assert f"(how=lose_a_child) {warning}\n" in ends.finished.output


def test_failure_for_a_child_out_of_memory(ends: Ends) -> None:
    """A child that was killed for want of memory is the cause of what its death led to."""
    row = ends.row("fail_with_a_child")
    assert (row["outcome"], row["exit_code"]) == ("out of memory", 1)
    killed = "one of its processes was killed for want of memory (mem_limit=128m); then: "
    assert row["cause"].startswith(f"{killed}raised CalledProcessError: ")
    assert row["cause"].endswith("died with <Signals.SIGKILL: 9>.")
    report = ends.report("fail_with_a_child")
    advice = "Raise hydra.launcher.mem_limit, or make the job need less."
    assert ends.known("fail_with_a_child", "advice") == advice
    assert f"\n{advice}\nLog: " in report
    assert report.endswith("died with <Signals.SIGKILL: 9>.")


def test_peak_memory(ends: Ends) -> None:
    """The most memory that a job has used is known, and is the limit where it was used up."""
    for how in ("use_memory", "fail_with_a_child", "lose_a_child"):
        assert ends.known(how, "memory_peak") == (96 if how == "use_memory" else 128) * 2**20
    for how in ("completed", "raise_own", "exit_with_code"):
        assert 2**20 < ends.known(how, "memory_peak") < 256 * 2**20
    for how in ("run_overtime", "exit_hard", "segfault"):  # nobody was left to tell
        assert ends.known(how, "memory_peak") is None


@pytest.mark.parametrize(
    ("how", "cause", "advice"),
    [
        (
            "fill_shm",
            "raised OSError: [Errno 28] No space left on device",
            (
                "/dev/shm was full: it holds shm_size=1m. Raise hydra.launcher.shm_size; it counts "
                "as memory (mem_limit=256m)."
            ),
        ),
        (
            "fill_tmpfs",
            "raised OSError: [Errno 28] No space left on device",
            "The tmpfs /scratch:size=1m was full. Give it more: hydra.launcher.tmpfs.",
        ),
        (
            "bus_error",
            "died of SIGBUS (exit code 135)",
            (
                "A bus error mostly means that shared memory has run out. /dev/shm was full: it "
                "holds shm_size=1m. Raise hydra.launcher.shm_size; it counts as memory "
                "(mem_limit=256m)."
            ),
        ),
    ],
)
def test_no_space(ends: Ends, how: str, cause: str, advice: str) -> None:
    """Which place was full, and the option that makes it larger."""
    assert ends.row(how)["cause"] == cause
    assert ends.known(how, "advice") == advice
    error = ends.error(how)
    report = error["text"] if error["type"] == "JobError" else error["notes"][0]
    assert f": {cause}\n{advice}\n" in report
    assert f": {cause}\n{advice}\n" in ends.finished.output


def test_fork_bomb(ends: Ends) -> None:
    """A fork bomb is stopped at pids_limit, and harms nobody else."""
    assert ends.row("fork_bomb")["outcome"] == "completed"
    # The init process and the worker count as well.
    assert ends.result("fork_bomb")["value"] == 40 - 2


def test_timeout(ends: Ends) -> None:
    """A job that runs longer than timeout_min is ended, also where it ignores SIGTERM."""
    assert ends.row("run_overtime") == {
        "outcome": "timed out",
        "cause": "ran longer than timeout_min=0.1",
        "exit_code": 137,
    }
    report = ends.report("run_overtime")
    assert "Raise hydra.launcher.timeout_min, or make the job shorter." in report


def test_docker_kill(ends: Ends) -> None:
    """A container that somebody kills is told apart from one that dies by itself."""
    assert ends.row("wait_for_kill") == {
        "outcome": "exited",
        "cause": "its container was sent SIGKILL from outside (docker kill)",
        "exit_code": 137,
    }


def test_docker_stop(ends: Ends) -> None:
    """A container that somebody stops is stopped, not failed."""
    assert ends.row("wait_for_stop") == {
        "outcome": "stopped",
        "cause": "somebody stopped its container (docker stop)",
        "exit_code": 143,
    }
    assert "Run it again when you want its result." in ends.report("wait_for_stop")


def test_docker_rm(ends: Ends) -> None:
    """A container that somebody removes while it runs is lost; the log until then is there."""
    assert ends.row("wait_for_removal") == {
        "outcome": "lost",
        "cause": "the engine no longer knows its container (removed by hand, or the engine's "
        "data is gone)",
        "exit_code": None,
    }
    assert ends.report("wait_for_removal").endswith("\n  waiting")


def test_could_not_start(ends: Ends) -> None:
    """A container that the engine cannot start is told in the engine's words; siblings go on."""
    row = ends.row("never_starts")
    assert (row["outcome"], row["exit_code"]) == ("could not start", None)
    assert row["cause"].startswith("The engine could not ")
    assert "No such container: no-such-container" in row["cause"]
    advice = "See `docker ps`, and hydra.launcher.network_mode."
    assert ends.known("never_starts", "advice") == advice


def test_noise(ends: Ends) -> None:
    """container.log has what the engine has logged; the console, only what does it no harm."""
    number = ends.number("noisy")
    first, second = (ends.finished.folder / f"{number}/container.log").read_bytes().splitlines()
    assert first.endswith(b" caf\xef\xbf\xbd \x1b[2J\x1b]0;title\x07\x1b[31mred\x1b[0m")
    assert second.endswith(b"x" * 100_000 + b"end")
    assert f"#{number} | caf\ufffd \x1b[31mred\x1b[0m\n" in ends.finished.output


def test_jobs_at_once(ends: Ends) -> None:
    """With n_jobs=4 four containers run at once, and never more."""
    moments = []
    for number in range(len(HOWS)):
        path = ends.finished.job(number).folder / ".docker/container.json"
        times = json.loads(path.read_text()) if path.exists() else {}
        if times.get("finished_at"):
            moments += [(times["started_at"], 1), (times["finished_at"], -1)]
    running = list(itertools.accumulate(change for _, change in sorted(moments)))
    assert max(running) in (3, 4)  # the one that was removed has told no times
    assert running[-1] == 0


def test_keep_failed(ends: Ends) -> None:
    """By default the containers of jobs that did not complete stay, with their output and names."""
    api = ends.repository.api
    for how in ("raise_own", "use_memory"):
        row = ends.finished.ledger["jobs"][ends.number(how)]
        container = api.inspect_container(row["container"])
        assert container["Name"] == f"/{row['name']}"
        assert b"Traceback" in api.logs(row["container"]) or how == "use_memory"
    for how in ("completed", "wait_for_removal"):
        with pytest.raises(NotFound):
            api.inspect_container(ends.finished.ledger["jobs"][ends.number(how)]["container"])


def test_ledger(ends: Ends) -> None:
    """``sweep.json`` has the commit, the image's id, the machine, and a finished row per job."""
    ledger = ends.finished.ledger
    repository = ends.repository
    assert ledger["format"] == 1
    assert ledger["script"] == str(repository.root / "app.py")
    assert ledger["source"] == {
        "root": str(repository.root),
        "commit": repository.commits[-1],
        "parent": None,
        "dirty": False,
        "pushed": None,
        "branch": "main",
        "remote": None,
        "changed": [],
        "left_out": [],
    }
    reference = ledger["image"]["reference"]
    assert ledger["image"]["id"] == repository.api.inspect_image(reference)["Id"]
    assert ledger["host"]["cpus"] == repository.api.info()["NCPU"]
    for row in ledger["jobs"]:
        assert row["started"] <= row["ended"]


def test_container_json(ends: Ends) -> None:
    """``.docker/container.json`` tells which container ran the job, under which limits."""
    row = ends.finished.ledger["jobs"][ends.number("use_memory")]
    content = ends.finished.job(ends.number("use_memory")).json(".docker/container.json")
    assert content["id"] == row["container"]
    assert content["name"] == row["name"]
    assert content["image"] == ends.finished.ledger["image"]["id"]
    assert content["outcome"] == "out of memory"
    assert content["limits"] == {
        "cpus": "1",
        "mem_limit": "96m",
        "shm_size": "96m",
        "pids_limit": "256",
        "gpus": "0",
    }


def test_log(ends: Ends) -> None:
    """``container.log`` has every line with its time; the console has it with the job's number."""
    number = ends.number("exit_with_code")
    (line,) = ends.finished.job(number).log.splitlines()
    time, _, text = line.partition(" ")
    assert time.endswith("Z")
    assert text == "giving up"
    assert f"#{number} | giving up\n" in ends.finished.output


def test_private_files(ends: Ends) -> None:
    """The config is for the user's own eyes; what only the worker needs goes with the container."""
    private = ends.finished.job(ends.number("completed")).folder / ".docker"
    assert private.stat().st_mode & 0o777 == 0o700
    assert (private / "config.yaml").stat().st_mode & 0o777 == 0o600
    assert json.loads((private / "result.json").read_text())["outcome"] == "completed"
    assert not (private / "job.pickle").exists()


def test_fail_fast(make_repository: MakeRepository) -> None:
    """With fail_fast the first job that does not complete stops the others, and starts no more."""
    repository = make_repository("ends", n_jobs="2", fail_fast="true", keep="none")
    finished = repository.sweep("how=wait,exit_with_code,completed", "hydra/sweeper=recording")
    assert finished.status == 1
    assert finished.outcomes == ["stopped", "exited", "stopped"]
    reason = "fail_fast: job #1 (how=exit_with_code) did not complete"
    causes = [row["cause"] for row in finished.ledger["jobs"]]
    assert causes[0] == reason
    assert causes[2] == f"not started: {reason}"
    assert "container" not in finished.ledger["jobs"][2]
    assert [result["status"] for result in finished.results] == ["FAILED"] * 3


def test_keep(make_repository: MakeRepository) -> None:
    """keep=all leaves every container, keep=none leaves none: not even of jobs that failed."""
    repository = make_repository("ends")
    hows = "how=completed,exit_with_code"
    finished = repository.sweep(hows, "hydra.launcher.keep=all")
    kept = {container["Id"]: container["State"] for container in repository.containers()}
    rows = finished.ledger["jobs"]
    assert kept == {row["container"]: "exited" for row in rows}
    repository.sweep(hows, "hydra.launcher.keep=none")
    assert {container["Id"] for container in repository.containers()} == set(kept)


class TestCtrlC:
    @pytest.mark.parametrize(
        ("number", "cause"),
        [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")],
    )
    def test_once(
        self, make_repository: MakeRepository, number: signal.Signals, cause: str
    ) -> None:
        """Ctrl-C stops every container, starts no more, and writes that down before it ends.

        So do ``kill`` and a terminal that closes. Containers that were stopped have not failed:
        they are removed.
        """
        repository = make_repository("ends", n_jobs="2", keep="failed")
        command = repository.start("how=wait,wait_for_stop,completed")
        for job in (0, 1):
            command.wait_for_line(job, "waiting")
        command.interrupt(number)
        finished = command.finish(30)
        assert finished.status in (-2, 130)
        assert finished.outcomes == ["stopped"] * 3
        causes = [row["cause"] for row in finished.ledger["jobs"]]
        assert causes == [cause, cause, f"not started: {cause}"]
        assert repository.containers() == []
        assert [row.get("exit_code") for row in finished.ledger["jobs"]] == [143, 143, None]

    @pytest.mark.parametrize("stage", ["Commit ", "Image ", "#0 : "])
    def test_before_the_first_job(self, make_repository: MakeRepository, stage: str) -> None:
        """Ctrl-C while the sweep is prepared, or just as a job starts, leaves nothing either."""
        repository = make_repository("ends", keep="none")
        command = repository.start("how=wait")
        wait_for(lambda: stage in command.output, f"the line {stage!r}")
        command.interrupt()
        assert command.finish(30).status in (-2, 130)
        assert repository.containers() == []

    def test_twice(self, make_repository: MakeRepository) -> None:
        """A second Ctrl-C does not wait for the grace period of jobs that ignore SIGTERM."""
        repository = make_repository("ends", keep="none", stop_grace_period="50s")
        command = repository.start("how=ignore_sigterm")
        command.wait_for_line(0, "waiting")
        command.interrupt()
        command.wait_for_line(0, "not now")
        command.interrupt()
        finished = command.finish(20)
        assert finished.status in (-2, 130)
        assert finished.ledger["jobs"][0]["exit_code"] == 137
