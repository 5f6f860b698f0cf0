"""Console: jobs' lines on standard output, whatever becomes of it."""

from __future__ import annotations

import errno
import logging
import os
import pty
import sys

import pytest

from hydra_plugins.hydra_docker_launcher._console import Console, is_gone

log = logging.getLogger("hydra_docker_launcher")


def a_pipe_without_a_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def a_terminal_that_was_closed():
    terminal, ours = pty.openpty()
    os.close(terminal)
    return ours


@pytest.fixture(params=[a_pipe_without_a_reader, a_terminal_that_was_closed])
def gone(request):
    """A stream that nobody reads any more."""
    with os.fdopen(request.param(), "w") as stream:
        yield stream


def test_output_that_nobody_reads(gone, monkeypatch, caplog):
    """It is no error; the user is told once, and what is written later, by others too, is lost."""
    monkeypatch.setattr(sys, "stdout", gone)
    console = Console()
    for number in range(3):
        console.show(f"line {number}")
    (message,) = caplog.messages
    assert message.startswith("What jobs print is not shown any more, since standard output cannot")
    assert message.endswith("The sweep goes on; container.log in each job's folder has it.")
    print("later", flush=True)


def test_is_gone(gone, monkeypatch):
    """Who finds that out by itself is told so; Python then has nothing left to fail with."""
    monkeypatch.setattr(sys, "stdout", gone)
    with pytest.raises(OSError, match=r"Broken pipe|Input/output error") as caught:
        print("hello", flush=True)
    assert is_gone(caught.value)
    print("later", flush=True)


def test_other_errors():
    """A disk that fails has nothing to do with it."""
    assert not is_gone(OSError(errno.EIO, "Input/output error"))
    assert not is_gone(OSError(errno.ENOSPC, "No space left on device"))


def test_output_that_is_closed(monkeypatch, tmp_path, caplog):
    """A file that the program itself has closed, or standard output that it never had."""
    closed = (tmp_path / "output").open("w")
    closed.close()
    for stream in (closed, None):
        caplog.clear()
        monkeypatch.setattr(sys, "stdout", stream)
        Console().show("line")
        assert len(caplog.messages) == 1


def test_output_that_is_full_for_the_moment(monkeypatch, caplog):
    """A terminal that does not wait for its reader loses a line, and gets those that follow."""

    class Stream:
        shown = ""

        def write(self, text):
            if text == "one\n":
                raise BlockingIOError
            self.shown += text

        def flush(self):
            pass

    stream = Stream()
    monkeypatch.setattr(sys, "stdout", stream)
    console = Console()
    console.show("one")
    console.show("two")
    assert stream.shown == "two\n"
    assert caplog.messages == []


def test_letters_that_the_terminal_has_not(monkeypatch, tmp_path):
    """They are shown by their numbers."""
    with (tmp_path / "output").open("w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        Console().show("w\xf6rld")
    assert (tmp_path / "output").read_text() == "w\\xf6rld\n"


def test_log_that_nobody_reads(monkeypatch, tmp_path):
    """What the launcher has to say ends nothing, where both streams are closed."""
    Console()
    closed = (tmp_path / "output").open("w")
    closed.close()
    handler = logging.StreamHandler(closed)
    monkeypatch.setattr(sys, "stderr", closed)
    log.addHandler(handler)
    try:
        log.warning("nobody hears it")
    finally:
        log.removeHandler(handler)
