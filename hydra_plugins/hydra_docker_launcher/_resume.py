"""Resume: a sweep is started again in its folder, and only what is missing runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from . import _compose, _private, _take_up
from ._engine import Engine
from ._errors import SweepError
from ._ledger import Ledger
from ._outcome import End, Outcome
from ._saved import SavedJob

log = logging.getLogger("hydra_docker_launcher")

MOST_SHOWN = 10  # differences of a job's config
MOST_TEXT = 200  # characters of a value


@dataclass(frozen=True, slots=True)
class Missing:
    """What is left to do: ``jobs`` to run or to watch; ``done`` has the others' outcomes.

    ``not_lost`` are the numbers of jobs that the ledger calls lost, and whose container is there.
    """

    jobs: tuple[SavedJob, ...]
    done: Mapping[int, Outcome]
    not_lost: tuple[int, ...] = ()


def missing(
    engine: Engine,
    sweep: str,
    ledger: Ledger,
    batch: Sequence[SavedJob],
    before: Mapping[int, SavedJob],
    keep: str,
) -> Missing:
    """Sort the jobs of a batch by what the ledger and the engine know of them.

    ``before`` are the jobs that the process before this one has left, ``keep`` is the option, for
    the containers of jobs that are done. Raises ``SweepError`` where a job is not the one that has
    this number in the ledger.
    """
    check_identity(ledger, batch, before)
    containers = _take_up.containers(engine, sweep, ledger)
    jobs: list[SavedJob] = []
    not_lost: list[int] = []
    done: dict[int, Outcome] = {}
    for job in batch:
        row = ledger.row(job.number)
        container = containers.get(job.number)
        if _take_up.is_doubtful(row, container):
            not_lost.append(job.number)
        if row.get("outcome") is None or job.number in not_lost:
            # What runs is what was planned then, with the limits of then.
            runs = container is not None and container.status != _take_up.CREATED
            planned = before.get(job.number, job) if runs else job
            jobs.append(_take_up.gone_on(planned, row, container))
            continue
        outcome = _take_up.recorded(row, job.job.paths.result)
        if outcome is not None and outcome.end is End.COMPLETED:
            done[job.number] = outcome
            _take_up.clean_up(engine, job, outcome, container, keep)
            continue
        if container is not None:
            engine.remove(container.id)
        jobs.append(_take_up.run_again(job, row))
    return Missing(tuple(jobs), done, tuple(not_lost))


def tell(missing: Missing) -> None:
    """Say what is taken from before, and what is left to do."""
    watched = sum(job.runnable.container is not None for job in missing.jobs)
    log.info(
        "Resumed: %d completed before, %d taken up as they run, %d to run",
        len(missing.done),
        watched,
        len(missing.jobs) - watched,
    )


def check_identity(
    ledger: Ledger, batch: Sequence[SavedJob], before: Mapping[int, SavedJob]
) -> None:
    """Raise ``SweepError`` that shows what is not as it was, where a job is another one now."""
    found = {
        job.number: _differences(job, ledger.row(job.number), before.get(job.number))
        for job in batch
    }
    changed = {number: lines for number, lines in found.items() if lines}
    if not changed:
        return
    titles = {job.number: job.job.title for job in batch}
    # Where all jobs have another commit, that is said once.
    common = set.intersection(*map(set, changed.values())) if len(changed) > 1 else set()
    lines = [line for line in next(iter(changed.values())) if line in common]
    shown = [f"  {line}" for line in lines]
    for number, of_job in changed.items():
        own = [f"    {line}" for line in of_job if line not in common]
        shown += [f"  {titles[number]}", *own] if own else []
    raise SweepError(
        f"resume=true: {len(changed)} of {len(batch)} jobs are not those that this sweep has "
        "begun with:\n" + "\n".join(shown) + "\nGo back to what it was (hydra.launcher.commit=…, "
        "hydra.launcher.image=…, the same overrides), or start a new sweep in another "
        "hydra.sweep.dir."
    )


def _differences(job: SavedJob, row: Mapping[str, Any], before: SavedJob | None) -> list[str]:
    if not row:
        return []
    then, now = row.get("identity"), job.identity.as_json()
    if not isinstance(then, dict):
        return ["the sweep was made by a version that did not note what its jobs depend on"]
    lines = [
        f"{name}: {then.get(name)} then, {now[name]} now"
        for name in ("commit", "image")
        if then.get(name) != now[name]
    ]
    if then.get("config") != now["config"]:
        lines += _config_differences(
            job, _config_of_then(job) if before is None else before.job.plain
        )
    return lines


def _config_of_then(job: SavedJob) -> Mapping[str, Any] | None:
    """Return the config that the job's container had mounted, for what is shown to the user."""
    try:
        config = OmegaConf.create(job.job.paths.config.read_text())
        content: Any = OmegaConf.to_container(config)
    except (OSError, ValueError, OmegaConfBaseException, YAMLError):
        return None
    return content if isinstance(content, dict) else None


def _config_differences(job: SavedJob, content: Mapping[str, Any] | None) -> list[str]:
    if content is None:
        return ["config: another one now (that of then is gone)"]
    then, now = _compose.flatten(content), _compose.flatten(job.job.plain)
    keys = [key for key in {**then, **now} if then.get(key, "-") != now.get(key, "-")]
    lines = [
        f"config {key}: {_shown(key, then)} then, {_shown(key, now)} now"
        for key in keys[:MOST_SHOWN]
    ]
    if len(keys) > MOST_SHOWN:
        lines.append(f"config: {len(keys) - MOST_SHOWN} more")
    return lines or ["config: the same values in another order"]


def _shown(key: str, values: Mapping[str, Any]) -> str:
    if key not in values:
        return "-"
    if _private.looks_secret(key):
        return _private.HIDDEN
    return str(_private.plain(values[key]))[:MOST_TEXT]
