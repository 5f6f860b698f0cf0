"""A long run: faults of random kinds at random moments, and a table of what was survived.

    soak.py [--write FILE]

Ends after HYDRA_DOCKER_SOAK_MINUTES (40), but not before every kind has come once; at the latest
after HYDRA_DOCKER_SOAK_FAULTS (80) injected faults. HYDRA_DOCKER_SOAK_KINDS picks the kinds that
have one of these texts in their names, with a | between them. The seed is printed, and
HYDRA_DOCKER_FAULT_SEED gives the same run again. The table is written after each fault: Ctrl-C and
SIGTERM leave what there is. Exit code 1: something was not survived.
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
from contextlib import ExitStack, closing, suppress
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Where this runs in the background (`&`, nohup), Ctrl-C is ignored; the commands need it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    reason = private_engine.missing()
    if reason is not None:
        print(f"error: {reason}", file=sys.stderr)
        return 1
    seed = os.environ.get("HYDRA_DOCKER_FAULT_SEED") or secrets.token_hex(4)
    minutes = float(os.environ.get("HYDRA_DOCKER_SOAK_MINUTES") or 40)
    most = int(os.environ.get("HYDRA_DOCKER_SOAK_FAULTS") or 80)
    wanted = os.environ.get("HYDRA_DOCKER_SOAK_KINDS") or ""
    kinds = {
        kind: run
        for kind, run in _kinds().items()
        if any(word in kind for word in wanted.split("|"))
    }
    print(f"seed {seed}: {len(kinds)} kinds of faults, {minutes:g} minutes or {most} faults")
    begun, tally, heading = time.monotonic(), Tally(), _heading(seed)
    with closing(Benches()) as benches:
        try:
            for number, kind in enumerate(_order(seed, list(kinds))):
                over = number >= len(kinds) and time.monotonic() - begun > minutes * 60
                if number >= most or over:
                    break
                _inject(benches, tally, kind, kinds[kind], f"{seed} {number}")
                if target is not None:
                    _write(target, heading + tally.table(list(kinds)))
        finally:
            took = (time.monotonic() - begun) / 60
            print(f"\nseed {seed}, {took:.0f} minutes\n{tally.table(list(kinds))}", flush=True)
    return int(tally.survived.total() < tally.injected.total())


def _kinds() -> dict[str, Survive]:
    kinds: dict[str, Survive] = {MANY: partial(survive_kills, jobs=200, kills=10)}
    for fault in FAULTS:
        kinds[fault.kind] = partial(_survive, fault=fault)
    return kinds


def _survive(bench: Bench, random: Random, fault: Fault) -> None:
    survive(bench, fault, random)


def _order(seed: str, kinds: list[str]) -> Iterator[str]:
    """Yield the sweep of 200 once, then the others at random: each, before any comes again."""
    random = Random(seed)
    yield from (kind for kind in kinds if kind == MANY)
    round_of = [kind for kind in kinds if kind != MANY]
    while round_of:
        random.shuffle(round_of)
        yield from round_of


def _inject(benches: Benches, tally: Tally, kind: str, run: Survive, seed: str) -> None:
    """Inject one fault, and count it where it has come to its end."""
    begun = time.monotonic()
    try:
        run(benches.bench, Random(seed))
    except Exception:  # noqa: BLE001  (the next one may be survived)
        tally.injected[kind] += 1
        print(f"NOT SURVIVED: {kind} (seed {seed!r})\n{traceback.format_exc()}", flush=True)
        benches.reset()
    else:
        tally.injected[kind] += 1
        tally.survived[kind] += 1
        print(f"survived in {time.monotonic() - begun:.0f} s: {kind}", flush=True)


class Benches:
    """The bench that faults are injected into; where one cannot be used any more, the next."""

    def __init__(self) -> None:
        self._open()

    def close(self) -> None:
        self._ending.close()

    def reset(self) -> None:
        try:
            self.bench.reset()
        except Exception:  # noqa: BLE001  (a fault that was not survived may have broken it)
            print(f"The bench is made anew:\n{traceback.format_exc()}", flush=True)
            with suppress(Exception):
                self.close()
            self._open()

    def _open(self) -> None:
        self._ending = ending = ExitStack()
        folder = ending.enter_context(tempfile.TemporaryDirectory(prefix="hydra-faults-"))
        shared = docker.from_env(timeout=120).api
        image = os.environ["HYDRA_DOCKER_TEST_IMAGE"]
        self.bench = Bench(Path(folder).resolve(), shared, image)
        ending.callback(self.bench.close)


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
