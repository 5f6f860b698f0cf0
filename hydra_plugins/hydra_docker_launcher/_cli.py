"""The command line, ``hydra-docker``."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_plugins.hydra_docker_launcher import __version__

from . import _sweep_commands, _view_commands
from ._console import is_gone
from ._errors import DockerLauncherError, ReproduceError
from ._harmless import one_line, plain
from ._interrupt import exit_code, taken_as_ctrl_c

if TYPE_CHECKING:
    from ._gc import Request as GcRequest
    from ._wish import Wish

FAILED, WRONG_USE = 1, 2
#: Options of a job without a run; the last two may be left out.
NOTE = ("image", "commit", "config", "script", "module")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code.

    0: done; 1: a job did not complete, or the command could not be carried out; 2: wrong use;
    130: Ctrl-C; 141: whoever reads the output has closed it.
    """
    parsed = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("hydra_docker_launcher").setLevel(logging.INFO)
    try:
        with taken_as_ctrl_c():
            status = int(parsed.command(parsed))
        sys.stdout.flush()
        return status
    except OSError as error:
        if not is_gone(error):
            raise
        return 128 + signal.SIGPIPE  # `| head` has read enough
    except DockerLauncherError as error:
        _say(f"error: {error}")
        return FAILED
    except KeyboardInterrupt as interrupt:
        _say("interrupted")
        return exit_code(interrupt)


def _say(words: str) -> None:
    """Print the last words of a command, also where its terminal has been closed."""
    with suppress(OSError):
        print(words, file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError as error:
        is_gone(error)


class _CommandParser(argparse.ArgumentParser):
    """Lets options stand between the arguments: ``logs SWEEP --follow 3``."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._inside:
            return super().parse_known_args(args, namespace)
        self._inside = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hydra-docker", description="Look after the jobs that hydra/launcher=docker has run."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_CommandParser)
    _add_reproduce(commands)
    _add_note(commands)
    _view_commands.add(commands)
    _sweep_commands.add(commands)
    _add_gc(commands)
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
        "--secret",
        action="append",
        default=[],
        type=_pair,
        metavar="KEY=VARIABLE",
        dest="secrets",
        help="the variable of this host that holds a value of the config which is not written down",
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


def _add_gc(commands: Any) -> None:
    parser = commands.add_parser(
        "gc",
        help="remove what sweeps have left: containers, images, hidden refs, caches, secrets, …",
        description="Remove what sweeps have left on this machine: containers that are kept, "
        "images, hidden refs, caches, and secrets and tickets of launchers that were killed. Lists "
        "it first. "
        "Nothing that a sweep in progress needs, or that is not recorded yet, is removed.",
        epilog="Exit code: 0 when all was removed, or nothing was to be; 1 when something could "
        "not be; 2 for wrong use; 130 after Ctrl-C.",
    )
    parser.add_argument("--dry-run", action="store_true", help="list it, remove nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--older-than",
        type=_age,
        metavar="AGE",
        help="such as 7d, 36h or 30m (default: 7d; 30d for hidden refs)",
    )
    parser.add_argument(
        "--only",
        type=_kinds,
        metavar="KINDS",
        help="some of containers,images,tickets,refs,caches,secrets",
    )
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="only what the sweep in this folder has left; no refs, no caches",
    )
    parser.add_argument(
        "--repository",
        action="append",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="a repository to look for hidden refs and sweeps in (default: that of this folder)",
    )
    parser.add_argument("--all-users", action="store_true", help="also what others have left")
    parser.add_argument(
        "--refs-of-past-sweeps",
        action="store_true",
        help="also hidden refs that a sweep.json names; nobody can repeat that sweep by them then",
    )
    parser.set_defaults(command=_gc)


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
    if parsed.run_id is None and parsed.secrets:
        return _wrong(
            "--secret is for the config of a RUN_ID; --config names a file with all of it"
        )
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
            secrets=tuple(parsed.secrets),
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
    print(f"\n{plain(_report.report(_report.read_back(again, history)))}")
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
        print("\n" * bool(number) + plain(_note.note(job, config, patch)))
    return 0


def _gc(parsed: argparse.Namespace) -> int:
    from . import _gc, _start

    if not (parsed.dry_run or parsed.yes or sys.stdin.isatty()):
        return _wrong("there is no terminal to ask at; give --yes, or --dry-run to see the list")
    request, remark = _gc_request(parsed)
    engine = _start.docker_engine()
    things = _gc.survey(engine, request)
    print(_gc.describe(things))
    if remark is not None:
        print(remark)
    going = [thing for thing in things if thing.goes]
    if parsed.dry_run or not going:
        return 0
    if not (parsed.yes or _agreed()):
        print("Nothing has been removed.")
        return 0
    failed = _gc.remove(engine, going, request.terms)
    print(f"Removed {len(going) - len(failed)} of {len(going)}.")
    for thing, why in failed:
        print(f"error: {one_line(thing.name)} is still there: {why}", file=sys.stderr)
    return FAILED if failed else 0


def _agreed() -> bool:
    try:
        return input("Remove these? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def _gc_request(parsed: argparse.Namespace) -> tuple[GcRequest, str | None]:
    """Return what is asked for, and what is left out for want of a repository."""
    from . import _gc, _pinning
    from ._errors import SourceError
    from ._gc_plan import KINDS, Terms

    remark = None
    repositories = [_gc.repository_of(folder) for folder in parsed.repository]
    if not repositories:
        try:
            repositories = [_gc.repository_of(Path.cwd())]
        except SourceError as error:
            remark = f"No hidden refs, no folders of sweeps: {str(error).splitlines()[0]}"
    owner = _pinning.identity("host")
    asked = parsed.older_than
    terms = Terms(
        now=time.time(),
        older_than=_gc.OLDER_THAN if asked is None else asked,
        refs_older_than=_gc.REFS_OLDER_THAN if asked is None else asked,
        user=None if parsed.all_users else owner.name,
        folders=tuple(Path(os.path.realpath(folder)) for folder in parsed.sweep),
    )
    request = _gc.Request(
        terms=terms,
        kinds=parsed.only or KINDS,
        repositories=tuple(repositories),
        cache=_pinning.cache_folder(),
        uid=None if parsed.all_users else owner.uid,
        refs_of_past_sweeps=parsed.refs_of_past_sweeps,
    )
    return request, remark


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


def _age(text: str) -> float:
    from ._units import age

    try:
        return age(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def _kinds(text: str) -> tuple[str, ...]:
    from ._gc_plan import KINDS

    kinds = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in kinds if name not in KINDS]
    if unknown:
        valid = ", ".join(KINDS)
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {valid}")
    return kinds


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
