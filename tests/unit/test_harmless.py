"""Harmless: words of containers, images, engines and others do nothing to a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import FakeEngine

from hydra_plugins.hydra_docker_launcher import (
    _attach,
    _buildkit,
    _cli,
    _docker_values,
    _doctor,
    _errors,
    _gc,
    _preflight,
    _team,
)
from hydra_plugins.hydra_docker_launcher._engine import BuildRequest, Image, Need
from hydra_plugins.hydra_docker_launcher._errors import DockerLauncherError, ImageError
from hydra_plugins.hydra_docker_launcher._gc_plan import Thing
from hydra_plugins.hydra_docker_launcher._harmless import harmless, lines, one_line, plain
from hydra_plugins.hydra_docker_launcher._ledger import FORMAT, Ledger
from hydra_plugins.hydra_docker_launcher._paths import SweepPaths

#: What plays a trick: as a whole line, as plain text, and as a name.
TRICKS = {
    "title": ("\x1b]0;mine\x07a", "a", "a"),
    "title, ended by two characters": ("\x1b]2;mine\x1b\\a", "a", "a"),
    "title without end": ("\x1b]0;mine", "0;mine", "0;mine"),
    "clipboard": ("\x1b]52;c;cm0gLXJmIH4K\x07a", "a", "a"),
    "link": ("\x1b]8;;http://x\x1b\\a\x1b]8;;\x1b\\", "a", "a"),
    "other screen": ("\x1b[?1049ha", "a", "a"),
    "clears": ("\x1b[2J\x1b[Ha", "a", "a"),
    "goes up": ("a\x1b[1Ab", "ab", "ab"),
    "asks the terminal": ("\x1b[6na\x1b[>c", "a", "a"),
    "resets": ("\x1bca", "ca", "ca"),
    "8 bits": ("\x9b2Ja\x9d0;mine\x9c\x90", "2Ja0;mine", "2Ja0;mine"),
    "writes over": ("good\rbad", "goodbad", "goodbad"),
    "deletes": ("a\x08\x7fb\x00\x07\x0e", "ab", "ab"),
    "turned around": ("a\u202egnp.exe\u2066", "agnp.exe", "agnp.exe"),
    "colours": ("\x1b[1;31ma\x1b[m", "a", "a"),
    "half a sequence": ("a\x1b[", "a[", "a["),
    "half a character": ("a\ud800", "a", "a"),
    "tab": ("a\tb", "a\tb", "a?b"),
    "line": ("a\nb", "a\nb", "ab"),
}
SAID = "\x1b]0;title\x07\x1b[?1049h\x1b[2J\x9b1Abad\u202e"  # of which "bad" is to be read
LEFT = "1Abad"
IMAGE = Image("sha256:" + "1" * 64, "train:1")


@pytest.mark.parametrize(("text", "left", "name"), TRICKS.values(), ids=TRICKS)
def test_tricks(text, left, name):
    """What is left can be read, and is all that there is."""
    assert plain(text) == left
    assert one_line(text) == name
    assert harmless(text.replace("\n", "")) in (left.replace("\n", ""), text)
    assert str(DockerLauncherError(text)) == left


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n\n  \x1b[1m \x1b[m\n b \n", ["a", " b"]),
        ("10 %\r20 %\r\n", ["10 %", "20 %"]),
        (f"{SAID}\n{SAID}", [LEFT, LEFT]),
        ("\x1b[0m", []),
        ("", []),
    ],
)
def test_lines(text, shown):
    """The lines of a builder, and no empty ones."""
    assert list(lines(text)) == shown


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(_errors).values()
        if isinstance(kind, type) and issubclass(kind, DockerLauncherError)
    ],
)
def test_errors(kind):
    """Whoever prints an error prints words of others."""
    assert str(kind(f"it says:\n  {SAID}")) == f"it says:\n  {LEFT}"


# ---- the engine and its builders -----------------------------------------------------------------


def test_progress():
    """A registry, which the reference of an image names, says how a pull goes."""
    steps = [{"status": SAID, "id": SAID}, {"status": SAID}, {"error": SAID}]
    shown = []
    with pytest.raises(ImageError) as raised:
        shown += _docker_values.progress(steps, "pull the image app")
    assert shown == [f"{LEFT}: {LEFT}", LEFT]
    assert str(raised.value) == f"Could not pull the image app: {LEFT}"


def test_buildkit(tmp_path, monkeypatch):
    """What a RUN of a Dockerfile prints is shown, and stands in the error."""
    said = tmp_path / "said"
    said.write_text(f"#1 {SAID}\n", encoding="utf-8")
    client = tmp_path / "docker"
    client.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        "version) echo 28.2.2;; buildx) echo buildx;; info) echo ENGINE;;\n"
        f"build) /bin/cat {said}; exit 3;;\n"
        "esac\n"
    )
    client.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_buildkit, "_FOLDERS", ())
    request = BuildRequest(
        "t", "Dockerfile", "FROM a\n", None, (), None, (), (Need("RUN --mount", (20, 10)),)
    )
    shown = []
    with pytest.raises(ImageError) as raised:
        _buildkit.build(request, tmp_path, shown.append, "ENGINE", "28.2.2")
    assert shown == [f"#1 {LEFT}"]
    assert str(raised.value).endswith(f"The builder's last lines:\n  #1 {LEFT}")


# ---- what an image says of itself ----------------------------------------------------------------


def look_into(tmp_path, output, code=0):
    engine = FakeEngine(answer=lambda spec: (code, output))
    return _preflight.inspect_image(
        engine, IMAGE, user=None, gpus=False, runtime=None, cache=tmp_path / "cache"
    )


FACTS = {"python": "3.11.2", "uid": 0, "gid": 0, "hydra": "1.3.2", "omegaconf": "2.3.0"}


def test_facts_of_an_image(tmp_path):
    """They are written down, in provenance.json and in MLflow; once more when they are cached."""
    names = ("git", "gpu_driver", "system", "libc", "hydra", "omegaconf")
    lists = ("packages", "gpus", "gpu_models")
    said = {
        **FACTS,
        **dict.fromkeys(names, SAID),
        **{name: [SAID, SAID + "x" * 9999] for name in lists},
        "passwd": f"root:x:0:0:{SAID}:/root:/bin/sh\nann:x:1:1::/:\n",
    }
    for _ in range(2):
        facts = look_into(tmp_path, f"\n@facts@{json.dumps(said)}")
        assert [getattr(facts, name) for name in names] == [LEFT] * len(names)
        for name in lists:
            short, long = getattr(facts, name)
            assert short == LEFT
            assert long.startswith(f"{LEFT}x")
            assert len(long) < 1001
        assert facts.passwd == f"root:x:0:0:{LEFT}:/root:/bin/sh\nann:x:1:1::/:\n"


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (SAID, f"its python3 does not run (exit code 7): {LEFT}"),
        (
            "\n@facts@" + json.dumps({**FACTS, "hydra": None, "import_error": SAID}),
            f"has no hydra-core that works ({LEFT}).",
        ),
        (
            "\n@facts@" + json.dumps({**FACTS, "python": f"3.1.{SAID}"}),
            f"has Python 3.1.{LEFT}; jobs need",
        ),
        ("\n@facts@" + json.dumps({**FACTS, "hydra": None, "import_error": "x" * 99999}), "xxx)."),
    ],
    ids=["output", "import", "version", "long"],
)
def test_image_that_cannot_run_jobs(tmp_path, output, said):
    """The refusal has the image's own words."""
    with pytest.raises(ImageError) as raised:
        look_into(tmp_path, output, code=7)
    assert said in str(raised.value)
    assert len(str(raised.value)) < 1000


