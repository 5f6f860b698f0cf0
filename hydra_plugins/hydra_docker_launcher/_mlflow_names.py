"""What MLflow takes as a name or a value, and how other ones are made to fit.

The rules are those of ``mlflow.utils.validation``, which this module does not import. MLflow
refuses a name outright, and the rest of its batch with it; a long value it cuts off without a mark.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

LONGEST_NAME = 250
LONGEST_PARAM = 6000
LONGEST_TAG = 8000
LONGEST_DATASET = 500
LONGEST_INPUT_TAG = 500
LONGEST_DIGEST = 36
MOST_DATASETS = 1000  # in one request
CUT = "… (cut)"


def named(values: Mapping[str, T]) -> dict[str, T]:
    """Give each value a name that MLflow takes, no two the same."""
    taken: dict[str, T] = {}
    for name, value in values.items():
        accepted = first = _accepted_name(name)
        number = 1
        while accepted in taken:
            number += 1
            end = f"_{number}"
            accepted = first[: LONGEST_NAME - len(end)] + end
        taken[accepted] = value
    return taken


def _accepted_name(name: str) -> str:
    """Apply the rules for characters, length and paths (``a//b``, ``../a``)."""
    accepted = re.sub(r"[^/\w.\- :]", "_", name)[:LONGEST_NAME]
    if posixpath.normpath(accepted) != accepted or accepted.startswith(("/", "..")):
        accepted = accepted.replace("/", "_").lstrip(".")
    return accepted if accepted not in ("", ".") else "_"


def shortened(text: str, longest: int) -> str:
    """Return ``text`` with at most ``longest`` characters, and a mark where some are missing."""
    return text if len(text) <= longest else text[: longest - len(CUT)] + CUT


def dataset_digest(digest: str) -> str:
    """Return a digest as MLflow takes it: without its algorithm, which fits an md5 with ``.dir``.

    Of a longer one it is the beginning; equal digests stay equal.
    """
    return digest.rpartition(":")[2][:LONGEST_DIGEST]
