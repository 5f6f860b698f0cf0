"""Remote errors: from an exception in the worker, through JSON, to an exception on the host."""

from __future__ import annotations

import builtins
import errno
import importlib.util
import json
import os
import re
import sys
import traceback
from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher import _worker
from hydra_plugins.hydra_docker_launcher._remote_error import RemoteError, add_note, rebuild

SCRIPT = """
class Foreign(Exception):
    pass

def inner(error):
    raise error

def outer(error):
    inner(error)

def chained(error, cause):
    try:
        inner(cause)
    except Exception as caught:
        raise error from caught

def in_handler(error, context):
    try:
        inner(context)
    except Exception:
        inner(error)

def hidden(error, context):
    try:
        inner(context)
    except Exception:
        raise error from None
"""


@pytest.fixture
def script(tmp_path: Path):
    """A module of its own, so that a traceback has lines of a file."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    spec = importlib.util.spec_from_file_location("script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sent(function, *arguments):
    """Return what the worker writes about the exception that a call raises."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        function(*arguments)
    error = caught.value
    error.__traceback__ = error.__traceback__.tb_next  # without the frame of this file
    return json.loads(json.dumps(_worker.encode_error(error)))


def shown(error):
    """Return what Python shows of an exception, without the markers below a line (3.11)."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return without_markers(lines)


def without_markers(text):
    return re.sub(r"^ +[~^]+\n", "", text, flags=re.MULTILINE)


def encoded(**values):
    """Return an error as a worker writes it, but for ``values``."""
    base = {
        "module": "builtins",
        "type": "ValueError",
        "message": "no",
        "args": ["no"],
        "frames": [],
        "notes": [],
        "traceback": "",
    }
    return {**base, **values}


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        ValueError(),
        KeyError("lr"),
        KeyError(1),
        RuntimeError("a", 2, [3.5, None], {"k": True}),
        AttributeError("x"),
        NotImplementedError(),
        OSError(errno.ENOSPC, "No space left on device"),
        FileNotFoundError(errno.ENOENT, "No such file", "data.csv"),
        FileNotFoundError(errno.ENOENT, "No such file", "a", None, "b"),
        OSError("only text"),
        StopIteration(3),
        AssertionError("assert 1 == 2"),
        ZeroDivisionError("division by zero"),
        MemoryError(),
        UserWarning("as an error"),
        SyntaxError("invalid syntax"),
    ],
    ids=repr,
)
def test_builtin_type(script, error):
    """One of Python's own types comes back as that type, with its arguments and its message."""
    rebuilt = rebuild(sent(script.outer, error))

    assert type(rebuilt) is type(error)
    assert rebuilt.args == error.args
    assert str(rebuilt) == str(error)
    assert shown(rebuilt) == shown(error)


def test_file_names_of_oserror(tmp_path):
    """The commonest error of all keeps its file name."""
    missing = tmp_path / "missing.csv"

    rebuilt = rebuild(sent(open, missing.as_posix()))

    assert type(rebuilt) is FileNotFoundError
    assert (rebuilt.errno, rebuilt.filename) == (errno.ENOENT, str(missing))


@pytest.mark.parametrize(
    "error",
    [
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ValueError(object()),
        ValueError(b"bytes"),
        ValueError("x" * 200_000),
        *([builtins.ExceptionGroup("two", [ValueError(1)])] if sys.version_info >= (3, 11) else []),
    ],
    ids=lambda error: type(error).__name__,
)
def test_arguments_that_are_no_json(script, error):
    """Without its arguments a type cannot be made again; its words are there all the same."""
    content = sent(script.outer, error)

    assert rebuild(content) is None
    assert content["message"] == str(error)[:100_000]
    assert type(error).__name__ in content["traceback"] or len(content["traceback"]) == 100_000


def test_foreign_type(script):
    """A type of the user's own would need the user's code: it is described, not made."""
    content = sent(script.outer, script.Foreign("mine"))

    assert rebuild(content) is None
    assert (content["module"], content["type"], content["message"]) == (
        "script",
        "Foreign",
        "mine",
    )


def test_not_an_exception(script):
    """What is no Exception (Ctrl-C in the task) must not end the sweep by its type."""
    assert rebuild(sent(script.outer, KeyboardInterrupt())) is None
    assert rebuild(encoded(type="SystemExit", args=[0], message="0")) is None


def test_frames(script, tmp_path):
    """The traceback has the container's files, functions and lines, and ends where it was."""
    rebuilt = rebuild(sent(script.outer, ValueError("no")))

    assert shown(rebuilt) == (
        "Traceback (most recent call last):\n"
        f'  File "{tmp_path}/script.py", line 9, in outer\n'
        "    inner(error)\n"
        f'  File "{tmp_path}/script.py", line 6, in inner\n'
        "    raise error\n"
        "ValueError: no\n"
    )


