"""Data: what volumes hold, and whether it is what the commit pins. With the real DVC."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from fakes import volume_options

from hydra_plugins.hydra_docker_launcher import _data, _dvc
from hydra_plugins.hydra_docker_launcher._data import DataBook
from hydra_plugins.hydra_docker_launcher._data_identity import DataIdentity, compare
from hydra_plugins.hydra_docker_launcher._errors import DataError
from hydra_plugins.hydra_docker_launcher._option_values import Volume
from hydra_plugins.hydra_docker_launcher._source import Source

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # in DVC

#: As ``dvc add`` of DVC 3.67 wrote them for the files of ``write_data``.
RAW = "md5:6344899fdba26357fc73c30277a12c0a.dir"
TRAIN = "md5:61b3a8faa9c1091806675c230a9abe64"
#: As DVC 2.58 did, for which a line ends in ``\n`` whatever is in the file.
RAW_OF_DVC_2 = "2f863d49c211da5240516bb6cc069d30.dir"


@pytest.fixture(autouse=True)
def _warnings_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the tests before have set: what is only said in passing is asked for by name."""
    caplog.set_level(logging.WARNING, "hydra_docker_launcher")


def write_data(root: Path) -> None:
    (root / "data" / "raw" / "sub").mkdir(parents=True)
    (root / "data" / "raw" / "a.csv").write_bytes(b"a\r\nb\r\n")
    (root / "data" / "raw" / "sub" / "x.bin").write_bytes(b"x")
    (root / "data" / "raw" / "ü.txt").write_text("ü")
    (root / "data" / "train.csv").write_text("train")


