"""Results: what a container lacks is named, also where the exception above does not say it."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import a_job

from hydra_plugins.hydra_docker_launcher._outcome import End, Outcome
from hydra_plugins.hydra_docker_launcher._results import describe

NO_MODULE = {"type": "ModuleNotFoundError", "message": "No module named 'colorlog'"}


@pytest.mark.parametrize(
    ("below", "lines"),
    [
        (
            {"cause": {"type": "ValueError", "message": "Cannot resolve", "cause": NO_MODULE}},
            ["Caused by ModuleNotFoundError: No module named 'colorlog'. Install it in the image."],
        ),
        (
            {"cause": {"type": "PermissionError", "message": "[Errno 13] …: '/x'\nmore"}},
            ["Caused by PermissionError: [Errno 13] …: '/x'"],
        ),
        (
            {"cause": {"type": "OSError", "message": "x" * 1000}},
            [f"Caused by OSError: {'x' * 1000}"[:500]],
        ),
        ({"cause": {"type": "OSError"}}, ["Caused by OSError: None"]),
        ({"cause": {"type": "KeyError", "message": "'lr'"}}, []),
        ({"context": NO_MODULE}, []),
        ({"cause": {"type": "print", "message": ""}}, []),
        ({"cause": {"type": ["OSError"], "message": ""}}, []),
        ({"cause": "OSError"}, []),
        ({}, []),
    ],
)
def test_named_below_the_cause(tmp_path, below: dict[str, Any], lines: list[str]) -> None:
    """A missing module, or a file, that another exception was raised from; nothing else."""
    error = {"type": "ValueError", "message": "Unable to configure formatter 'colorlog'", **below}
    outcome = Outcome(End.ERROR, "raised ValueError", 1, error=error)
    assert describe(a_job(tmp_path, lr=1), outcome).split("\n") == [
        "job #0 (n=0) error: raised ValueError",
        *lines,
    ]


def test_named_once(tmp_path) -> None:
    """A cause that names it already stays as it is."""
    outcome = Outcome(End.ERROR, "raised ModuleNotFoundError: …", 1, error=NO_MODULE)
    report = "job #0 (n=0) error: raised ModuleNotFoundError: …"
    assert describe(a_job(tmp_path, lr=1), outcome) == report
