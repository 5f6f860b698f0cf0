"""Which commit, or which installed package, each source of configs belongs to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hydra_plugins.hydra_docker_launcher import _config_sources
from hydra_plugins.hydra_docker_launcher._config_sources import (
    Checkout,
    ConfigSource,
    Distribution,
    describe,
)


def config_of(*sources: tuple[str, str]):
    """Return a sweep's config with sources, given as schema and path."""
    listed = [
        {"provider": f"p{number}", "schema": schema, "path": str(path)}
        for number, (schema, path) in enumerate(sources)
    ]
    return OmegaConf.create({"hydra": {"runtime": {"config_sources": listed}}})


def git(root: Path, *arguments: str) -> str:
    command = ("git", "-C", str(root), *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def project(commit_files, tmp_path):
    """A repository with configs in ``conf``; its id is ``project.commit``."""
    commit_files({"conf/config.yaml": "a: 1", "conf/db/x.yaml": "", "train.py": ""})
    return tmp_path / "project"


def test_clean(project):
    """A folder of a repository that is as committed; what is elsewhere in there does not count."""
    git(project, "remote", "add", "origin", "https://token@example.org/team/conf.git")
    (project / "train.py").write_text("edited")
    (project / "conf" / "notes.txt").write_text("no config")
    source = ConfigSource(
        "p0",
        "file",
        str(project / "conf"),
        Checkout(
            project, "https://example.org/team/conf.git", git(project, "rev-parse", "HEAD"), ()
        ),
    )
    assert describe(config_of(("file", project / "conf"), ("structured", ""))) == (source,)


def test_dirty(project):
    """Edited, new, renamed and deleted configs are named, by their paths in the repository."""
    (project / "conf/config.yaml").write_text("a: 2")
    (project / "conf/db/new.yaml").write_text("")
    git(project, "mv", "conf/db/x.yaml", "conf/db/y.yaml")
    (source,) = describe(config_of(("file", project / "conf")))
    changes = ("conf/config.yaml", "conf/db/new.yaml", "conf/db/x.yaml", "conf/db/y.yaml")
    assert source.checkout == Checkout(project, None, git(project, "rev-parse", "HEAD"), changes)


def test_whole_repository_and_links(project, tmp_path):
    """The source can be the repository's root; a link to a folder is looked up where it leads."""
    (tmp_path / "link").symlink_to(project / "conf")
    head = git(project, "rev-parse", "HEAD")
    found = describe(config_of(("file", project), ("file", tmp_path / "link")))
    assert [source.checkout for source in found] == [Checkout(project, None, head, ())] * 2


def test_no_commit_tells_what_it_is(project, tmp_path):
    """No repository, an ignored folder, a missing one: nothing is said, and nothing is refused."""
    write(project / ".gitignore", "local\n")
    write(project / "local/config.yaml")
    write(tmp_path / "plain/config.yaml")
    folders = (project / "local", tmp_path / "plain", project / "nowhere")
    found = describe(config_of(*(("file", folder) for folder in folders), ("pkg", "no.such.thing")))
    assert {(source.checkout, source.distribution, source.problem) for source in found} == {
        (None, None, None)
    }


def test_git_does_not_tell(project, tmp_path, monkeypatch):
    """Where git refuses to tell, or there is no commit yet, that is written down."""
    git(tmp_path, "init", "--quiet", "fresh")
    write(tmp_path / "fresh/conf/config.yaml")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    foreign, fresh = project / "conf", tmp_path / "fresh/conf"
    (refused,) = describe(config_of(("file", foreign)))
    monkeypatch.delenv("GIT_TEST_ASSUME_DIFFERENT_OWNER")
    (empty,) = describe(config_of(("file", fresh)))
    assert refused.problem == (
        f"{foreign} is in a repository of another user, and git refuses to read it. If you trust "
        "that user, run the command that git names here:"
    )
    assert empty.problem == f"{tmp_path / 'fresh'} has no commit yet."


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages, on sys.path."""
    folder = tmp_path / "venv/lib/site-packages"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("team_")]:
        del sys.modules[name]


def install(site: Path, name: str, version: str, **files: str) -> None:
    info = site / f"{name}-{version}.dist-info"
    write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    for file, text in files.items():
        write(info / file.replace("_json", ".json").replace("_txt", ".txt"), text)


def test_installed_package(site, commit_files, tmp_path):
    """What pip has installed is told by its RECORD, also inside a repository's own venv."""
    write(site / "team_conf/__init__.py")
    write(site / "team_conf/conf/config.yaml")
    write(site / "team_other/conf/config.yaml")
    install(
        site, "team-conf", "1.2", RECORD="team_conf/__init__.py,,\nteam_conf/conf/config.yaml,,\n"
    )
    install(site, "team-other", "3.4", RECORD="team_other/conf/config.yaml,,\n")
    found = describe(config_of(("pkg", "team_conf.conf"), ("pkg", "team_other.conf")))
    assert found == (
        ConfigSource("p0", "pkg", "team_conf.conf", None, Distribution("team-conf", "1.2", False)),
        ConfigSource(
            "p1", "pkg", "team_other.conf", None, Distribution("team-other", "3.4", False)
        ),
    )


def test_package_without_record(site):
    """A system's own packages list their modules instead."""
    write(site / "team_conf/conf/config.yaml")
    info = site / "team_conf-1.0.egg-info"
    write(info / "PKG-INFO", "Metadata-Version: 2.1\nName: team-conf\nVersion: 1.0\n")
    write(info / "top_level.txt", "team_conf\n")
    (source,) = describe(config_of(("pkg", "team_conf.conf")))
    assert source.distribution == Distribution("team-conf", "1.0", False)


def test_editable_package(site, project, monkeypatch):
    """An editable install counts as its checkout as well, which tells the commit."""
    write(project / "team_conf/conf/config.yaml")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "conf")
    write(project / "team_conf/conf/config.yaml", "edited: 1")
    origin = {"url": project.as_uri(), "dir_info": {"editable": True}}
    install(
        site, "team-conf", "2.0", RECORD="__editable__.pth,,\n", direct_url_json=json.dumps(origin)
    )
    monkeypatch.syspath_prepend(str(project))
    (source,) = describe(config_of(("pkg", "team_conf.conf")))
    assert source == ConfigSource(
        "p0",
        "pkg",
        "team_conf.conf",
        Checkout(project, None, git(project, "rev-parse", "HEAD"), ("team_conf/conf/config.yaml",)),
        Distribution("team-conf", "2.0", True),
    )


