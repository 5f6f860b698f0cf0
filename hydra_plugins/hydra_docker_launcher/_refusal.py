"""Refusals: which errors of the engine are final, and what the user can do about them."""

from __future__ import annotations

import re

#: Docker answers 500 (an error of its own) for these as well: asking again gives the same.
_FINAL = re.compile(
    r"""OCI\ runtime | executable\ file\ not\ found | unknown\ (or\ invalid\ )?runtime
    | could\ not\ select\ device\ driver | gathering\ device\ information | CDI\ device
    | no\ space\ left\ on\ device | disk\ quota\ exceeded
    | no\ such\ (image|container|volume|network) | manifest\ unknown
    | unable\ to\ find\ (user|group) | no\ matching\ entries\ in
    | \binvalid\b | not\ a\ directory | file\ exists | cannot\ mkdir | read-only\ file\ system
    | permission\ denied | operation\ not\ permitted | unauthorized | access\ denied
    | not\ (supported|implemented) | \bunsupported\b | conflicting\ options
    | processing\ tar\ file | archive/tar | already\ (exists|allocated|in\ use)""",
    re.VERBOSE | re.IGNORECASE,
)
_NO_SPACE = re.compile("no space left on device|disk quota exceeded", re.IGNORECASE)

DISK_FULL = (
    "The disk that the engine keeps its data on is full. `docker system df` shows what takes the "
    "space, `hydra-docker gc` removes what sweeps have left behind, and `docker info` names the "
    "folder (Docker Root Dir)."
)
IMAGE_GONE = (
    "The image was removed after the sweep had begun. The next sweep makes it anew; with "
    "hydra.launcher.resume=true and the same hydra.sweep.dir, only what is missing runs."
)


def may_pass(status: int, text: str) -> bool:
    """Tell whether the same request may be granted later, by the answer's status and its words."""
    return status >= 500 and _FINAL.search(text) is None


def advice(text: str) -> str:
    """Return a line more on the engine's words, what to do; empty where nothing is known."""
    return f"\n{DISK_FULL}" if _NO_SPACE.search(text) else ""
