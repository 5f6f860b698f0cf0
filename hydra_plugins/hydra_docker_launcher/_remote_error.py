"""Remote errors: an exception that a worker wrote as JSON becomes one that can be raised here."""

from __future__ import annotations

import builtins
import os
import stat
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any

from ._harmless import harmless, plain

MAX_CHAIN = 20
MAX_SOURCE = 10 * 1024 * 1024  # bytes of a file whose lines a traceback shows


def rebuild(encoded: dict[str, Any]) -> Exception | None:
    """Return the exception, its traceback and its chain, or None where that cannot be done.

    Only Python's built-in types are made again, from JSON arguments: for any other, code of the
    container's choice would have to run here.
    """
    try:
        error = _rebuild(encoded, 0)
        same = str(error) == _shown(encoded.get("message"))
    except Exception:  # noqa: BLE001  (the container's words may be anything; the sweep goes on)
        return None
    return error if same and isinstance(error, Exception) else None


def _rebuild(encoded: Any, depth: int) -> BaseException | None:
    if not isinstance(encoded, dict) or depth > MAX_CHAIN:
        return None
    kind = getattr(builtins, str(encoded.get("type")), None)
    arguments = encoded.get("args")
    if encoded.get("module") != "builtins" or not isinstance(arguments, list):
        return None
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        return None
    try:
        error = kind(*map(_shown, arguments))
    except Exception:  # noqa: BLE001  (whatever a constructor does with arguments not its own)
        return None
    error.__context__ = _chained(encoded.get("context"), depth)
    if encoded.get("cause") is not None:  # setting it hides the context
        error.__cause__ = _chained(encoded["cause"], depth)
    notes = encoded.get("notes")
    for note in notes if isinstance(notes, list) else ():
        add_note(error, _shown(str(note)))
    return error.with_traceback(_frames(encoded.get("frames")))


def _chained(encoded: Any, depth: int) -> BaseException | None:
    """Return an earlier exception of a chain; one of a foreign type stands as a ``RemoteError``."""
    if not isinstance(encoded, dict):
        return None
    error = _rebuild(encoded, depth + 1)
    if error is None:
        error = RemoteError(_shown(f"{encoded.get('type')}: {encoded.get('message')}"))
        error.__traceback__ = _frames(encoded.get("frames"))
    return error


class RemoteError(Exception):
    """Stands in a chain for an exception whose type exists only in the container."""


def add_note(error: BaseException, note: str) -> None:
    """Add a note, as ``BaseException.add_note`` of Python 3.11 does; older ones do not show it."""
    notes = [*getattr(error, "__notes__", ()), note]
    error.__notes__ = notes  # type: ignore[attr-defined, unused-ignore]


def _frames(encoded: Any) -> TracebackType | None:
    """Return a traceback of the file names, function names and lines that the worker wrote."""
    result: TracebackType | None = None
    if not isinstance(encoded, list):
        return None
    for item in reversed(encoded):
        if not (isinstance(item, list) and len(item) == 3 and isinstance(item[2], int)):
            return None
        filename, name = _file(plain(str(item[0]))), plain(str(item[1]))
        line = max(1, min(item[2], 10**6))
        result = TracebackType(result, _frame(filename, name, line), -1, line)
    return result


def _shown(value: Any) -> Any:
    """Return an argument of an exception, a text without what plays tricks on a terminal."""
    return "\n".join(map(harmless, value.split("\n"))) if isinstance(value, str) else value


def _file(name: str) -> str:
    """Return the name of a source file, in brackets where ``traceback`` must not read it.

    The container has chosen it: a device or a pipe has no end, and what is no Python source is
    none of its business.
    """
    try:
        facts = os.stat(name)
    except FileNotFoundError:
        readable = True
    except (OSError, ValueError):
        readable = False
    else:
        readable = stat.S_ISREG(facts.st_mode) and 0 < facts.st_size <= MAX_SOURCE
    return (
        name
        if readable and name.startswith("/") and name.endswith(".py")
        else f"<{name.strip('<>')}>"
    )


class _SyntheticTraceback(Exception):  # noqa: N818
    """Its name among a frame's globals tells Hydra 1.4 that the frame was restored."""


_RAISE = compile("raise _SyntheticTraceback", "<container>", "exec")


def _frame(filename: str, name: str, line: int) -> FrameType:
    code: CodeType = _RAISE.replace(co_filename=filename, co_name=name, co_firstlineno=line)
    try:
        FunctionType(code, {"_SyntheticTraceback": _SyntheticTraceback})()
    except _SyntheticTraceback as raised:
        trace = raised.__traceback__
        if trace is not None and trace.tb_next is not None:
            return trace.tb_next.tb_frame
    raise AssertionError("the frame above always raises")
