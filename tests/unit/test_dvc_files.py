"""DVC files: what the formats of DVC 1 to 3 pin, read without DVC."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher._dvc_files import (
    Tracked,
    folder_digest,
    is_dvc_file,
    tracked,
)

ROOT = Path("/project")
A, B = "59b0d7772f0561efb95518f3cb8abc60", "9dd4e461268c8034f5c8564e155c67a6"
RAW = "6344899fdba26357fc73c30277a12c0a.dir"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data/raw.dvc", True),
        ("dvc.lock", True),
        ("pipelines/dvc.lock", True),
        ("dvc.yaml", True),
        (".dvc", False),
        (".dvc/config", False),
        ("raw.dvc/notes", False),
        ("train.py", False),
    ],
)
def test_is_dvc_file(path, expected):
    """By name, as DVC itself finds them."""
    assert is_dvc_file(path) is expected


def test_dvc_3():
    """``hash: md5`` is a hash of the bytes; a folder's hash ends in .dir."""
    text = f"outs:\n- md5: {RAW}\n  size: 9\n  nfiles: 3\n  hash: md5\n  path: raw\n"
    expected = Tracked(Path("/project/data/raw"), "data/raw.dvc", "md5", RAW, 9, 3)
    assert tracked({"data/raw.dvc": text}, ROOT) == ((expected,), ())
    assert expected.is_folder


def test_dvc_2():
    """Without ``hash``, line ends in text did not count."""
    text = f"outs:\n- md5: {A}\n  size: 5\n  path: train.csv\n"
    expected = Tracked(
        Path("/project/data/train.csv"), "data/train.csv.dvc", "md5-dos2unix", A, 5, None
    )
    assert tracked({"data/train.csv.dvc": text}, ROOT) == ((expected,), ())
    assert not expected.is_folder


def test_dvc_1():
    """A working folder, and several outputs."""
    text = (
        f"md5: {B}\ncmd: ./get.sh\nwdir: ../data\n"
        f"outs:\n- md5: {A}\n  path: a.csv\n  cache: true\n  metric: false\n"
        f"- md5: {B}\n  path: b.csv\n- path: not-there-yet\n"
    )
    found, problems = tracked({"stages/get.dvc": text}, ROOT)
    assert [(item.path, item.digest) for item in found] == [
        (Path("/project/data/a.csv"), A),
        (Path("/project/data/b.csv"), B),
    ]
    assert problems == ()


LOCK = f"""\
schema: '2.0'
stages:
  prep@small:
    cmd: prep
    deps:
    - path: train.csv
      hash: md5
      md5: {B}
    outs:
    - path: ../out
      hash: md5
      md5: {RAW}
      size: 9
      nfiles: 3
  fit:
    cmd: fit
    outs:
    - path: model.bin
      md5: {A}
"""


def test_lock():
    """Outputs of a pipeline's stages; the folder that a stage works in stands in dvc.yaml."""
    stages = "stages:\n  prep:\n    foreach: [small]\n    do: {wdir: data, cmd: prep}\n"
    found, problems = tracked({"ml/dvc.lock": LOCK, "ml/dvc.yaml": stages}, ROOT)
    assert found == (
        Tracked(Path("/project/ml/model.bin"), "ml/dvc.lock", "md5-dos2unix", A, None, None),
        Tracked(Path("/project/ml/out"), "ml/dvc.lock", "md5", RAW, 9, 3),
    )
    assert problems == ()


def test_lock_of_dvc_1():
    """Stages at the top."""
    text = f"fit:\n  cmd: fit\n  outs:\n  - path: model.bin\n    md5: {A}\n"
    found, _ = tracked({"dvc.lock": text}, ROOT)
    assert [(item.path, item.digest) for item in found] == [(Path("/project/model.bin"), A)]


def test_listing_in_the_file():
    """Data of a versioned cloud storage is listed file by file; the hash is that of the list."""
    text = (
        "outs:\n- path: raw\n  hash: md5\n  files:\n"
        f"  - relpath: sub/x.bin\n    md5: {B}\n    size: 1\n    cloud: {{s3: {{etag: e}}}}\n"
        f"  - relpath: a.csv\n    md5: {A}\n    size: 6\n"
    )
    (found,), _ = tracked({"raw.dvc": text}, ROOT)
    assert found == Tracked(
        Path("/project/raw"),
        "raw.dvc",
        "md5",
        folder_digest({"a.csv": A, "sub/x.bin": B}),
        7,
        2,
        (("a.csv", A), ("sub/x.bin", B)),
    )


@pytest.mark.parametrize(
    ("how", "second", "kind"),
    [
        ("hash: md5", f"md5: {B}", "md5"),
        ("desc: x", f"md5: {B}", "md5-dos2unix"),
        ("hash: md5", "etag: e", "etag"),
        ("hash: md5", "cloud: {s3: {version_id: v}}", "version_id"),
    ],
)
def test_kind_of_a_listing(how, second, kind):
    """A listing can be checked here if there is an md5 of every file."""
    text = (
        f"outs:\n- path: raw\n  {how}\n  files:\n"
        f"  - {{relpath: a.csv, md5: {A}}}\n  - {{relpath: b.csv, {second}}}\n"
    )
    (found,), problems = tracked({"raw.dvc": text}, ROOT)
    assert (found.hash, problems) == (kind, ())


def test_known_to_a_cloud_alone():
    """Where only an etag is pinned, that is what is recorded; what is on no disk is left out."""
    text = (
        "outs:\n- path: x.bin\n  cloud: {s3: {etag: abc, version_id: v1}}\n"
        "- path: s3://bucket/y\n  etag: def\n"
    )
    (found,), _ = tracked({"x.dvc": text}, ROOT)
    assert (found.path, found.hash, found.digest) == (Path("/project/x.bin"), "etag", "abc")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("outs: [", "while parsing a flow node"),
        ("- a\n", "it is no mapping"),
        ("outs: 3\n", "'int' object is not iterable"),
        ("outs:\n- md5: abc\n", "'path'"),
    ],
)
def test_broken_file(text, reason):
    """It is named, and the others count."""
    good = f"outs:\n- md5: {A}\n  path: a.csv\n"
    found, problems = tracked({"b.dvc": text, "a.csv.dvc": good}, ROOT)
    assert [item.file for item in found] == ["a.csv.dvc"]
    assert problems == (f"b.dvc cannot be read as a DVC file: {reason}",)


def test_working_folder_that_is_computed():
    """dvc.yaml may have it from parameters; which path is meant is then not known."""
    stages = "stages:\n  prep: {wdir: '${folder}/x', cmd: prep}\n"
    found, problems = tracked({"dvc.lock": LOCK, "dvc.yaml": stages}, ROOT)
    assert [item.path for item in found] == [Path("/project/model.bin")]
    assert problems == ("dvc.lock pins /project/${folder}/out, whose working folder is computed",)


def test_folder_digest():
    """What the real DVC wrote for a folder with these files (in its order: by code point)."""
    hashes = {"ü.txt": "c03410a5204b21cd8229ff754688d743", "a.csv": A, "sub/x.bin": B}
    assert folder_digest(hashes) == RAW
