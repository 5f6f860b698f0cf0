"""Dockerignore: which paths of a build context its .dockerignore leaves out.

The rules are those of Docker's ``patternmatcher`` and ``ignorefile`` packages: the last pattern
that matches a path or a folder above it decides; ``!`` takes back in.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Pattern:
    expression: re.Pattern[str]
    takes_back: bool


class Dockerignore:
    """The patterns of one file."""

    def __init__(self, text: str = "") -> None:
        self._patterns: list[_Pattern] = []
        for line in text.removeprefix("\ufeff").splitlines():
            pattern = line.strip()
            if line.startswith("#") or not pattern:
                continue
            takes_back = pattern.startswith("!")
            pattern = pattern[1:].strip() if takes_back else pattern
            if not pattern:
                continue  # Docker refuses it by itself
            clean = posixpath.normpath(pattern)
            clean = clean.lstrip("/") if len(clean) > 1 else clean
            self._patterns.append(_Pattern(expression(clean, deep=True), takes_back))

    def ignores(self, path: str) -> bool:
        """Tell whether a path, relative to the context, is left out."""
        parts = path.split("/")
        places = [path, *("/".join(parts[:end]) for end in range(1, len(parts)))]
        ignored = False
        for pattern in self._patterns:
            if pattern.takes_back == ignored and any(map(pattern.expression.fullmatch, places)):
                ignored = not pattern.takes_back
        return ignored


def expression(pattern: str, *, deep: bool = False) -> re.Pattern[str]:
    """Return a pattern of Go's ``filepath.Match``; ``deep``: with ``**`` for any folders."""
    result, at = "", 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if deep and pattern.startswith("**", at - 1):
            at += 2 if pattern.startswith("/", at + 1) else 1
            result += ".*" if at >= len(pattern) else "(?:.*/)?"
        elif character == "*":
            result += "[^/]*"
        elif character == "?":
            result += "[^/]"
        elif character == "[":
            text, at = _bracket(pattern, at)
            result += text
        elif character == "\\" and at < len(pattern):
            result += re.escape(pattern[at])
            at += 1
        else:
            result += re.escape(character)
    try:
        return re.compile(result, re.DOTALL)
    except re.error:
        return re.compile(r"(?!)")  # Docker refuses it by itself


def _bracket(pattern: str, at: int) -> tuple[str, int]:
    end = pattern.find("]", at + (2 if pattern.startswith("^", at) else 1))
    if end < 0:
        return re.escape("["), at
    inside = pattern[at:end].replace("[", "\\[")
    return f"[{inside}]", end + 1
