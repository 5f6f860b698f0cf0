"""Stages: what a Dockerfile takes from outside: base images, and files of the context."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from . import _dockerfile_words as words
from ._dockerfile import Dockerfile, Instruction, parse

_URL = re.compile(r"https?://|git@|ssh://|git://", re.IGNORECASE)
#: A source that means: all of the context.
EVERYTHING = ""


@dataclass(frozen=True, slots=True)
class Intake:
    """What a build takes in.

    ``base`` is what the target starts from; ``images`` are all images that are needed, ``base``
    among them; ``unclear`` are the FROM of which it cannot be told. ``sources`` are paths and
    patterns below the context (``""``: all of it) of the stages that the target needs; ``sent``
    those of the stages that stand before it as well, which the classic builder builds too.
    """

    base: str | None
    images: tuple[str, ...]
    sources: tuple[str, ...]
    sent: tuple[str, ...]
    unclear: tuple[Instruction, ...] = ()


@dataclass(slots=True)
class _Stage:
    name: str
    base: str | None
    parent: int | None
    after: set[int] = field(default_factory=set)
    images: list[str] = field(default_factory=list)
    unclear: list[Instruction] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    #: Instructions for those who start from this stage.
    triggers: list[Instruction] = field(default_factory=list)
    environment: dict[str, str | None] = field(default_factory=dict)
    arguments: dict[str, str | None] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str | None]:
        return {**self.arguments, **self.environment}


class UnknownStageError(ValueError):
    """There is no stage of that name; ``valid`` are the ones there are."""

    def __init__(self, valid: tuple[str, ...]) -> None:
        super().__init__(", ".join(valid))
        self.valid = valid


def intake(
    dockerfile: Dockerfile,
    *,
    target: str | None,
    args: Mapping[str, str],
    platform: Mapping[str, str],
) -> Intake:
    """Return what a build of ``target`` (None: the last stage) takes in.

    ``platform`` are the variables that BuildKit knows by itself (TARGETARCH, …).
    Raises ``UnknownStageError``.
    """
    stages = _Stages(dockerfile, args, platform).read()
    if not stages:
        return Intake(None, (), (EVERYTHING,), (EVERYTHING,))
    last = len(stages) - 1 if target is None else _find(stages, target)
    if last is None:
        raise UnknownStageError(tuple(stage.name for stage in stages if stage.name))
    needed = sorted(_closure(stages, last))
    bottom = stages[last]
    while bottom.parent is not None:
        bottom = stages[bottom.parent]
    images = [image for number in needed for image in stages[number].images]
    first = [bottom.base] if bottom.base in images else []
    return Intake(
        base=bottom.base,
        images=tuple(dict.fromkeys([*first, *images])),
        sources=_sources(stages[number] for number in needed),
        sent=_sources(stages[: last + 1]),
        unclear=tuple(line for number in needed for line in stages[number].unclear),
    )


def triggered(triggers: Iterable[str]) -> bool:
    """Tell whether what a base image does to a build (ONBUILD) takes files of the context."""
    found = parse("\n".join(triggers)).instructions
    return any(_takes_files(instruction) for instruction in found)


def _sources(stages: Iterable[_Stage]) -> tuple[str, ...]:
    return tuple(sorted({source for stage in stages for source in stage.sources}))


def _closure(stages: list[_Stage], last: int) -> set[int]:
    found: set[int] = set()
    waiting = [last]
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += stages[number].after
    return found


def _find(stages: list[_Stage], name: str) -> int | None:
    """Return the number of the stage that a name or a number means; the last one of that name."""
    for number in reversed(range(len(stages))):
        if stages[number].name and stages[number].name == name.lower():
            return number
    return int(name) if name.isdecimal() and int(name) < len(stages) else None


def _takes_files(instruction: Instruction) -> bool:
    if instruction.name in ("ADD", "COPY"):
        return instruction.flag("from") is None
    return instruction.name == "RUN" and any(
        not mount.get("from") for mount in _bind_mounts(instruction)
    )


def _bind_mounts(instruction: Instruction) -> Iterator[dict[str, str]]:
    """Yield the mounts of a RUN that show files of the context or of an image."""
    for name, value in instruction.flags:
        if name == "mount":
            fields = next(csv.reader([value]), [])
            mount = {key.lower(): item for key, _, item in (part.partition("=") for part in fields)}
            if mount.get("type", "bind") == "bind" or "from" in mount:
                yield mount


class _Stages:
    """Goes through the instructions, with the variables as they are at each of them."""

    def __init__(
        self, dockerfile: Dockerfile, args: Mapping[str, str], platform: Mapping[str, str]
    ) -> None:
        self._dockerfile = dockerfile
        self._args = args
        self._platform = platform
        self._global: dict[str, str | None] = {}
        self._stages: list[_Stage] = []

    def read(self) -> list[_Stage]:
        for instruction in self._dockerfile.instructions:
            if instruction.name == "FROM":
                self._start(instruction)
            elif instruction.name == "ARG" and not self._stages:
                self._global.update(self._arguments(instruction, self._globals()))
            elif self._stages:
                self._take(self._stages[-1], instruction)
        return self._stages

    def _start(self, instruction: Instruction) -> None:
        parts = instruction.arguments.split()
        base = self._expand(parts[0], self._globals()) if parts else None
        named = len(parts) == 3 and parts[1].upper() == "AS"
        stage = _Stage(name=parts[2].lower() if named else "", base=base or None, parent=None)
        parent = _find(self._stages, base) if base and not base.isdecimal() else None
        if parent is not None:
            above = self._stages[parent]
            stage.parent = parent
            stage.after.add(parent)
            stage.environment = dict(above.environment)
            # Whether a stage inherits the arguments of another one differs between builders.
            stage.arguments = dict.fromkeys(above.arguments)
        elif not base:
            stage.unclear.append(instruction)
        elif base.lower() != "scratch":
            stage.images.append(base)
        self._stages.append(stage)
        for trigger in self._stages[parent].triggers if parent is not None else ():
            self._take(stage, trigger)

    def _take(self, stage: _Stage, instruction: Instruction) -> None:
        if instruction.name == "ARG":
            stage.arguments.update(self._arguments(instruction, stage.variables, inherits=True))
        elif instruction.name == "ENV":
            stage.environment.update(self._environment(instruction, stage.variables))
        elif instruction.name == "ONBUILD":
            stage.triggers += parse(instruction.arguments).instructions
        elif instruction.name in ("ADD", "COPY"):
            self._copy(stage, instruction)
        elif instruction.name == "RUN":
            for mount in _bind_mounts(instruction):
                if mount.get("from"):
                    self._from(stage, mount["from"])
                else:
                    source = mount.get("source") or mount.get("src") or "."
                    stage.sources.append(self._source(source, stage.variables))

    def _copy(self, stage: _Stage, instruction: Instruction) -> None:
        origin = instruction.flag("from")
        if origin is not None:
            self._from(stage, origin)
            return
        items = words.json_list(instruction.arguments) or instruction.arguments.split()
        for item in items[:-1]:
            if item.startswith("<<") and instruction.heredocs:
                continue
            if instruction.name == "ADD" and _URL.match(item):
                continue
            stage.sources.append(self._source(item, stage.variables))

    def _from(self, stage: _Stage, origin: str) -> None:
        name = self._expand(origin, self._globals()) or origin
        number = _find(self._stages[:-1], name)
        if number is not None:
            stage.after.add(number)
        else:
            stage.images.append(name)

    def _globals(self) -> words.Variables:
        """Return the variables of FROM: no base image can set others, unset ones are empty."""
        known = {name: value for name, value in self._global.items() if value is not None}
        return defaultdict(str, {**self._platform, **known})

    def _source(self, text: str, variables: words.Variables) -> str:
        """Return a source as a path below the context; all of it where that cannot be told."""
        path = self._expand(text, variables)
        if path is None:
            return EVERYTHING
        parts: list[str] = []
        for part in path.split("/"):
            if part == "..":
                del parts[-1:]
            elif part not in ("", "."):
                parts.append(part)
        return "/".join(parts)

    def _arguments(
        self, instruction: Instruction, variables: words.Variables, *, inherits: bool = False
    ) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for word in words.split(instruction.arguments, self._dockerfile.escape):
            name, equals, value = word.partition("=")
            default = self._expand(value, {**variables, **found}) if equals else None
            if not equals and inherits:
                default = self._global.get(name, self._platform.get(name))
            found[name] = self._args.get(name, default)
        return found

    def _environment(
        self, instruction: Instruction, variables: words.Variables
    ) -> dict[str, str | None]:
        items = words.split(instruction.arguments, self._dockerfile.escape)
        if items and "=" not in items[0]:  # ENV NAME the rest of the line
            value = instruction.arguments.partition(items[0])[2].strip()
            return {items[0]: self._expand(value, variables)}
        pairs = (item.partition("=") for item in items)
        return {name: self._expand(value, variables) for name, _, value in pairs}

    def _expand(self, text: str, variables: words.Variables) -> str | None:
        return words.expand(text, variables, self._dockerfile.escape)
