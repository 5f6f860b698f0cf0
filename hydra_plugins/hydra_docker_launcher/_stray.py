"""Stray files: what a job wrote in its container and in no mount, which goes with the container.

Once a job has ended, the engine's diff is read; ``_stray_rules`` says what of it counts.
"""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from . import _paths, _stray_rules, _unpacking
from ._collection import FAILURES, Collection
from ._engine import ContainerSpec, Engine
from ._errors import EngineError
from ._harmless import plain
from ._outcome import MAX_STRAY, End, Outcome, Stray, StrayFile
from ._stray_rules import Policy, Rules, in_words_of_diff
from ._units import show_size
from ._unpacking import Shelf

#: In ``.git`` of a clone, written by ``_cloning``: what is in the commit, each name ended by a NUL.
CLONED_FILES = "hydra-docker-files"
MAX_CLONED = 64 * 1024**2  # bytes of that list

SHOWN = 5  # files that are told to the user
#: Paths that are looked at for what they are: it takes the engine 40 ms each.
LOOKED_AT = 100

ADVICE = (
    "Write below hydra.runtime.output_dir (hydra.job.chdir=true makes relative paths do so), or "
    "into a volume. hydra.launcher.stray=collect copies such files to the output folder, "
    "stray=ignore does not look for them."
)
#: Ends of jobs whose container never ran, or is no longer there.
_NOTHING_LEFT = (End.NOT_STARTED, End.LOST)


def tidy(policy: Policy, output: Path) -> None:
    """Remove what a launcher has left in a job's folder that was killed as it collected files."""
    if policy.mode == "collect":
        _unpacking.remove_partial(output, _paths.STRAY)


def after(
    outcome: Outcome,
    policy: Policy,
    spec: ContainerSpec,
    output: Path,
    engine: Engine,
    container: str | None,
) -> Outcome:
    """Return how a job has ended, with the stray files of its container, which has ended too.

    With ``collect`` they are copied below ``output``, the job's output folder on the host. With
    ``error`` a job that has left some has not completed. Never raises: where they cannot be looked
    at, the outcome says why.
    """
    if container is None or policy.mode == "ignore" or outcome.end in _NOTHING_LEFT:
        return outcome
    try:
        stray = _look(policy, spec, output, engine, container)
    except Exception as error:  # noqa: BLE001  (the job has ended, whatever comes of this)
        stray = Stray(unread=str(error) or type(error).__name__)
    if stray.unread is not None and policy.mode == "error":
        stray = replace(stray, unread=f"{stray.unread} (hydra.launcher.stray=error: not checked)")
    if not stray.total and stray.unread is None:
        return outcome
    if policy.mode == "error" and stray.total and outcome.end is End.COMPLETED:
        stray = replace(stray, forbidden=True)
        outcome = replace(outcome, end=End.ERROR, cause=_cause(stray), value=None, not_json=None)
    return replace(outcome, stray=stray)


def _look(
    policy: Policy, spec: ContainerSpec, output: Path, engine: Engine, container: str
) -> Stray:
    if engine.written(container) == 0:
        return Stray()
    changes = engine.changes(container)
    cloned = _cloned_files(engine, container, policy.root) if policy.cloned else None
    rules = Rules(spec, policy.root, is_clone=policy.cloned, cloned=cloned)
    leaves = _stray_rules.leaves(changes)
    counting = [path for path in leaves if not rules.leave_out(path)]
    if not counting:
        return Stray()
    if policy.mode == "collect":
        tops = _stray_rules.tops(changes, counting, set(leaves) - set(counting))
        return _collect(engine, container, tops, output, policy.limit)
    return _looked_at(engine, container, counting)


def _collect(
    engine: Engine, container: str, tops: Mapping[str, Sequence[str]], output: Path, limit: int
) -> Stray:
    try:
        shelf = Shelf(output, _paths.STRAY, limit)
    except OSError as error:
        every = [path for below in tops.values() for path in below]
        stray = _looked_at(engine, container, every)
        reason = f"{output / _paths.STRAY}: {error.strerror}"
        left = tuple(replace(file, reason=reason) for file in stray.files)
        return replace(stray, left=left, left_total=stray.total)
    try:
        return Collection(engine, container, shelf).take(tops)
    finally:
        shelf.close()


