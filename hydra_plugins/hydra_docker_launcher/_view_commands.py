"""View commands: ``hydra-docker ps``, ``logs`` and ``doctor``, which change nothing."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from ._harmless import plain

FAILED = 1
PAUSE = 2.0  # seconds between two looks of ``ps --watch``
#: Goes to the upper left corner and clears what is below, as ``watch`` does.
CLEAR = "\x1b[H\x1b[J"


def add(commands: Any) -> None:
    """Add the commands to those of ``hydra-docker``."""
    _add_ps(commands)
    _add_logs(commands)
    doctor = commands.add_parser(
        "doctor",
        help="check what a sweep needs on this machine",
        description="Check what a sweep that is launched in this folder needs: packages, engine, "
        "limits, disks, repository, MLflow store. A line for each, with what to do.",
        epilog="Exit code: 0, or 1 where there is a problem; warnings are none.",
    )
    doctor.set_defaults(command=_doctor)


def _add_ps(commands: Any) -> None:
    ps = commands.add_parser(
        "ps",
        help="list the sweeps on this engine, of all users",
        description="List the sweeps on this engine: how many of their jobs run, wait for their "
        "turn, are done (completed) and have failed; the CPUs and the memory that their containers "
        "use, of those that they were promised; how long the next job has waited; and the process "
        "that looks after the sweep (& in the background). ? stands for what only the user's own "
        "folder could tell, 1+ for at least one. Below that: which jobs wait for room on the "
        "engine, for how long and for what, and who has it.",
        epilog="Exit code: 0, also where there is none; 1 when the engine does not answer; "
        "130 after Ctrl-C.",
    )
    whose = ps.add_mutually_exclusive_group()
    whose.add_argument("--all-users", action="store_true", help="of all users (the default)")
    whose.add_argument("--mine", action="store_true", help="only one's own")
    ps.add_argument(
        "--all",
        "-a",
        action="store_true",
        dest="past",
        help="also sweeps that are over and have left containers",
    )
    shape = ps.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="as JSON, for scripts")
    shape.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    ps.add_argument(
        "--no-use",
        action="store_false",
        dest="use",
        help="do not measure what containers use, which takes a second or two",
    )
    ps.set_defaults(command=_ps)


def _add_logs(commands: Any) -> None:
    logs = commands.add_parser(
        "logs",
        help="print what the jobs of a sweep have printed",
        description="Print what the jobs of a sweep have written to stdout and stderr, from their "
        "container.log, in the order of time.",
        epilog="Exit code: 0, or 1 where there is no such sweep or job, or where --follow ends "
        "because nobody looks after the sweep; 130 after Ctrl-C.",
    )
    logs.add_argument("sweep", metavar="SWEEP", help="its folder, or its name in hydra-docker ps")
    logs.add_argument("jobs", metavar="JOB", nargs="*", type=int, help="numbers of jobs")
    logs.add_argument("--follow", "-f", action="store_true", help="go on until the jobs have ended")
    logs.add_argument(
        "--tail", "-n", type=_count, metavar="N", help="only the last N lines of each job"
    )
    logs.add_argument("--timestamps", "-t", action="store_true", help="with the time of each line")
    logs.set_defaults(command=_logs)


def _ps(parsed: argparse.Namespace) -> int:
    from . import _pinning, _ps, _start, _team

    user = _pinning.identity("host").name if parsed.mine else None
    view = _team.View(user=user, use=parsed.use, past=parsed.past)
    engine = _start.docker_engine()
    while True:
        report = _team.survey(engine, view, time.time())
        if parsed.json:
            print(json.dumps(_ps.as_json(report), indent=2))
            return 0
        text = _ps.table(report, _width())
        print(f"{CLEAR if parsed.watch and sys.stdout.isatty() else ''}{text}", flush=True)
        if not parsed.watch:
            return 0
        time.sleep(PAUSE)
        if not sys.stdout.isatty():
            print()


def _width() -> int | None:
    """Return how wide the table may be: what is no terminal has no end."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size().columns
    return None


def _logs(parsed: argparse.Namespace) -> int:
    from . import _logs, _start, _team

    folder = _team.folder_of(parsed.sweep, _start.docker_engine)
    # A sweep may have more jobs than a process may open files by default.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wish = _logs.Wish(tuple(parsed.jobs), parsed.tail, parsed.follow, parsed.timestamps)
    if _logs.show(folder, wish, lambda line: print(line, flush=parsed.follow)):
        return 0
    print(
        plain(f"Nobody looks after the sweep, so nothing more comes: hydra-docker attach {folder}"),
        file=sys.stderr,
    )
    return FAILED


def _doctor(_parsed: argparse.Namespace) -> int:
    from . import _doctor, _start

    findings = []
    for finding in _doctor.examine(
        _start.docker_engine, _start.history, Path.cwd(), dict(os.environ)
    ):
        print(finding, flush=True)
        findings.append(finding)
    print(f"\n{_doctor.summary(findings)}")
    return FAILED if any(one.level is _doctor.Level.PROBLEM for one in findings) else 0


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)
