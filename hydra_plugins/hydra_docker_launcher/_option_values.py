"""Option values: the notations of single options, each a function from text to a value.

They raise ``ValueError`` that says what is valid; whoever calls them adds which option it was.
"""

from __future__ import annotations

import difflib
import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ._units import LARGEST, duration, size

MINIMUM_MEMORY = 6 * 1024**2  # Docker's own
LARGEST_ID = 2**31 - 1  # of a user or a group; Docker's own
LONGEST_BACKOFF = 300.0  # seconds between two attempts


@dataclass(frozen=True, slots=True)
class Gpus:
    """GPUs of one container: a number of them, all of them, or the ones with these ids."""

    count: int = 0
    all: bool = False
    ids: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.all or self.count > 0 or bool(self.ids)


NO_GPUS = Gpus()


@dataclass(frozen=True, slots=True)
class Volume:
    """A mount that the user named. ``source`` is an absolute path, or the name of a volume."""

    source: str
    target: str
    read_only: bool
    named: bool


@dataclass(frozen=True, slots=True)
class Ulimit:
    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Docker's restart policy. ``retries`` 0: no limit (only of ``on-failure``)."""

    name: str = "no"
    retries: int = 0


NO_RESTART = Restart()

#: What the engine keeps of a container's output, where nothing else is said.
ROTATION = (("max-file", "5"), ("max-size", "10m"))


@dataclass(frozen=True, slots=True)
class Logging:
    """Where the engine keeps a container's output."""

    driver: str = "json-file"
    options: tuple[tuple[str, str], ...] = ROTATION


DEFAULT_LOGGING = Logging()

#: The engine's drivers whose output can be read back, and their options.
_LABELLED = ("env", "env-regex", "labels", "labels-regex", "tag")
_DRIVERS = {
    "json-file": ("compress", "max-file", "max-size", *_LABELLED),
    "local": ("compress", "max-file", "max-size"),
    "journald": _LABELLED,
}
MINIMUM_LOG = 64 * 1024  # bytes


def glob(text: str) -> str:
    """Parse a glob of config keys, with ``!`` before it or not."""
    if not text.removeprefix("!").strip() or any(map(str.isspace, text)):
        raise ValueError("must be globs of config keys, such as db.*_pin or !model.token_count")
    return text