@pytest.mark.parametrize("how", ["chained", "in_handler", "hidden"])
def test_chain(script, how):
    """Cause and context are shown as they were, also where ``from None`` hides them."""
    error = ValueError("second")
    content = sent(getattr(script, how), error, KeyError("first"))

    rebuilt = rebuild(content)

    assert shown(rebuilt) == without_markers(content["traceback"])
    assert (type(rebuilt.__cause__), type(rebuilt.__context__)) == {
        "chained": (KeyError, type(None)),
        "in_handler": (type(None), KeyError),
        "hidden": (type(None), type(None)),
    }[how]


def test_foreign_type_in_a_chain(script):
    """An earlier exception of a foreign type stands in the chain with its type and frames."""
    rebuilt = rebuild(sent(script.chained, ValueError("second"), script.Foreign("first")))

    cause = rebuilt.__cause__
    assert (type(cause), str(cause)) == (RemoteError, "Foreign: first")
    assert traceback.extract_tb(cause.__traceback__)[-1].name == "inner"


def test_long_chain():
    """A chain is cut at a length that Python can show."""
    content = encoded()
    for _ in range(60):
        content = encoded(cause=content)

    error, length = rebuild(content), 0
    while error is not None:
        error, length = error.__cause__, length + 1
    assert length == 22  # the last one says that there was more


def test_loop_in_a_chain():
    """An exception that is its own context is encoded once."""
    first, second = ValueError("1"), ValueError("2")
    first.__context__, second.__context__ = second, first

    content = _worker.encode_error(first)

    assert content["context"]["message"] == "2"
    assert "context" not in content["context"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python shows notes since 3.11")
def test_notes(script):
    """Notes of the container come before those of the host."""
    error = ValueError("no")
    error.add_note("from the container")

    rebuilt = rebuild(sent(script.inner, error))
    add_note(rebuilt, "from the host")

    assert shown(rebuilt).endswith("ValueError: no\nfrom the container\nfrom the host\n")


# ---- what a hostile container may write ----------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"module": "os", "type": "system", "args": ["true"]},
        {"module": "subprocess", "type": "CalledProcessError", "args": [1, "x"]},
        {"type": "exec", "args": ["raise SystemExit"]},
        {"type": "eval"},
        {"type": "open", "args": ["/dev/null"]},
        {"type": "str"},
        {"type": "__import__", "args": ["this"]},
        {"type": "__builtins__"},
        {"type": "ValueError.__class__"},
        {"type": ["ValueError"]},
        {"type": None},
        {"args": "no"},
        {"args": None},
        {"args": {"0": "no"}},
        {"message": "another"},
        {"message": ["no"]},
        {"type": "UnicodeDecodeError", "args": [1, 2, 3, 4, 5]},
        {"type": "SyntaxError", "args": ["no", 1]},
        {"type": "ExceptionGroup", "args": ["no", []]},
        {"type": "ExceptionGroup", "args": ["no", ["no"]]},
        {"type": "BaseException"},
    ],
    ids=json.dumps,
)
def test_nothing_but_builtin_exceptions_is_made(values):
    """No name leads to other code, and no argument of the wrong shape breaks the sweep."""
    assert rebuild(encoded(**values)) is None


@pytest.mark.parametrize(
    "values",
    [
        {"frames": None},
        {"frames": {}},
        {"frames": "frames"},
        {"frames": [["a.py", "f", "1"]]},
        {"frames": [["a.py", "f"]]},
        {"frames": [[1, 2, 3]]},
        {"frames": [["/a.py", "f", -5], ["/a.py", "f", 10**30], ["/a.py", "f", 0]]},
        {"frames": [["/a\0b.py", "f\0", 1]]},
        {"frames": [["/\ud800.py", "\ud800", 1]]},
        {"frames": [["x" * 100_000, "f", 1]]},
        {"notes": 5},
        {"notes": {"a": 1}},
        {"notes": [1, None, [[]]]},
        {"cause": 5},
        {"cause": []},
        {"cause": {"type": 1}},
        {"context": "text"},
        {"args": json.loads("[" * 700 + "]" * 700), "message": "x"},
    ],
    ids=lambda values: json.dumps(values)[:40],
)
def test_broken_words(values):
    """Whatever else is not as the worker writes it, nothing raises, and the result can be shown."""
    rebuilt = rebuild(encoded(**values))

    assert rebuilt is None or "ValueError: no" in shown(rebuilt)


def test_deep_arguments():
    """Arguments that JSON can hold, but Python cannot show, are given up."""
    deep = "no"
    for _ in range(sys.getrecursionlimit()):
        deep = [deep]

    assert rebuild(encoded(args=[deep])) is None


@pytest.mark.parametrize("name", ["device", "pipe", "relative", "huge", "proc"])
def test_sources_that_must_not_be_read(tmp_path, name):
    """A traceback shows lines of the files it names: the container cannot make it read forever."""
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    path = {
        "device": "/dev/zero",
        "pipe": str(tmp_path / "pipe"),
        "relative": "../../../../../../dev/zero",
        "huge": str(tmp_path / "huge"),
        "proc": "/proc/kmsg",
    }[name]

    rebuilt = rebuild(encoded(frames=[[path, "f", 1]]))

    assert shown(rebuilt) == (
        f'Traceback (most recent call last):\n  File "<{path}>", line 1, in f\nValueError: no\n'
    )