@dataclass
class Project:
    """A repository whose ``data/raw`` and ``data/train.csv`` DVC tracks."""

    root: Path

    def git(self, *arguments: str) -> str:
        command = ("git", "-C", str(self.root), *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "data")

    @property
    def book(self) -> DataBook:
        return DataBook(Source(self.root, self.git("rev-parse", "HEAD"), "main", None))

    def identify(self, *sources: str, **options: Any) -> tuple[DataIdentity, ...]:
        """Return the identities of volumes, mounted at ``/0``, ``/1`` and so on."""
        volumes = [
            Volume(str((self.root / source).resolve()), f"/{number}", True, named=False)
            for number, source in enumerate(sources)
        ]
        (found,) = self.book.identify([volume_options(*volumes, **options)])
        return found


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, with what DVC keeps beside it (its memory of hashes in ``site``)."""
    root = tmp_path_factory.mktemp("dvc") / "project"
    write_data(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root.parent / "site"))
        subprocess.run(["git", "init", "--quiet", "--initial-branch=main", str(root)], check=True)
        with Repo.init(str(root)) as repo:
            repo.add([str(root / "data" / "raw"), str(root / "data" / "train.csv")])
    return root


@pytest.fixture
def project(
    plain_git: None, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    shutil.copytree(template, tmp_path / "project", symlinks=True)
    project = Project(tmp_path / "project")
    project.commit()
    return project


def identity_of_raw(project: Project, **changed: Any) -> DataIdentity:
    raw = DataIdentity(
        name="data/raw",
        source=str(project.root / "data/raw"),
        target="/0",
        kind="dvc",
        state="matches",
        digest=RAW,
        files=3,
        bytes=9,
        tracked_by="data/raw.dvc",
    )
    return replace(raw, **changed)


# ---- what DVC tracks -----------------------------------------------------------------------------


def test_tracked_folder(project, caplog):
    """Its hash is the one that the commit pins; what is on disk has been compared with it."""
    caplog.set_level(logging.INFO, "hydra_docker_launcher")
    assert project.identify("data/raw") == (identity_of_raw(project),)
    assert caplog.messages == ["Checking data/raw against data/raw.dvc: 3 files, 9b"]


def test_tracked_file(project):
    """The same of one file."""
    (found,) = project.identify("data/train.csv")
    assert (found.name, found.digest, found.state) == ("data/train.csv", TRAIN, "matches")
    assert (found.files, found.bytes, found.tracked_by) == (1, 5, "data/train.csv.dvc")


def test_commit_counts_and_not_the_working_tree(project):
    """A DVC file that is not committed pins nothing yet."""
    raw = project.root / "data" / "raw"
    (raw / "a.csv").write_text("new")
    with Repo(str(project.root)) as repo:
        repo.add([str(raw)])
    (found,) = project.identify("data/raw")
    assert (found.digest, found.state) == (RAW, "differs")


def test_data_that_differs_is_refused(project):
    """The message names what differs, and how to get the data or to pin what is there."""
    raw = project.root / "data" / "raw"
    (raw / "a.csv").write_text("changed")
    (raw / "ü.txt").unlink()
    (raw / "new.txt").touch()
    commit = project.git("rev-parse", "HEAD")[:12]
    with pytest.raises(DataError) as caught:
        project.identify("data/raw", data_check="error")
    assert str(caught.value) == (
        f"data/raw is not what commit {commit} pins in data/raw.dvc:\n"
        "  changed: a.csv\n"
        "  missing: ü.txt\n"
        "  additional: new.txt\n"
        f"`dvc pull data/raw.dvc` (or `dvc checkout`) get the pinned data; `dvc add {raw}` and "
        "`git commit` pin what is there; hydra.launcher.data_check=warn runs with the data as it "
        "is."
    )


def test_another_commit_than_the_one_checked_out(project):
    """DVC works with the files of the working tree: the way back begins with git."""
    raw = project.root / "data" / "raw"
    first = project.book
    (raw / "a.csv").write_text("new")
    with Repo(str(project.root)) as repo:
        repo.add([str(raw)])
    project.commit()
    volume = Volume(str(raw), "/data", True, named=False)
    with pytest.raises(DataError) as caught:
        first.identify([volume_options(volume, data_check="error")])
    commit = project.git("rev-parse", "HEAD~1")[:12]
    assert (
        str(caught.value)
        .splitlines()[2]
        .startswith(f"`git checkout {commit} -- data/raw.dvc` and `dvc pull data/raw.dvc` (or")
    )
    assert project.identify("data/raw", data_check="error")[0].state == "matches"


def test_data_that_differs_with_a_warning(project, caplog):
    """Both hashes are recorded, the pinned one and that of what is there."""
    (project.root / "data" / "train.csv").write_text("other")
    (found,) = project.identify("data/train.csv")
    on_disk = "md5:" + hashlib.md5(b"other").hexdigest()
    assert (found.state, found.digest, found.found) == ("differs", TRAIN, on_disk)
    assert found.as_dataset().digest == on_disk
    commit = project.git("rev-parse", "HEAD")[:12]
    (message,) = caplog.messages
    assert message == (
        f"data/train.csv is not what commit {commit} pins in data/train.csv.dvc "
        f"({TRAIN[4:]}, on disk {on_disk[4:]})."
    )


def test_many_differences(project):
    """The first ten are named."""
    for number in range(12):
        (project.root / "data" / "raw" / f"{number:02}.txt").touch()
    with pytest.raises(DataError) as caught:
        project.identify("data/raw", data_check="error")
    lines = str(caught.value).splitlines()
    assert lines[1] == "  additional: 00.txt"
    assert lines[10:12] == ["  additional: 09.txt", "  … and 2 more"]


def test_off(project, monkeypatch):
    """What is on disk is not looked at."""
    (project.root / "data" / "raw" / "a.csv").write_text("changed")
    monkeypatch.setattr(_dvc.Disk, "compare", None)
    assert project.identify("data/raw", data_check="off") == (
        identity_of_raw(project, state="not checked"),
    )


def test_part_of_a_tracked_folder(project):
    """Only the part is compared; its identity is the folder's hash and where in it."""
    (project.root / "data" / "raw" / "a.csv").write_text("changed, but not mounted")
    assert project.identify("data/raw/sub", data_check="error") == (
        identity_of_raw(
            project,
            name="data/raw/sub",
            source=str(project.root / "data/raw/sub"),
            part="sub",
            files=None,
            bytes=None,
        ),
    )

    (project.root / "data" / "raw" / "sub" / "x.bin").write_text("changed")
    with pytest.raises(DataError, match=r"\n  changed: sub/x\.bin\n"):
        project.identify("data/raw/sub", data_check="error")


def test_file_of_a_tracked_folder(project):
    """A part may be one file."""
    (found,) = project.identify("data/raw/a.csv")
    assert (found.state, found.part) == ("matches", "a.csv")
    (project.root / "data" / "raw" / "a.csv").write_text("changed")
    with pytest.raises(DataError, match=r"\n  changed: a\.csv\n"):
        project.identify("data/raw/a.csv", data_check="error")


def test_folder_with_tracked_data_in_it(project):
    """Each tracked part has an identity, and what is beside them one together."""
    (project.root / "data" / "notes.txt").write_text("mine")
    raw, train, rest = project.identify("data")
    assert raw == identity_of_raw(project, target="/0/raw")
    assert (train.target, train.digest, train.state) == ("/0/train.csv", TRAIN, "matches")
    assert (rest.name, rest.kind, rest.target) == ("data", "stat", "/0")
    assert (rest.files, rest.bytes) == (1, 4)


