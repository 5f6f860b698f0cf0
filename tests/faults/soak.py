"""A long run: faults of random kinds at random moments, and a table of what was survived.

    soak.py [--write FILE]

Ends after HYDRA_DOCKER_SOAK_MINUTES (40) or HYDRA_DOCKER_SOAK_FAULTS (80) injected faults,
whichever is first. HYDRA_DOCKER_SOAK_KINDS picks the kinds that have this text in their names. The
seed is printed, and HYDRA_DOCKER_FAULT_SEED gives the same run again. Exit code 1: something was
not survived.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path
from random import Random

import docker
import private_engine
from bench import Bench
from faults import FAULTS, Fault
from scenario import survive, survive_kills

MANY = "launcher: kill -9, ten times in a sweep of 200 jobs"
BEGIN, END = "<!-- written by make soak -->\n", "<!-- up to here -->\n"

Survive = Callable[[Bench, Random], None]


@dataclass
class Tally:
    """How many faults of each kind came, and how many of them were survived."""

    injected: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)

    def table(self, kinds: list[str]) -> str:
        rows = [
            (kind, self.injected[kind], self.survived[kind])
            for kind in kinds
            if self.injected[kind]
        ]
        rows.append(("all", self.injected.total(), self.survived.total()))
        lines = ["| fault | injected | survived |", "|---|---|---|"]
        lines += [f"| {kind} | {injected} | {survived} |" for kind, injected, survived in rows]
        return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table into this file")
    target: Path | None = parser.parse_args().write
    # Where this runs in the background (`&`, nohup), Ctrl-C is ignored; the commands need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    reason = private_engine.missing()
    if reason is not None:
        print(f"error: {reason}", file=sys.stderr)
        return 1
    seed = os.environ.get("HYDRA_DOCKER_FAULT_SEED") or secrets.token_hex(4)
    minutes = float(os.environ.get("HYDRA_DOCKER_SOAK_MINUTES") or 40)
    most = int(os.environ.get("HYDRA_DOCKER_SOAK_FAULTS") or 80)
    wanted = os.environ.get("HYDRA_DOCKER_SOAK_KINDS") or ""
    kinds = {kind: run for kind, run in _kinds().items() if wanted in kind}
    print(f"seed {seed}: {len(kinds)} kinds of faults, {minutes:g} minutes or {most} faults")
    begun, tally = time.monotonic(), Tally()
    with _bench() as bench:
        for number, kind in enumerate(_order(seed, list(kinds))):
            if number >= most or time.monotonic() - begun > minutes * 60:
                break
            _inject(bench, tally, kind, kinds[kind], f"{seed} {number}")
    table = tally.table(list(kinds))
    print(f"\nseed {seed}, {(time.monotonic() - begun) / 60:.0f} minutes\n{table}")
    if target is not None:
        _write(target, _heading(seed) + table)
    return int(tally.survived.total() < tally.injected.total())


def _kinds() -> dict[str, Survive]:
    kinds: dict[str, Survive] = {MANY: partial(survive_kills, jobs=200, kills=10)}
    for fault in FAULTS:
        kinds[fault.kind] = partial(_survive, fault=fault)
    return kinds


def _survive(bench: Bench, random: Random, fault: Fault) -> None:
    survive(bench, fault, random)


def _order(seed: str, kinds: list[str]) -> Iterator[str]:
    """Yield kinds in random order, each once before any comes again; the sweep of 200 only once."""
    random = Random(seed)
    round_of = list(kinds)
    while round_of:
        random.shuffle(round_of)
        yield from round_of
        round_of = [kind for kind in kinds if kind != MANY]


def _inject(bench: Bench, tally: Tally, kind: str, run: Survive, seed: str) -> None:
    tally.injected[kind] += 1
    begun = time.monotonic()
    try:
        run(bench, Random(seed))
    except Exception:  # noqa: BLE001  (the next one may be survived)
        print(f"NOT SURVIVED: {kind} (seed {seed!r})\n{traceback.format_exc()}", flush=True)
        bench.reset()
    else:
        tally.survived[kind] += 1
        print(f"survived in {time.monotonic() - begun:.0f} s: {kind}", flush=True)


@contextmanager
def _bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="hydra-faults-") as folder:
        shared = docker.from_env(timeout=120).api
        bench = Bench(Path(folder).resolve(), shared, os.environ["HYDRA_DOCKER_TEST_IMAGE"])
        try:
            yield bench
        finally:
            bench.close()


def _heading(seed: str) -> str:
    with closing(docker.from_env()) as client:
        engine = client.version()["Version"]
    return (
        f"{datetime.now(timezone.utc):%Y-%m-%d}, Docker {engine}, "
        f"hydra-core {metadata.version('hydra-core')}, MLflow {metadata.version('mlflow')}, "
        f"seed `{seed}`.\n\n"
    )


def _write(target: Path, text: str) -> None:
    before, _, rest = target.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    target.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
