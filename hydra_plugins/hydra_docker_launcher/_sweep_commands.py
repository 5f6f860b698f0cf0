"""Sweep commands: ``hydra-docker attach``, ``stop`` and ``sync``, which look after a sweep."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._interrupt import Detached

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
        "their stop_grace_period. Those that have not been started will not be.",
        epilog="Exit code: 0 when no job runs any more.",
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
            "folder",
            metavar="SWEEP_DIR",
            type=lambda text: Path(text).resolve(),
            help="the folder of the sweep (hydra.sweep.dir)",
        )
        parser.set_defaults(command=command)


def _attach(parsed: argparse.Namespace) -> int:
    from . import _attach, _start

    try:
        ledger = _attach.attach(
            parsed.folder,
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
    from . import _attach, _start

    ledger = _attach.stop(
        parsed.folder,
        make_engine=_start.docker_engine,
        make_tracker=_start.tracker,
        reason="hydra-docker stop",
    )
    print(_attach.summary(ledger))
    return 0


def _sync(parsed: argparse.Namespace) -> int:
    from . import _attach, _start

    left = _attach.sync(parsed.folder, make_tracker=_start.tracker)
    if left:
        print(f"{left} jobs are still to be sent")
        return FAILED
    print("nothing is left to be sent")
    return 0
