"""Log stream: whatever the engine sends of a container's output, and however it tears it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydra_plugins.hydra_docker_launcher._log_stream import Reader, Replays, time_of

SAME = settings(derandomize=True, database=None, deadline=None, max_examples=100)
LONGEST = 60  # bytes, in place of a megabyte; a time takes 31


def stamp(second):
    return f"2026-11-22T10:00:{second:02d}.123456789Z".encode()


def lines(frames, since=None, *, to_the_end=True, longest=LONGEST):
    return list(Reader(since, longest).lines(frames, to_the_end=to_the_end))


def torn(content, places):
    """Return the content in pieces, torn at the places."""
    ends = sorted({0, len(content), *(place % (len(content) + 1) for place in places)})
    return [content[begin:end] for begin, end in itertools.pairwise(ends)]


# ---- what an engine sends ------------------------------------------------------------------------


def test_lines():
    """A frame for each line: its time, the text, an end."""
    sent = [stamp(1) + b" one\n", stamp(2) + b" \n", stamp(3) + b" three\n"]
    assert lines(sent) == [stamp(1) + b" one", stamp(2) + b" ", stamp(3) + b" three"]
    assert lines(sent, since=stamp(2).decode()) == [stamp(3) + b" three"]


def test_line_in_pieces():
    """The engine cuts a long line into frames, and writes the time before each."""
    sent = [stamp(1) + b" one, ", stamp(1) + b" two, ", stamp(2) + b" three\n"]
    assert lines(sent) == [stamp(1) + b" one, two, three"]


def test_line_that_is_too_long():
    """It becomes several lines of its time, of which none is left out, though they are equal."""
    text = b"x" * 100
    parts = [stamp(1) + b" " + text[:part] for part in (29, 29, 29, 13)]
    assert lines([stamp(1) + b" " + text + b"\n"]) == parts
    assert lines([stamp(1) + b" " + piece for piece in (b"x" * 50, b"x" * 50 + b"\n")]) == parts


@pytest.mark.parametrize(("to_the_end", "last"), [(True, [stamp(2) + b" two"]), (False, [])])
def test_line_without_end(to_the_end, last):
    """What a container has not written to the end yet is a line when it has ended."""
    sent = [stamp(1) + b" one\n", stamp(2) + b" two"]
    assert lines(sent, to_the_end=to_the_end) == [stamp(1) + b" one", *last]


@pytest.mark.parametrize("end", [0, 20, 80, 150, 200, 290, 310])
def test_stream_that_ends_too_early(end):
    """The next one has the rest, also of a line that was too long; nothing comes twice."""
    sent = b"".join(
        (stamp(1) + b" one\n", stamp(2) + b" " + b"x" * 200 + b"\n", stamp(2) + b" end\n", b"x\n")
    )
    reader = Reader(None, LONGEST)
    first = list(reader.lines([sent[:end]], to_the_end=False))
    assert first + list(reader.lines([sent], to_the_end=True)) == lines([sent])
    assert list(reader.lines([sent], to_the_end=True)) == []


def test_lines_without_times():
    """They are of the time of the line before, and none of them is taken for a replay."""
    sent = [b"none yet\n" + stamp(1) + b" one\nplain\nplain\n", stamp(2) + b" two\n"]
    assert lines(sent) == [
        b"none yet",
        stamp(1) + b" one",
        stamp(1) + b" plain",
        stamp(1) + b" plain",
        stamp(2) + b" two",
    ]


def test_replays():
    """Lines that come once more are left out; those that are only late are not."""
    replays = Replays(memory=4)
    sent = ["1 a", "2 b", "2 b", "2 c", "5 e", "4 d", "2 c", "5 e", "4 d", "6 f", "6 f", "1 a"]
    taken = [line for line in sent if not replays.is_one(line.encode())]
    # The last one is from longer ago than is remembered.
    assert taken == ["1 a", "2 b", "2 c", "5 e", "4 d", "6 f", "1 a"]
    places = Replays()
    assert [places.is_one(b"1 x", place) for place in (0, 1, 2, 1)] == [False, False, False, True]


# ---- fuzz ----------------------------------------------------------------------------------------

#: Any bytes, no UTF-8 among them, of any length up to several times what a line may have.
texts = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"", b"\r", b"\xff\xfe", b"\xe2\x82", b"\0", b"\x1b]0;", b" ", b"2026-", b"Z "]
    ),
    st.integers(0, 5 * LONGEST).map(lambda size: b"x" * size),
).map(lambda text: text.replace(b"\n", b""))
stamped = st.tuples(st.integers(0, 59), texts).map(lambda it: stamp(it[0]) + b" " + it[1])
anything = st.one_of(stamped, stamped, texts)
places = st.lists(st.integers(0, 10_000), max_size=12)
sinces = st.one_of(st.none(), st.integers(0, 59).map(lambda second: stamp(second).decode()))


@given(st.lists(anything, max_size=8), places, st.booleans(), sinces)
@SAME
def test_torn_anywhere(sent, torn_at, ends, since):
    """However the same bytes are torn, the lines are the same, and none is too long."""
    content = b"\n".join(sent) + (b"\n" if ends else b"")
    whole = lines([content], since)
    assert lines(torn(content, torn_at), since) == whole
    assert lines([content[n : n + 1] for n in range(len(content))], since) == whole
    assert all(len(line) <= LONGEST and b"\n" not in line for line in whole)
    assert all(since is None or (time_of(line) or "Z") > since for line in whole)


@given(st.lists(stamped, max_size=6, unique=True), places)
@SAME
def test_frames_of_an_engine(sent, torn_at):
    """However the engine cuts lines into frames with times, nothing of a text is lost or added."""
    frames = []
    for line in sent:
        moment, text = line[:31], line[31:] + b"\n"
        frames += [moment + piece for piece in torn(text, torn_at)]
    found = lines(frames)
    assert found == lines([line + b"\n" for line in sent])
    assert b"".join(line[31:] for line in found) == b"".join(line[31:] for line in sent)


@given(st.lists(st.binary(max_size=80), max_size=12), st.booleans(), sinces)
@SAME
def test_any_frames(frames, to_the_end, since):
    """What is no log at all is no error, and no line that is too long."""
    found = lines(frames, since, to_the_end=to_the_end)
    assert all(len(line) <= LONGEST and b"\n" not in line for line in found)
