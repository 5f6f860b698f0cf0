"""Dockerfile: its text becomes instructions, with what of it needs BuildKit.

The rules are those of BuildKit's ``parser`` package, which the classic builder shares but for
heredocs. Nothing here refuses a Dockerfile: the builder does that, in its own words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from . import _dockerfile_words as words
from ._engine import Need

_DIRECTIVE = re.compile(r"#\s*(?P<name>[A-Za-z][A-Za-z0-9]*)\s*=\s*(?P<value>.+?)\s*$")
_HEREDOC = re.compile(r"\d*<<(?P<chomp>[-~]?)(?P<name>[^<]+)$")
_PLATFORM = re.compile(r"\b(BUILD|TARGET)(PLATFORM|OS|ARCH|VARIANT)\b")
#: Docker 20.10 brings Dockerfile syntax 1.2; what came with 1.3 and 1.4, Docker 23.
OLDER, NEWER = (20, 10), (23, 0)
#: Flags that only BuildKit knows, and the engine whose BuildKit was the first to know them.
_FLAGS = {
    ("RUN", "mount"): OLDER,
    ("RUN", "network"): NEWER,
    ("RUN", "security"): NEWER,
    ("RUN", "device"): NEWER,
    **{
        (name, flag): OLDER if flag == "chmod" else NEWER
        for name in ("COPY", "ADD")
        for flag in ("chmod", "link", "parents", "exclude", "checksum", "keep-git-dir", "unpack")
    },
}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction; ``name`` in capitals, ``arguments`` without its flags and heredocs."""

    name: str
    flags: tuple[tuple[str, str], ...]
    arguments: str
    line: int
    heredocs: bool = False

    def flag(self, name: str) -> str | None:
        return dict(self.flags).get(name)


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """``syntax`` is the frontend that the first lines ask for."""

    instructions: tuple[Instruction, ...]
    escape: str = "\\"
    syntax: str | None = None

    @property
    def needs(self) -> tuple[Need, ...]:
        """What of it needs BuildKit; with a frontend of its own, any engine's BuildKit does."""
        if self.syntax is not None:
            return (Need(f"# syntax={self.syntax}", OLDER),)
        found = (need for instruction in self.instructions for need in _needs(instruction))
        return tuple(dict.fromkeys(found))


def parse(text: str) -> Dockerfile:
    """Read a Dockerfile."""
    lines = text.removeprefix("\ufeff").split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    directives = _directives(lines)
    escape = directives.get("escape", "\\")
    escape = escape if escape in ("\\", "`") else "\\"
    reader = _Reader(lines, escape)
    return Dockerfile(tuple(reader.instructions()), escape, directives.get("syntax"))


def _directives(lines: list[str]) -> dict[str, str]:
    """Return the ``# name=value`` lines that stand before everything else."""
    directives: dict[str, str] = {}
    for number, line in enumerate(lines):
        if number == 0 and line.startswith("#!"):
            continue
        found = _DIRECTIVE.match(line.lstrip())
        if found is None or found["name"].lower() not in ("escape", "syntax", "check"):
            break
        directives.setdefault(found["name"].lower(), found["value"])
    return directives


class _Reader:
    """Reads instructions from lines, and moves on through them."""

    def __init__(self, lines: list[str], escape: str) -> None:
        self._lines = lines
        self._escape = escape
        self._next = 0
        mark = re.escape(escape)
        self._continued = re.compile(rf"(?:(?<=[^{mark}])|^){mark}[ \t]*$")

    def instructions(self) -> Iterator[Instruction]:
        while self._next < len(self._lines):
            number = self._next + 1
            line = self._logical_line()
            if line.strip():
                yield self._instruction(line.strip(), number)

    def _logical_line(self) -> str:
        """Join a line with those that continue it; comments and empty lines between them go."""
        whole, first = "", True
        while self._next < len(self._lines):
            line = self._lines[self._next]
            self._next += 1
            bare = line.lstrip()
            if bare.startswith("#") or not bare:
                if first:
                    return ""
                continue
            joined, count = self._continued.subn("", bare if first else line)
            whole += joined
            if not count:
                break
            first = False
        return whole

    def _instruction(self, line: str, number: int) -> Instruction:
        name, *rest = line.split(None, 1)
        flags, arguments = self._flags(*rest)
        name = name.upper()
        inner = arguments.split(None, 1)[0].upper() if name == "ONBUILD" and arguments else name
        heredocs = inner in ("RUN", "COPY", "ADD") and self._skip_heredocs(arguments)
        return Instruction(name, flags, arguments, number, heredocs)

    def _flags(self, rest: str = "") -> tuple[tuple[tuple[str, str], ...], str]:
        flags = []
        while rest.startswith("--"):
            word = words.split(rest, self._escape)[0]
            rest = rest[len(word) :].lstrip()
            if word == "--":
                break
            name, _, value = word[2:].partition("=")
            flags.append((name.lower(), value))
        return tuple(flags), rest

    def _skip_heredocs(self, arguments: str) -> bool:
        """Move behind the heredocs that a line opens; tell whether there are any."""
        if words.json_list(arguments) is not None:
            return False
        ends = []
        for word in words.split(arguments, self._escape):
            found = _HEREDOC.match(word)
            if found:
                ends.append((found["name"].strip("'\""), found["chomp"] == "-"))
        at = self._next
        for name, chomp in ends:
            while at < len(self._lines):
                line = self._lines[at].lstrip("\t") if chomp else self._lines[at]
                at += 1
                if line == name:
                    break
            else:
                return False  # without its end, it is none
        self._next = at
        return bool(ends)


def _needs(instruction: Instruction) -> Iterator[Need]:
    where = f" (line {instruction.line})"
    for flag, _ in instruction.flags:
        since = _FLAGS.get((instruction.name, flag))
        if since is not None:
            yield Need(f"{instruction.name} --{flag}{where}", since)
    if instruction.heredocs:
        yield Need(f"{instruction.name} with a heredoc{where}", NEWER)
    if instruction.name == "FROM":
        platform = instruction.flag("platform") or ""
        if _PLATFORM.search(platform) or _PLATFORM.search(instruction.arguments):
            yield Need(f"FROM with the platform's variables{where}", OLDER)
    if instruction.name == "ARG" and _PLATFORM.fullmatch(instruction.arguments.strip()):
        yield Need(f"ARG {instruction.arguments.strip()}{where}", OLDER)