def test_folder_with_nothing_but_tracked_data(project):
    """The DVC files and .gitignore are the commit's, and no data."""
    assert [item.name for item in project.identify("data")] == ["data/raw", "data/train.csv"]


def test_many_tracked_files(project, caplog):
    """Files that are tracked one by one are checked all together; the user reads one line."""
    caplog.set_level(logging.INFO, "hydra_docker_launcher")
    for number in range(20):
        content = str(number)
        (project.root / "data" / content).write_text(content)
        md5 = hashlib.md5(content.encode()).hexdigest()
        file = project.root / "data" / f"{content}.dvc"
        file.write_text(f"outs:\n- md5: {md5}\n  hash: md5\n  path: '{content}'\n")
        (project.root / "data" / ".gitignore").open("a").write(f"/{content}\n")
    project.commit()

    found = project.identify("data")
    assert [(item.state, item.kind) for item in found] == [("matches", "dvc")] * 22
    assert caplog.messages == ["Checking data, of which DVC files track 22 parts"]


def test_ignored_by_dvc(project):
    """What .dvcignore names is no data."""
    (project.root / ".dvcignore").write_text("*.tmp\n")
    (project.root / "data" / "raw" / "editing.tmp").touch()
    assert project.identify("data/raw", data_check="error")[0].state == "matches"


def test_dvc_repository_in_a_folder(project):
    """A repository may have several of them (`dvc init --subdir`)."""
    inner = project.root / "other"
    (inner / "raw").mkdir(parents=True)
    (inner / "raw" / "a.csv").write_text("a")
    with Repo.init(str(inner), subdir=True) as repo:
        repo.add([str(inner / "raw")])
    project.commit()
    found = project.identify("other/raw", "data/raw", data_check="error")
    assert [(item.name, item.state) for item in found] == [
        ("other/raw", "matches"),
        ("data/raw", "matches"),
    ]


def test_data_that_is_not_there(project):
    """What a fresh clone lacks until `dvc pull`."""
    shutil.rmtree(project.root / "data" / "raw")
    with pytest.raises(DataError, match=r"pins in data/raw.dvc: it is not there\."):
        project.identify("data", data_check="error")
    raw, *_ = project.identify("data")
    assert (raw.state, raw.found) == ("differs", "nothing")


def test_listing_that_the_cache_does_not_have(project):
    """Then DVC cannot say which files differ, but that they do."""
    shutil.rmtree(project.root / ".dvc" / "cache")
    assert project.identify("data/raw")[0].state == "matches"
    assert project.identify("data/raw/sub")[0].state == "matches"
    (project.root / "data" / "raw" / "a.csv").write_text("changed")
    with pytest.raises(DataError, match="Which files differ is not known: DVC's cache does not"):
        project.identify("data/raw", data_check="error")


def test_file_where_a_folder_was(project):
    """What is on disk may be of another kind altogether."""
    shutil.rmtree(project.root / "data" / "raw")
    (project.root / "data" / "raw").write_text("a file")
    with pytest.raises(DataError) as caught:
        project.identify("data/raw", data_check="error")
    assert str(caught.value).splitlines()[1:5] == [
        "  missing: a.csv",
        "  missing: sub/x.bin",
        "  missing: ü.txt",
        "  additional: .",
    ]


def test_data_behind_a_link(project, tmp_path):
    """A tracked path may be a link to a large disk: a volume's source is where it leads to."""
    elsewhere = tmp_path / "large-disk"
    (project.root / "data" / "raw").rename(elsewhere)
    (project.root / "data" / "raw").symlink_to(elsewhere)
    assert project.identify("data/raw", data_check="error") == (
        identity_of_raw(project, source=str(elsewhere)),
    )


def test_links_into_the_cache(project, caplog):
    """DVC may put links into its cache (cache.type=symlink): a container would miss the data."""
    with Repo(str(project.root), config={"cache": {"type": ["symlink"]}}) as repo:
        repo.checkout(relink=True)
    assert (project.root / "data" / "raw" / "a.csv").is_symlink()
    raw, train = project.identify("data")
    assert (raw.state, train.state) == ("matches", "matches")
    assert raw.note == (
        "links in data/raw lead out of what is mounted (3): a container sees what is there only if "
        "that is mounted too"
    )
    assert caplog.messages == [raw.note, train.note]


