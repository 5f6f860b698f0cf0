"""The command line, ``hydra-docker``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_plugins.hydra_docker_launcher import __version__

from ._errors import DockerLauncherError
from ._interrupt import taken_as_ctrl_c

if TYPE_CHECKING:
    from ._reproduce import Wish

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
#: Options of a note; the last one may be left out.
NOTE = ("image", "commit", "config", "script")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0: done; 1: a job did not complete, or the command could not be carried out; 2: wrong use;
    130: Ctrl-C.
    """
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("hydra_docker_launcher").setLevel(logging.INFO)
    try:
        with taken_as_ctrl_c():
            return int(parsed.command(parsed))
    except DockerLauncherError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hydra-docker", description="Look after the jobs that hydra/launcher=docker has run."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_reproduce(commands)
    _add_note(commands)
    return parser


def _add_reproduce(commands: Any) -> None:
    parser = commands.add_parser(
        "reproduce",
        help="run a past job, or all jobs of a past sweep, again",
        description="Run a past job, or all jobs of a past sweep, again: commit, image, config, "
        "limits and volumes of then. Says at the end what was the same and what was not. "
        "Without a run, --image, --commit and --config say what to run.",
    )
    parser.add_argument(
        "run_id", metavar="RUN_ID", nargs="?", help="MLflow run of a job, or of a sweep"
    )
    parser.add_argument("--image", help="without a run: the image")
    parser.add_argument("--commit", help="without a run: the commit")
    parser.add_argument("--config", type=Path, metavar="FILE", help="without a run: the config")
    parser.add_argument(
        "--script", help="without a run: the script, from the root of the repository"
    )
    _add_store(parser)
    parser.add_argument(
        "--repository",
        type=Path,
        metavar="FOLDER",
        help="a clone on this machine that has the commit",
    )
    parser.add_argument("--remote", metavar="URL", help="where to clone the repository from")
    parser.add_argument(
        "--volume",
        action="append",
        default=[],
        type=_pair,
        metavar="THEN=NOW",
        help="where the source of a volume is on this machine",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        dest="options",
        help="an option of hydra.launcher other than then, such as mem_limit=4g",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder for the new outputs (default: reproduced/<time>)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would run, start nothing"
    )
    parser.set_defaults(command=_reproduce)


def _add_note(commands: Any) -> None:
    parser = commands.add_parser(
        "note",
        help="print image, commit and config of a run, for a lab book",
        description="Print image, commit and config of a job's run, and how to run it again, with "
        "this project and with docker alone.",
    )
    parser.add_argument("run_id", metavar="RUN_ID", help="MLflow run of a job")
    _add_store(parser)
    parser.set_defaults(command=_note)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="the MLflow store (default: MLFLOW_TRACKING_URI, else the one in this folder)",
    )


def _reproduce(parsed: argparse.Namespace) -> int:
    from . import _pinning
    from ._reproduce import Wish

    options = [*parsed.options, ("dry_run", parsed.dry_run)]
    if parsed.tracking_uri:
        options.append(("mlflow.tracking_uri", parsed.tracking_uri))
    wish = Wish(
        folder=Path.cwd(),
        output=Path(os.path.abspath(parsed.output or _fresh_folder())),
        cache=_pinning.cache_folder(),
        repository=parsed.repository,
        remote=parsed.remote,
        volumes=tuple(parsed.volume),
        options=tuple(options),
    )
    noted = [name for name in NOTE if getattr(parsed, name) is not None]
    if parsed.run_id is None:
        missing = [f"--{name}" for name in NOTE[:3] if name not in noted]
        if missing:
            return _wrong(
                f"give a RUN_ID, or all of --image, --commit, --config ({missing[0]} is missing)"
            )
        return _reproduce_note(parsed, wish)
    if noted:
        return _wrong(
            f"--{noted[0]} is for a job without a RUN_ID; --set image=... replaces the image"
        )
    return _reproduce_run(parsed, wish)


def _reproduce_run(parsed: argparse.Namespace, wish: Wish) -> int:
    from . import _report, _reproduce, _start
    from ._past_job import past_jobs

    history = _start.history(parsed.tracking_uri, Path.cwd())
    past = past_jobs(history, parsed.run_id)
    again = _reproduce.reproduce(
        past, wish, asked=parsed.run_id, engine=_start.docker_engine(), make_tracker=_start.tracker
    )
    if again is None:
        return 0
    for job in again:
        print(_report.report(job, history))
    return 0 if _reproduce.completed(again) else FAILED


def _reproduce_note(parsed: argparse.Namespace, wish: Wish) -> int:
    from . import _from_note, _start

    completed = _from_note.reproduce_note(
        _from_note.Note(parsed.image, parsed.commit, parsed.config, parsed.script),
        wish,
        engine=_start.docker_engine(),
        make_tracker=_start.tracker,
    )
    return FAILED if completed is False else 0


def _note(parsed: argparse.Namespace) -> int:
    from . import _note, _start
    from ._past_job import past_jobs

    for job in past_jobs(_start.history(parsed.tracking_uri, Path.cwd()), parsed.run_id):
        config = Path(f"config-{job.run.id[:8]}.yaml")
        config.write_text(_note.config(job))
        print(_note.note(job, str(config)))
    return 0


def _wrong(message: str) -> int:
    print(f"hydra-docker: {message}", file=sys.stderr)
    return WRONG_USE


def _fresh_folder() -> Path:
    return Path("reproduced") / f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}"


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form THEN=NOW")
    return name, value


def _option(text: str) -> tuple[str, Any]:
    from omegaconf import OmegaConf

    name, equals, _ = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    value = OmegaConf.select(OmegaConf.from_dotlist([text]), name)
    return name, OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


if __name__ == "__main__":
    sys.exit(main())
