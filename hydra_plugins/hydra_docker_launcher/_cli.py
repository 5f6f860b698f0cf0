"""The command line, ``hydra-docker``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_plugins.hydra_docker_launcher import __version__

from . import _sweep_commands
from ._errors import DockerLauncherError, ReproduceError
from ._interrupt import exit_code, taken_as_ctrl_c

if TYPE_CHECKING:
    from ._wish import Wish

FAILED, WRONG_USE = 1, 2
#: Options of a job without a run; the last two may be left out.
NOTE = ("image", "commit", "config", "script", "module")


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
    except KeyboardInterrupt as interrupt:
        print("interrupted", file=sys.stderr)
        return exit_code(interrupt)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hydra-docker", description="Look after the jobs that hydra/launcher=docker has run."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_reproduce(commands)
    _add_note(commands)
    _sweep_commands.add(commands)
    return parser


def _add_reproduce(commands: Any) -> None:
    parser = commands.add_parser(
        "reproduce",
        help="run a past job, or all jobs of a past sweep, again",
        description="Run a past job, or all jobs of a past sweep, again: commit, image, config, "
        "limits and volumes of then. Says at the end what was the same and what was not. "
        "Without a run, --image, --commit and --config say what to run.",
        epilog="Exit code: 0 when all jobs have completed, whether or not their metrics are those "
        "of then; 1 when one has not, or nothing could be run; 2 for wrong use; 130 after Ctrl-C.",
    )
    parser.add_argument(
        "run_id",
        metavar="RUN_ID",
        nargs="?",
        help="MLflow run of a job, or of a sweep; its first digits are enough",
    )
    note = parser.add_argument_group("without a run")
    note.add_argument("--image", help="the image")
    note.add_argument("--commit", help="the commit")
    note.add_argument("--config", type=Path, metavar="FILE", help="the resolved config, as YAML")
    what = note.add_mutually_exclusive_group()
    what.add_argument("--script", help="the script, from the root of the repository")
    what.add_argument("--module", help="instead of a script, what followed python -m")
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
        "this project and with docker alone. The config is written into this folder, "
        "and so is the patch of a snapshot.",
    )
    parser.add_argument(
        "run_id",
        metavar="RUN_ID",
        help="MLflow run of a job, or of a sweep; its first digits are enough",
    )
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
    from ._wish import Wish, output_folder

    noted = [name for name in NOTE if getattr(parsed, name) is not None]
    missing = [f"--{name}" for name in NOTE[:3] if name not in noted]
    if parsed.run_id is None and missing:
        return _wrong(
            f"give a RUN_ID, or all of --image, --commit, --config ({missing[0]} is missing)"
        )
    if parsed.run_id is not None and noted:
        instead = "; --set image=… replaces the image of the run" if noted == ["image"] else ""
        return _wrong(f"--{noted[0]} is for a job without a RUN_ID{instead}")
    if parsed.run_id is None and parsed.volume:
        return _wrong("--volume is for the volumes of a RUN_ID; --set volumes=[…] gives others")
    folder = Path.cwd()
    with output_folder(parsed.output, folder) as output:
        wish = Wish(
            folder=folder,
            output=output,
            cache=_pinning.cache_folder(),
            repository=parsed.repository,
            remote=_address(parsed.remote),
            volumes=tuple(parsed.volume),
            options=tuple(parsed.options),
            tracking_uri=parsed.tracking_uri,
            dry_run=parsed.dry_run,
        )
        if parsed.run_id is None:
            return _reproduce_note(parsed, wish)
        return _reproduce_run(parsed.run_id, wish)


def _reproduce_run(run_id: str, wish: Wish) -> int:
    from . import _report, _reproduce, _start
    from ._past_job import past_jobs

    history = _start.history(wish.tracking_uri, wish.folder)
    asked = history.run(run_id)
    again = _reproduce.reproduce(
        past_jobs(history, asked),
        wish,
        asked=asked.id,
        engine=_start.docker_engine(),
        make_tracker=_start.tracker,
    )
    if again is None:
        return 0
    print(f"\n{_report.report(_report.read_back(again, history))}")
    print(f"\noutputs in {wish.output}")
    return 0 if _reproduce.completed(again) else FAILED


def _reproduce_note(parsed: argparse.Namespace, wish: Wish) -> int:
    from . import _from_note, _start
    from ._outcome import End

    noted = _from_note.reproduce_note(
        _from_note.Note(parsed.image, parsed.commit, parsed.config, parsed.script, parsed.module),
        wish,
        engine=_start.docker_engine(),
        make_tracker=_start.tracker,
    )
    if noted is None:
        return 0
    print(f"\njob {noted.outcome.end.value}")
    print(f"  run now   {noted.run_id or 'not recorded'}")
    print(f"\noutputs in {wish.output}")
    return 0 if noted.outcome.end is End.COMPLETED else FAILED


def _note(parsed: argparse.Namespace) -> int:
    from . import _note, _paths, _start
    from ._past_job import past_jobs

    history = _start.history(parsed.tracking_uri, Path.cwd())
    for number, job in enumerate(past_jobs(history, history.run(parsed.run_id))):
        digits = job.run.id[:8]
        config, patch = _paths.NOTED_CONFIG.format(digits), None
        _write(config, _note.config(job).encode())
        if job.record.source.parent is not None and job.patch is not None:
            patch = _paths.NOTED_PATCH.format(digits)
            _write(patch, job.patch)
        print("\n" * bool(number) + _note.note(job, config, patch))
    return 0


def _write(name: str, content: bytes) -> None:
    try:
        Path(name).write_bytes(content)
    except OSError as error:
        raise ReproduceError(f"Cannot write {name} into this folder: {error}") from error


def _address(remote: str | None) -> str | None:
    """Return an address that is the same from any folder."""
    return os.path.abspath(remote) if remote is not None and Path(remote).exists() else remote


def _wrong(message: str) -> int:
    print(f"hydra-docker: {message}", file=sys.stderr)
    return WRONG_USE


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form THEN=NOW")
    return name, value


def _option(text: str) -> tuple[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    name, equals, _ = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    try:
        value = OmegaConf.select(OmegaConf.from_dotlist([text]), name)
    except (OmegaConfBaseException, YAMLError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: {error}") from None
    return name.removeprefix("hydra.launcher."), OmegaConf.to_container(
        value
    ) if OmegaConf.is_config(value) else value


if __name__ == "__main__":
    sys.exit(main())
