"""Sweep commands: ``hydra-docker attach``, ``stop`` and ``sync``, which look after a sweep."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._errors import SweepError
from ._harmless import plain
from ._interrupt import Detached

if TYPE_CHECKING:
    from ._ownership import Owner

FAILED = 1
#: Attached processes in the background end so when the sweep was left to another one.
LEFT = 0


def add(commands: Any) -> None:
    """Add the commands to those of ``hydra-docker``."""
    attach = commands.add_parser(
        "attach",
        help="take up a sweep whose launcher has ended",
        description="Take up a sweep that was detached, or whose launcher was killed: shows its "
        "output, starts the jobs that have not been started, waits for all, and records how they "
        "have ended. Ctrl-C does what hydra.launcher.on_interrupt of the sweep says; one that was "
        "started with detach=true goes on in the background.",
        epilog="Exit code: 0 when all jobs of the sweep have completed, 1 when one has not; "
        "130 after Ctrl-C.",
    )
    attach.add_argument("--background", action="store_true", help=argparse.SUPPRESS)
    stop = commands.add_parser(
        "stop",
        help="stop the jobs of a sweep",
        description="Stop the jobs of a sweep that have not ended: SIGTERM, and SIGKILL after "
        "their stop_grace_period. Those that have not been started will not be. With numbers of "
        "jobs, only these are stopped, and the sweep goes on.",
        epilog="Exit code: 0 when none of them runs any more, else 1.",
    )
    sync = commands.add_parser(
        "sync",
        help="send what the MLflow store has missed",
        description="Send to the MLflow store what it has missed of a sweep because it did not "
        "answer. Jobs that have not ended stay as they are.",
        epilog="Exit code: 0 when nothing is left to be sent, else 1.",
    )
    for parser, command in ((attach, _attach), (stop, _stop), (sync, _sync)):
        parser.add_argument(
            "sweep",
            metavar="SWEEP",
            help="its folder (hydra.sweep.dir), or its name in hydra-docker ps",
        )
        parser.set_defaults(command=command)
    stop.add_argument("jobs", metavar="JOB", nargs="*", type=int, help="numbers of jobs")
    for parser in (attach, stop):
        parser.add_argument(
            "--others", action="store_true", help="also where the sweep is somebody else's"
        )


def _folder(parsed: argparse.Namespace) -> Path:
    from . import _start, _team

    return _team.folder_of(parsed.sweep, _start.docker_engine)


def _me() -> Owner:
    from . import _ownership, _pinning

    me = _pinning.identity("host")
    return _ownership.Owner(me.name, me.uid)


def _attach(parsed: argparse.Namespace) -> int:
    from . import _attach, _ownership, _start

    folder = _folder(parsed)
    if not (parsed.others or parsed.background):
        _ownership.check(folder, _me(), doing="take up")
    if not _ownership.is_writable(folder):
        raise SweepError(
            f"The files of the sweep in {folder} are not yours: only {_ownership.owner_of(folder)} "
            "and root can take it up"
        )
    try:
        ledger = _attach.attach(
            folder,
            make_engine=_start.docker_engine,
            make_tracker=_start.tracker,
            background=parsed.background,
        )
    except Detached:
        if parsed.background:
            return LEFT
        raise
    print(_attach.summary(ledger))
    return 0 if parsed.background or _attach.all_completed(ledger) else FAILED


def _stop(parsed: argparse.Namespace) -> int:
    from . import _attach, _background, _ownership, _start, _sweep_folder

    folder = _folder(parsed)
    me = None if parsed.others else _me()
    if me is not None:
        _ownership.check(folder, me, doing="stop")
    if parsed.jobs or not _ownership.is_writable(folder) or not os.path.lexists(folder):
        return _stop_containers(folder, parsed.jobs, me)
    paths = _sweep_folder.find(folder)
    if paths is not None:
        _background.end_launcher(paths)
    ledger = _attach.stop(
        folder,
        make_engine=_start.docker_engine,
        make_tracker=_start.tracker,
        reason="hydra-docker stop",
    )
    print(_attach.summary(ledger))
    return 0


def _stop_containers(folder: Path, jobs: list[int], me: Owner | None) -> int:
    """Stop containers alone, and leave the rest to the process that looks after the sweep."""
    from . import _ownership, _start, _team

    stopped = _ownership.stop_containers(_start.docker_engine(), folder, jobs, me=me)
    if not stopped and not os.path.lexists(folder):
        raise SweepError(
            f"There is no folder {folder} here, and no job of its sweep runs on this engine"
        )
    print(f"stopped: {', '.join(f'#{number}' for number in stopped) or 'no job runs'}")
    remark = _ownership.says_who_records(folder)
    if remark is not None:
        print(plain(remark))
    if jobs:
        return 0
    told = _team.told_by(folder)
    left = 0 if told is None else sum(row.outcome is None for row in told.rows) - len(stopped)
    if left > 0 or told is None:
        owner = _ownership.owner_of(folder)
        who = "its user, where its folder is," if owner is None else f"{owner} and root"
        print(
            f"Jobs that wait for their turn will be started by its launcher: only {who} can end it."
        )
        return FAILED
    return 0


def _sync(parsed: argparse.Namespace) -> int:
    from . import _attach, _start

    left = _attach.sync(_folder(parsed), make_tracker=_start.tracker)
    if left:
        print(f"{left} jobs are still to be sent")
        return FAILED
    print("nothing is left to be sent")
    return 0