def test_dvc_2(project):
    """A repository that DVC 2 has written: line ends in text do not count."""
    file = project.root / "data" / "raw.dvc"
    file.write_text(f"outs:\n- md5: {RAW_OF_DVC_2}\n  size: 9\n  nfiles: 3\n  path: raw\n")
    project.commit()
    (found,) = project.identify("data/raw", data_check="error")
    assert (found.digest, found.state) == (f"md5-dos2unix:{RAW_OF_DVC_2}", "matches")

    (project.root / "data" / "raw" / "a.csv").write_bytes(b"a\nb\n")
    assert project.identify("data/raw", data_check="error")[0].state == "matches"
    (project.root / "data" / "raw" / "a.csv").write_bytes(b"a\nc\n")
    assert project.identify("data/raw")[0].state == "differs"


def test_pipeline(project, monkeypatch):
    """The outputs of `dvc repro`, which dvc.lock pins."""
    (project.root / "dvc.yaml").write_text(
        "stages:\n  prep:\n    wdir: data\n    cmd: mkdir ../out && cp train.csv ../out\n"
        "    deps: [train.csv]\n    outs: [../out]\n"
    )
    monkeypatch.chdir(project.root)
    with Repo(str(project.root)) as repo:
        repo.reproduce()
    project.commit()
    (found,) = project.identify("out", data_check="error")
    assert (found.name, found.tracked_by, found.state) == ("out", "dvc.lock", "matches")

    (project.root / "out" / "train.csv").write_text("changed")
    with pytest.raises(DataError, match=r"changed: train.csv\n`dvc pull` .* `dvc commit`"):
        project.identify("out", data_check="error")


def test_known_to_a_cloud_alone(project, caplog):
    """An etag cannot be computed here: it is recorded, and not compared."""
    (project.root / "data" / "train.csv.dvc").write_text("outs:\n- etag: abc\n  path: train.csv\n")
    project.commit()
    (found,) = project.identify("data/train.csv")
    assert (found.digest, found.state) == ("etag:abc", "not checked")
    assert "which only its cloud knows" in caplog.text


def test_without_dvc(project, monkeypatch, caplog):
    """What the commit pins is recorded; that nothing was compared is said once, or is an error."""
    monkeypatch.setitem(sys.modules, "dvc.repo", None)
    raw, train = project.identify("data")
    reason = "DVC is not installed here: pip install 'hydra-docker-launcher[dvc]'"
    assert raw == identity_of_raw(project, target="/0/raw", state="not checked", note=reason)
    assert train.state == "not checked"
    commit = project.git("rev-parse", "HEAD")[:12]
    message = f"data/raw was not compared with what commit {commit} pins: {reason}"
    assert caplog.messages == [message]

    with pytest.raises(DataError) as caught:
        project.identify("data/raw", data_check="error")
    assert str(caught.value) == (
        f"{message}\nhydra.launcher.data_check=warn runs without that comparison."
    )


def test_no_dvc_repository(project):
    """DVC's own words where it cannot do it, in one line."""
    shutil.rmtree(project.root / ".dvc")
    (found,) = project.identify("data/raw")
    assert found.state == "not checked"
    assert found.note.startswith("DVC cannot check it: you are not inside of a DVC repository")


def test_dvc_file_that_cannot_be_read(project, caplog):
    """It is named, and the others count."""
    (project.root / "broken.dvc").write_text("outs: [")
    project.commit()
    assert project.identify("data/raw")[0].state == "matches"
    assert caplog.messages == ["broken.dvc cannot be read as a DVC file: while parsing a flow node"]


def test_nothing_is_left_in_the_repository(project):
    """DVC's own folders apart, which git ignores."""
    project.identify("data")
    assert project.git("status", "--porcelain") == ""


# ---- what nothing tracks -------------------------------------------------------------------------


@pytest.fixture
def plain(commit_files, tmp_path) -> Project:
    """A repository without DVC, with a folder of data in it that git ignores."""
    commit_files({".gitignore": "data\n"})
    project = Project(tmp_path / "project")
    write_data(project.root)
    return project


def test_names_sizes_and_times(plain):
    """What no DVC file tracks has a fingerprint; it is the same as long as nobody touches it."""
    (found,) = first = plain.identify("data/raw")
    assert (found.kind, found.state, found.files, found.bytes) == ("stat", "recorded", 3, 9)
    assert found.digest.startswith("sha256:")
    assert plain.identify("data/raw") == first

    os.utime(plain.root / "data/raw/a.csv", ns=(1, 1))
    assert compare(first, plain.identify("data/raw")) == [
        "/0: data/raw has the same names and sizes, but other times"
    ]