def valid_are(valid: tuple[str, ...], value: object) -> str:
    near = difflib.get_close_matches(str(value), valid, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"valid is: {', '.join(valid)}{meant}"


def memory(value: object) -> int:
    number = size(value)
    if number < MINIMUM_MEMORY:
        raise ValueError("must be at least 6m, the engine's minimum")
    return number


def shm_size(value: object) -> int:
    number = size(value)
    if number == 0:  # Docker would make it 64m
        raise ValueError("must be more than 0")
    return number


def swap(value: object) -> int:
    return -1 if str(value) == "-1" else size(value)


def pids(value: object) -> int:
    return _positive(value, "must be a positive number, or -1 for no limit")


def n_jobs(value: object) -> int:
    return _positive(value, "must be a positive number, or -1 for as many as fit")


def _positive(value: object, valid: str) -> int:
    text = str(value)
    if text != "-1" and not (_is_number(text) and int(text) > 0):
        raise ValueError(valid)
    return int(text)


def _is_number(text: str) -> bool:
    """Tell whether a text is a whole number that the engine's API can hold."""
    return re.fullmatch(r"[0-9]{1,18}", text) is not None


def minutes(value: object) -> float:
    try:
        seconds = float(str(value)) * 60
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise ValueError("must be a positive number of minutes, or null for no limit")
    return seconds


def retries(value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not _is_number(text):
        raise ValueError("must be a number of further attempts, 0 for none")
    return int(text)


def backoff(value: object) -> float:
    seconds = duration(value)
    if seconds > LONGEST_BACKOFF:
        raise ValueError("must be at most 5m")
    return seconds


def mem_factor(value: object) -> float:
    try:
        factor = float(str(value))
    except ValueError:
        factor = 0
    if not 1 <= factor < float("inf"):
        raise ValueError("must be a number of at least 1, for example 2")
    return factor


def user(value: object) -> str:
    text = str(value)
    if text in ("host", "image"):
        return text
    uid, colon, gid = text.partition(":")
    numbers = (uid, gid) if colon else (uid,)
    if all(_is_number(number) and int(number) <= LARGEST_ID for number in numbers):
        return text
    raise ValueError(valid_are(("host", "image", "uid", "uid:gid"), text))


def gpus(value: object) -> Gpus:
    valid = "valid is: a number, all, or a list of device ids"
    if isinstance(value, (list, tuple)):
        ids = tuple(str(item) for item in value)
        if len(set(ids)) != len(ids):
            raise ValueError("an id is there twice")
        if not all(ids):
            raise ValueError("an id is empty")
        return Gpus(ids=ids)
    if value == "all":
        return Gpus(all=True)
    if isinstance(value, bool) or not _is_number(str(value)):
        raise ValueError(valid)
    return Gpus(count=int(str(value)))


#: The names that Docker knows.
ULIMITS = (
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
    *("rss", "rtprio", "rttime", "sigpending", "stack"),
)


def ulimit(name: str, value: object) -> Ulimit:
    if name not in ULIMITS:
        raise ValueError(f"there is no such limit; {valid_are(ULIMITS, name)}")
    both = value if isinstance(value, Mapping) else {"soft": value, "hard": value}
    if set(both) != {"soft", "hard"} or not all(
        str(limit) == "-1" or re.fullmatch(r"[0-9]{1,19}", str(limit)) for limit in both.values()
    ):
        raise ValueError("must be a number (-1: no limit), or have soft and hard")
    soft, hard = int(str(both["soft"])), int(str(both["hard"]))
    if max(soft, hard) > LARGEST:
        raise ValueError("must be less than 2^63")
    if hard != -1 and (soft == -1 or soft > hard):
        raise ValueError(f"soft ({soft}) is more than hard ({hard})")
    return Ulimit(name, soft, hard)


def absolute(path: str) -> str:
    """Return an absolute path as the engine reads it: without what leads up again."""
    plain = posixpath.normpath(f"/{path.lstrip('/')}")
    if not path.startswith("/") or plain == "/":
        raise ValueError(f"{path!r} must be an absolute path in the container, not /")
    return plain


def host_path(text: str, folder: Path) -> Path:
    """Return a path of this host, which may begin with ``~``; ``folder`` is where it starts."""
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home folder {Path(text).parts[0]} on this host") from None


def device(item: str) -> str:
    parts = item.split(":")
    if len(parts) > 3 or not all(part.startswith("/") for part in parts[:2]):
        raise ValueError("must be host_path[:container_path[:permissions]]")
    if len(parts) == 3 and not (parts[2] and set(parts[2]) <= set("rwm")):
        raise ValueError("permissions are one or more of r, w and m")
    if not os.path.exists(parts[0]):  # noqa: PTH110  (Path.exists raises for names too long)
        raise ValueError(f"there is no device {parts[0]} on this host")
    host = parts[0]
    return ":".join((host, parts[1] if len(parts) > 1 else host, *(parts[2:] or ["rwm"])))


def extra_host(item: str) -> tuple[str, str]:
    separator = "=" if "=" in item else ":"
    name, _, address = item.partition(separator)
    if not name or not address:
        raise ValueError("must be name:address")
    return name, address


def volume(item: str, folder: Path) -> Volume:
    parts = item.split(":")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise ValueError("must be source:target or source:target:ro")
    if len(parts) == 3 and parts[2] not in ("ro", "rw"):
        raise ValueError(f"{parts[2]!r} is not a mode; valid is: ro, rw")
    source, target = parts[0], absolute(parts[1])
    read_only = parts[2:] == ["ro"]
    if "/" not in source and source not in (".", "..", "~"):
        return Volume(source, target, read_only, named=True)
    path = host_path(source, folder)
    if not os.path.exists(path):  # noqa: PTH110  (Path.exists raises for names too long)
        raise ValueError(
            f"{path} does not exist on this host; create it first, or correct the path"
        )
    return Volume(str(path.resolve()), target, read_only, named=False)


def revision(value: object) -> str:
    if value is None:
        raise ValueError("must have a value")
    if not str(value).strip():
        raise ValueError("is empty; leave it out")
    if str(value).startswith("-"):
        raise ValueError("must be a revision of git, such as HEAD, a branch, a tag or an id")
    return str(value)


def logging_driver(value: object) -> str:
    driver = str(value)
    if driver not in _DRIVERS:
        near = valid_are(tuple(_DRIVERS), driver)
        raise ValueError(f"the launcher could not read the output back from it; {near}")
    return driver


def logging_options(driver: str, value: Mapping[str, object]) -> Logging:
    """Read a driver's options; those of ROTATION are there unless they are said otherwise."""
    known = _DRIVERS[driver]
    for name, option in value.items():
        if name not in known:
            raise ValueError(f"{name}: {valid_are(known, name)} (with driver={driver})")
        _check_logging(name, option)
    given = {name: _logging_text(option) for name, option in value.items()}
    rotation = {name: text for name, text in ROTATION if name in known}
    if given.get("max-size") == "-1":
        rotation.pop("max-file", None)
        if given.get("max-file", "1") != "1":
            raise ValueError("max-file: there is one file, where max-size=-1 sets no limit")
    return Logging(driver, tuple(sorted({**rotation, **given}.items())))


def _logging_text(option: object) -> str:
    return str(option).lower() if isinstance(option, bool) else str(option)


def _check_logging(name: str, option: object) -> None:
    text = _logging_text(option)
    if name == "max-size" and text != "-1":
        try:
            number = size(text)
        except ValueError as error:
            raise ValueError(f"max-size: {error}") from None
        if number < 1:
            raise ValueError("max-size: must be more than nothing, or -1 for no limit")
    if name == "max-file" and not (text.isdecimal() and int(text) > 0):
        raise ValueError("max-file: must be a positive number of files")
    if name == "compress" and text not in ("true", "false"):
        raise ValueError("compress: must be true or false")
    if isinstance(option, (Mapping, list)) or option is None:
        raise ValueError(f"{name}: must be a single value")


def log_limit(value: object) -> int:
    number = size(value)
    if number < MINIMUM_LOG:
        raise ValueError("must be at least 64k")
    return number


def data_check(value: object) -> str:
    # YAML reads a bare `off` as false, which the schema then makes a string.
    text = "off" if str(value) == "False" else str(value)
    valid = ("off", "warn", "error")
    if text not in valid:
        raise ValueError(valid_are(valid, text))
    return text


def readable_file(item: object, folder: Path) -> Path:
    path = host_path(str(item), folder)
    try:
        with path.open("rb"):
            return path.resolve()
    except OSError as error:
        raise ValueError(f"cannot read it: {error.strerror or error}") from None


def restart(value: object) -> Restart:
    # YAML reads a bare `no` as false, which the schema then makes a string.
    text = "no" if str(value) == "False" else str(value)
    name, colon, times = text.partition(":")
    if name == "on-failure" and colon and _is_number(times) and int(times) > 0:
        return Restart(name, int(times))
    if not colon and name in ("no", "on-failure", "unless-stopped", "always"):
        return Restart(name)
    valid = ("no", "on-failure", "on-failure:<times>", "unless-stopped", "always")
    raise ValueError(valid_are(valid, text))


_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
#: The first part is a host if it has a dot or a port, or is localhost.
_HOST = (
    r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|(?:[A-Za-z0-9-]+|\[[0-9a-fA-F:]+\])(?=:))"
    r"(?::[0-9]+)?"
)
_REPOSITORY = re.compile(rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*")


def repository(value: object) -> str:
    """Read the name of a repository of images, without a tag."""
    text = str(value)
    if _REPOSITORY.fullmatch(text) is None:
        raise ValueError(
            "must be a repository's name in small letters and without a tag, for example "
            "team/train or registry.example:5000/team/train"
        )
    return text