def test_develop_install(project, monkeypatch):
    """An .egg-info beside the sources means the same."""
    write(project / "team_conf/conf/config.yaml")
    info = project / "team_conf.egg-info"
    write(info / "PKG-INFO", "Metadata-Version: 2.1\nName: team-conf\nVersion: 0.1\n")
    write(info / "top_level.txt", "team_conf\n")
    monkeypatch.syspath_prepend(str(project))
    (source,) = describe(config_of(("pkg", "team_conf.conf")))
    assert source.distribution == Distribution("team-conf", "0.1", True)
    assert source.checkout.changes == ("team_conf/conf/config.yaml",)


def test_hydra_itself():
    """Hydra's own configs came with hydra-core."""
    (source,) = describe(config_of(("pkg", "hydra.conf")))
    assert source.distribution.name == "hydra-core"


def test_git_is_asked_once_a_repository(project, monkeypatch):
    """Of three sources in one repository, only what differs between them is asked three times."""
    asked = []
    run = _config_sources.Repository.run

    def counted(self, command, *arguments, **options):
        asked.append(command)
        return run(self, command, *arguments, **options)

    monkeypatch.setattr(_config_sources.Repository, "run", counted)
    describe(config_of(*[("file", project / "conf")] * 3))
    assert {name: asked.count(name) for name in ("remote", "status")} == {"remote": 1, "status": 3}