def test_content(plain):
    """A hash of the content, if asked for: times do not count."""
    first = plain.identify("data/raw", data_identity="content")
    assert (first[0].kind, first[0].state) == ("content", "recorded")
    os.utime(plain.root / "data/raw/a.csv", ns=(1, 1))
    assert compare(first, plain.identify("data/raw", data_identity="content")) == []


def test_outside_of_the_repository(plain, tmp_path):
    """A folder elsewhere is called by its path."""
    (tmp_path / "elsewhere").mkdir()
    (found,) = plain.identify("../elsewhere")
    assert (found.name, found.files) == (str(tmp_path / "elsewhere"), 0)


@pytest.mark.parametrize(
    ("source", "options", "note"),
    [
        ("data", {"data_identity": "none"}, "hydra.launcher.data_identity=none"),
        ("/dev/null", {}, "neither a folder nor a file"),
    ],
)
def test_not_identified(plain, source, options, note):
    """The record says so."""
    (found,) = plain.identify(source, **options)
    assert (found.kind, found.state, found.digest, found.note) == (
        "none",
        "not identified",
        None,
        note,
    )
    assert found.as_dataset() is None


def test_named_volume(plain):
    """Nobody but a container can look into it."""
    volume = Volume("cache", "/cache", False, named=True)
    ((found,),) = plain.book.identify([volume_options(volume)])
    assert found == DataIdentity(
        name="cache",
        source="cache",
        target="/cache",
        kind="none",
        state="not identified",
        note="a named volume, which only containers can read",
    )


def test_links_that_lead_out(plain, caplog):
    """A container would not find what they lead to."""
    (plain.root / "data" / "raw" / "out").symlink_to("/etc/hostname")
    (found,) = plain.identify("data/raw")
    assert found.note == (
        "links in data/raw lead out of what is mounted (1): a container sees what is there only if "
        "that is mounted too"
    )
    assert caplog.messages == [found.note]


# ---- jobs and batches ----------------------------------------------------------------------------


def test_each_volume_is_looked_at_once(plain, monkeypatch):
    """Jobs and later batches share what is known; a new volume is looked at when it comes."""
    looked = []
    taken = _data.fingerprint

    def fingerprint(root, **options):
        looked.append(root.name)
        return taken(root, **options)

    monkeypatch.setattr(_data, "fingerprint", fingerprint)
    raw, sub = (
        Volume(str(plain.root / path), "/data", True, named=False)
        for path in ("data/raw", "data/raw/sub")
    )
    book = plain.book
    first = book.identify([volume_options(raw), volume_options(raw), volume_options()])
    second = book.identify([volume_options(sub, raw)])

    assert looked == ["raw", "sub"]
    assert first == (first[0], first[0], ())
    assert second[0][1] == first[0][0]


def test_no_volumes(plain, monkeypatch):
    """Without volumes, the commit is not searched for DVC files."""
    monkeypatch.setattr(_data._source, "files", None)
    assert plain.book.identify([volume_options()]) == ((),)


# ---- two runs ------------------------------------------------------------------------------------

PIN = DataIdentity("data/raw", "/p/data/raw", "/data", "dvc", "matches", digest=RAW, files=3)
STAT = DataIdentity("d", "/d", "/d", "stat", "recorded", "sha256:1", shape="sha256:s", files=1)
NAMED = DataIdentity("c", "c", "/c", "none", "not identified", note="a named volume")


@pytest.mark.parametrize(
    ("then", "now", "lines"),
    [
        ([PIN, STAT], [STAT, PIN], []),
        ([PIN], [replace(PIN, source="/elsewhere/data/raw")], []),
        ([PIN], [], ["/data: is not there (data/raw)"]),
        ([], [PIN], ["/data: was not there (data/raw)"]),
        (
            [PIN],
            [replace(PIN, state="differs", found="md5:a")],
            ["/data: data/raw is other data: md5:6344899fdba2 (3 files) then, md5:a (3 files) now"],
        ),
        (
            [PIN],
            [replace(PIN, state="not checked")],
            ["/data: data/raw: same pin, but not checked on disk"],
        ),
        ([NAMED], [NAMED], ["/c: cannot tell whether c is the same: a named volume"]),
        (
            [STAT],
            [replace(STAT, kind="content", digest="sha256:2", shape=None)],
            ["/d: cannot tell: d was identified by stat, now by content"],
        ),
        (
            [STAT],
            [replace(STAT, digest="sha256:2", shape="sha256:t", bytes=2048)],
            ["/d: d is other data: sha256:1 (1 files) then, sha256:2 (1 files, 2k) now"],
        ),
    ],
)
def test_compare(then, now, lines):
    """A line for each thing that is not the same, or that nobody can tell."""
    assert compare(then, now) == lines