# ---- files and labels of other users -------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path):
    """The ledger of somebody else's sweep."""
    path = SweepPaths(tmp_path).ledger
    path.write_text(
        json.dumps(
            {
                "format": FORMAT,
                "sweep": SAID,
                "user": SAID,
                "jobs": [{"job": 0, "outcome": SAID, "output_dir": str(tmp_path)}],
            }
        )
    )
    return path


def test_what_a_folder_tells(ledger):
    """The user and the outcomes are named in messages."""
    told = _team.told_by(ledger.parent)
    assert (told.user, told.rows[0].outcome) == (LEFT, LEFT)


def test_summary(ledger):
    """How a sweep stands, as `attach` and `stop` print it."""
    assert _attach.summary(Ledger.read(ledger)) == f"1 {LEFT}"


def test_what_is_left_behind():
    """What `gc` lists: containers, images and folders of everybody."""
    things = [
        Thing(kind="containers", name=f"{SAID}\nb", why=SAID, goes=goes) for goes in (True, False)
    ]
    shown = _gc.describe(things)
    assert shown.splitlines() == [
        "containers",
        f"  {LEFT}b      {LEFT}",
        "1 thing to remove, 0b in images and caches",
        "Kept:",
        f"  containers {LEFT}b: {LEFT}",
    ]


def test_findings():
    """What `doctor` prints: words of an engine and of a server."""
    finding = _doctor.Finding(_doctor.Level.OK, "engine", SAID, SAID)
    assert str(finding) == f"ok       engine: {LEFT}. {LEFT}"


def test_errors_of_the_command_line(tmp_path, monkeypatch, capsys):
    """A folder, which a label names, stands in what hydra-docker prints."""
    monkeypatch.chdir(tmp_path)
    folder = Path(SAID)
    folder.mkdir()
    assert _cli.main(["logs", str(folder)]) == _cli.FAILED
    shown = capsys.readouterr().err
    assert LEFT in shown
    assert plain(shown) == shown
