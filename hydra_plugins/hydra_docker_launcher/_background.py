"""Background: a sweep goes on in a process without a terminal, and comes back from it.

That process is ``hydra-docker attach --background``. It leaves the sweep to whoever attaches to it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

from . import _sweep_folder
from ._errors import SweepError
from ._paths import SweepPaths
from ._saved import SavedJob
from ._sweep_folder import SweepFolder

log = logging.getLogger("hydra_docker_launcher")

START_TIMEOUT = 60.0  # seconds until the process looks after the sweep
LEAVE_TIMEOUT = 90.0  # seconds until it has left the sweep to another one
PAUSE = 0.1


class Launching:
    """The right to add jobs to a sweep that runs in the background.

    As long as this object lives, the process in the background waits for more.
    """

    def __init__(self, paths: SweepPaths, working_dir: Path) -> None:
        self._paths = paths
        self._working_dir = working_dir
        weakref.finalize(self, os.close, _sweep_folder.announce(paths))

    def add(self, jobs: Sequence[SavedJob]) -> None:
        """Add jobs. Where the process has ended meanwhile, another one is started."""
        for job in jobs:
            _sweep_folder.save_job(self._paths, job)
        if _sweep_folder.keeper(self._paths) is None:
            _spawn(self._paths, self._working_dir)


def start(paths: SweepPaths, working_dir: Path) -> Launching:
    """Start the process that goes on with a sweep, which nobody looks after at the moment.

    Returns when it does. Raises ``SweepError`` where it cannot.
    """
    launching = Launching(paths, working_dir)
    _spawn(paths, working_dir)
    log.info(
        "The sweep runs on in the background; what its launcher says is in %s\n"
        "  hydra-docker attach %s    to watch it\n"
        "  hydra-docker stop %s    to end it",
        paths.output,
        paths.folder,
        paths.folder,
    )
    return launching


def take_over(paths: SweepPaths, *, resume: bool = True, background: bool = False) -> SweepFolder:
    """Become the process that looks after a sweep; one in the background leaves it.

    Raises ``SweepError`` where another process goes on, or, without ``resume``, where the folder
    has a sweep that is not over.
    """
    asked = False
    deadline = time.monotonic() + LEAVE_TIMEOUT
    while (folder := _sweep_folder.take(paths, background=background)) is None:
        keeper = _sweep_folder.keeper(paths)
        if keeper is None or keeper.pid == 0:
            if time.monotonic() > deadline:
                raise SweepError(
                    f"A process holds {paths.lock} locked, and has not written there which one it "
                    f"is. See who it is (fuser {paths.lock}), and end it to go on with the sweep."
                )
            time.sleep(PAUSE)
            continue
        here = keeper.host == socket.gethostname()
        if not (resume and keeper.background and here):
            raise SweepError(
                f"Process {keeper.pid}{'' if here else f' on {keeper.host}'} looks after the sweep "
                f"in {paths.folder} at the moment. Wait until it has ended, or end it; for another "
                "sweep, choose another hydra.sweep.dir."
            )
        if time.monotonic() > deadline:
            raise SweepError(
                f"Process {keeper.pid}, which looks after the sweep in {paths.folder} in the "
                f"background, does not leave it. Its log is {paths.output}."
            )
        if not asked:
            _ask_to_leave(keeper.pid)
            asked = True
        time.sleep(PAUSE)
    if not resume and folder.sweep() is not None and folder.jobs():
        jobs = len(folder.jobs())
        folder.release()
        raise SweepError(
            f"{paths.folder} has a sweep that is not over: {jobs} of its jobs have not ended, or "
            "their end is not recorded. Go on with it (the same command with "
            f"hydra.launcher.resume=true, or hydra-docker attach {paths.folder}), or choose "
            "another hydra.sweep.dir."
        )
    return folder


def end_launcher(paths: SweepPaths) -> None:
    """Have the user's own command stop the sweep that it looks after, and wait until it has.

    Does nothing where it is not on this machine, or where another process looks after the sweep.
    Raises ``SweepError`` where it does not come to an end.
    """
    keeper = _sweep_folder.keeper(paths)
    if keeper is None or keeper.background or keeper.pid == 0:
        return
    if keeper.host != socket.gethostname():
        return
    log.info("Process %d looks after the sweep, and is asked to stop it", keeper.pid)
    graces = [job.runnable.spec.stop_grace_period for job in _sweep_folder.present_jobs(paths)]
    patience = LEAVE_TIMEOUT + max(graces, default=0.0)
    deadline = time.monotonic() + patience
    _ask_to_leave(keeper.pid)
    while _sweep_folder.keeper(paths) == keeper:
        if time.monotonic() > deadline:
            raise SweepError(
                f"Process {keeper.pid}, which looks after the sweep in {paths.folder}, was asked "
                f"to stop it (SIGTERM), and has not done so in {patience:g} s: its program may "
                "handle that signal itself. Press Ctrl-C in its terminal, or end it (kill -KILL "
                f"{keeper.pid}); then call hydra-docker stop again."
            )
        time.sleep(PAUSE)


def _ask_to_leave(process: int) -> None:
    try:
        os.kill(process, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise SweepError(
            f"Process {process} looks after the sweep, and is another user's: only they and root "
            "can end it"
        ) from error


def _spawn(paths: SweepPaths, working_dir: Path) -> None:
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    paths.folder.mkdir(parents=True, exist_ok=True)
    with paths.output.open("ab") as output:
        process = subprocess.Popen(
            (
                sys.executable,
                "-m",
                f"{__package__}._cli",
                "attach",
                "--background",
                str(paths.folder),
            ),
            cwd=working_dir,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        keeper = _sweep_folder.keeper(paths)
        if keeper is not None and keeper.pid == process.pid:
            process.returncode = 0  # it is nobody's child from here on
            return
        time.sleep(PAUSE)
    if process.poll() == 0:
        return  # so little was left to do that it has been done
    if process.poll() is None:
        process.kill()
        process.wait()
    lines = "\n".join(f"  {line}" for line in paths.output.read_text().splitlines()[-10:])
    raise SweepError(
        f"The process that was to go on with the sweep has not started:\n{lines}\n"
        f"Try it in the foreground: hydra-docker attach {paths.folder}"
    )