def _cloned_files(engine: Engine, container: str, root: str | None) -> frozenset[str] | None:
    """Return the names that the clone has brought, in the engine's words; None: not known."""
    path = f"{root}/.git/{CLONED_FILES}"
    try:
        with _unpacking.opened(engine.archive(container, path)) as archive:
            member = archive.next()
            if member is None or not member.isreg() or member.size > MAX_CLONED:
                return None
            file = archive.extractfile(member)
            names = file.read() if file is not None else b""
    except (EngineError, tarfile.TarError):
        return None
    text = in_words_of_diff(names.decode("utf-8", "surrogateescape"))
    return frozenset(text.split("\0"))


def _looked_at(engine: Engine, container: str, paths: Sequence[str]) -> Stray:
    """Return what of ``paths`` are files, as far as that is quickly told; the others count."""
    files: list[StrayFile] = []
    others: set[str] = set()
    failures = 0
    for path in paths[:LOOKED_AT]:
        if len(files) == SHOWN or failures == FAILURES:
            break
        try:
            with _unpacking.opened(engine.archive(container, path)) as archive:
                member = archive.next()
        except (EngineError, tarfile.TarError):
            failures += 1
            continue
        if member is not None and member.isreg():
            files.append(StrayFile(path, member.size))
        else:
            others.add(path)
    counting = [path for path in paths if path not in others]
    known = {file.path for file in files}
    unknown = [StrayFile(path) for path in counting[:MAX_STRAY] if path not in known]
    return Stray(len(counting), tuple([*files, *unknown][:MAX_STRAY]))


def report(title: str, stray: Stray, *, first: bool) -> str | None:
    """Return the warning about a job, in full for the ``first`` one of a sweep, or None.

    What has been collected needs none (see ``collected``), nor what its outcome's cause names.
    """
    if stray.unread is not None:
        return (
            f"{title}: what it left in its container could not be looked at: {plain(stray.unread)}"
        )
    if stray.left:
        what = f"{title} left {_files(stray.left_total)} that could not be collected"
        return "\n".join([f"{what}:", *_lines(stray.left, stray.left_total)])
    if stray.folder is not None or stray.forbidden or not stray.total:
        return None
    what = f"{title} left {_files(stray.total)} in its container and in no mount"
    if not first:
        return f"{what}: {_one_line(stray)}"
    return "\n".join(
        [
            f"{what}, which go with the container:",
            *_lines(stray.files, stray.total),
            ADVICE,
        ]
    )


def collected(title: str, stray: Stray) -> str | None:
    """Return what has been collected of a job, in a line; None: nothing."""
    if stray.folder is None:
        return None
    return (
        f"{title}: {_files(stray.total - stray.left_total)} of its container are in {stray.folder}"
    )


def _cause(stray: Stray) -> str:
    return (
        f"left {_files(stray.total)} in its container and in no mount, which "
        f"hydra.launcher.stray=error forbids: {_one_line(stray)}. Write below "
        "hydra.runtime.output_dir, or into a volume."
    )


def _files(number: int) -> str:
    return f"{number} file" if number == 1 else f"{number} files"


def _one_line(stray: Stray) -> str:
    more = stray.total - len(stray.files[:SHOWN])
    shown = ", ".join(map(_shown, stray.files[:SHOWN]))
    return f"{shown} and {more} more" if more else shown


def _lines(files: Sequence[StrayFile], total: int) -> list[str]:
    more = total - len(files[:SHOWN])
    shown = [f"  {_shown(file)}" for file in files[:SHOWN]]
    return [*shown, f"  and {more} more"] if more else shown


def _shown(file: StrayFile) -> str:
    path = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in file.path
    )
    size = "" if file.size is None else f" ({show_size(file.size)})"
    return f"{path}{size}" + (f": {plain(file.reason)}" if file.reason else "")
