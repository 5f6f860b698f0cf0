"""Clone: how containers get at a remote, and what is refused before the first of them starts."""

from __future__ import annotations

import json
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hydra_plugins.hydra_docker_launcher import _clone, config
from hydra_plugins.hydra_docker_launcher._clone import Server, files, find_clone, reach
from hydra_plugins.hydra_docker_launcher._engine import Mount
from hydra_plugins.hydra_docker_launcher._errors import OptionError, SourceError
from hydra_plugins.hydra_docker_launcher._options import CloneOptions, parse
from hydra_plugins.hydra_docker_launcher._source import Source


@pytest.fixture
def project(tmp_path, commit_files):
    """A repository whose only commit its remote ``origin`` has, as the last push has noted."""
    commit = commit_files({"train.py": ""})
    root = tmp_path / "project"

    class Project:
        source = Source(root, commit, "main", None)
        key = tmp_path / "key"
        known_hosts = tmp_path / "known_hosts"

        @staticmethod
        def git(*arguments):
            done = subprocess.run(("git", "-C", root, *arguments), check=True, capture_output=True)
            return done.stdout.decode().strip()

        def at(self, url):
            self.git("remote", "add", "origin", url)
            self.git("update-ref", "refs/remotes/origin/main", commit)
            return self

        def find(self, remote="origin", options=None, environ=None, **job):
            jobs = (job_options(tmp_path, **job),)
            return find_clone(self.source, remote, options or CloneOptions(), jobs, environ or {})

        def refusal(self, *arguments, error=OptionError, **keywords):
            with pytest.raises(error) as caught:
                self.find(*arguments, **keywords)
            return str(caught.value)

        def ssh(self, server="example.org"):
            generate = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", self.key)
            subprocess.run(generate, check=True)
            public = self.key.with_suffix(".pub").read_text()
            self.known_hosts.write_text(f"{server} {public}")
            return CloneOptions(ssh_key=self.key, known_hosts=self.known_hosts)

    return Project()


def job_options(folder, **options):
    node = OmegaConf.to_container(OmegaConf.merge(config._open_schema(), options))
    return parse(node, environ={}, folder=folder).job


def bare(folder: Path) -> Path:
    subprocess.run(("git", "init", "--quiet", "--bare", folder), check=True)
    return folder


def content(clone, name, passwd=None):
    return dict(files(clone, passwd, 7, 8))[name].decode()


# ---- whether the remote has the commit -------------------------------------------------------


def test_commit_that_is_not_pushed(project, tmp_path):
    """It says what to do; a snapshot is on no branch until it is pushed by its id."""
    remote = bare(tmp_path / "remote.git")
    project.git("remote", "add", "origin", str(remote))
    assert project.refusal(error=SourceError) == (
        f"Commit {project.source.commit[:12]} is on no branch of origin ({remote}), so no "
        "container could clone it there.\nPush it first:\n  git push origin main\n"
        "Or use hydra.launcher.delivery=copy, which needs no remote."
    )
    project.source = replace(project.source, branch=None)
    assert f"git push origin {project.source.commit}:refs/heads/NAME\n" in project.refusal(
        error=SourceError
    )

    project.source = replace(project.source, branch="main", parent="1" * 40)
    assert f"git push origin {project.source.commit}:refs/heads/NAME\n" in project.refusal(
        error=SourceError
    )

    project.git("push", "--quiet", "origin", "main")
    assert project.find().refs == ("refs/heads/main",)


def test_remote_that_was_not_fetched(project, tmp_path):
    """Branches and tags that only the remote has, are asked for."""
    remote = bare(tmp_path / "remote.git")
    project.git("push", "--quiet", str(remote), "HEAD:refs/heads/other", "HEAD:refs/tags/v1")
    assert project.find(str(remote)).refs == ("refs/heads/other", "refs/tags/v1")


def test_remote_that_does_not_answer(project, tmp_path):
    project.git("remote", "add", "origin", str(tmp_path / "nowhere.git"))
    message = project.refusal(error=SourceError)
    assert message.startswith("hydra.launcher.remote=origin: it was asked for its branches, and")


def test_unknown_remote(project):
    project.at("https://example.org/a.git")
    assert project.refusal("upstream", error=SourceError) == (
        f"hydra.launcher.remote=upstream: {project.source.root} has no such remote; there are "
        "origin. Add it (git remote add upstream URL), or name another remote or a URL."
    )


# ---- how it is reached -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "path", "server", "container"),
    [
        (
            "https://example.org/team/a.git",
            "/team/a.git",
            Server("https", "example.org", "example.org", 443),
            "https://example.org/team/a.git",
        ),
        (
            "http://example.org:8080/a.git",
            "/a.git",
            Server("http", "example.org", "example.org", 8080),
            "http://example.org:8080/a.git",
        ),
        ("git://[::1]/a", "/a", Server("git", "::1", "::1", 9418), "git://[::1]/a"),
    ],
)
def test_servers(project, url, path, server, container):
    clone = project.at(url).find()
    assert (clone.path, clone.server, clone.url, clone.secrets) == (path, server, container, ())


@pytest.mark.parametrize(
    ("url", "port", "known", "container"),
    [
        ("git@example.org:team/a.git", 22, "example.org", "git@example.org:team/a.git"),
        ("ssh://git@example.org/a.git", 22, "example.org", "ssh://git@example.org/a.git"),
        (
            "ssh://git@example.org:2222/a.git",
            2222,
            "[example.org]:2222",
            "ssh://git@example.org/a.git",
        ),
    ],
)
def test_ssh(project, url, port, known, container):
    """The port and who is trusted stand in ssh_config; the key is a secret."""
    options = project.ssh(known)
    clone = project.at(url).find(options=options)
    assert clone.server == Server("ssh", "example.org", "example.org", port, "git", known)
    assert clone.url == container
    assert dict(clone.secrets) == {
        "ssh_key": project.key.read_bytes(),
        "known_hosts": project.known_hosts.read_bytes(),
    }
    assert "PRIVATE" not in repr(clone)
    lines = content(clone, "/hydra/ssh_config").splitlines()
    assert lines[:4] == [
        "Host example.org",
        "  HostName example.org",
        f"  Port {port}",
        f"  HostKeyAlias {known}",
    ]
    assert "  StrictHostKeyChecking yes" in lines
    assert "  BatchMode yes" in lines


def test_ssh_needs(project):
    """A key, one without a passphrase, and a server that is known."""
    project.at("git@example.org:team/a.git")
    assert project.refusal() == (
        "hydra.launcher.clone.ssh_key: git@example.org:team/a.git is reached by ssh, so the "
        "containers need a private key. Name its file (a deploy key that may only read is enough)."
    )
    options = project.ssh("another.org")
    assert project.refusal(options=options) == (
        f"hydra.launcher.clone.known_hosts: {project.known_hosts} has no key of the server "
        "example.org, and in a container nobody can be asked whether to trust it. Get its key, "
        "and compare it with the one that is published for it:\n"
        f"  ssh-keyscan example.org >> {project.known_hosts}"
    )
    protect = ("ssh-keygen", "-q", "-p", "-N", "secret", "-f", project.key)
    subprocess.run(protect, check=True, capture_output=True)
    assert project.refusal(options=options).startswith(
        f"hydra.launcher.clone.ssh_key={project.key}: ssh cannot use it as a private key without "
    )


def test_user_that_the_image_does_not_know(project):
    """He gets a line in /etc/passwd, without which ssh does not start."""
    options = project.ssh()
    clone = project.at("git@example.org:team/a.git").find(options=options)
    assert "/etc/passwd" not in dict(files(clone, None, 7, 8))
    assert content(clone, "/etc/passwd", passwd="root:x:0:0::/root:/bin/sh\n") == (
        "root:x:0:0::/root:/bin/sh\nhydra:x:7:8::/hydra/home:/bin/sh\n"
    )


@pytest.mark.parametrize(
    ("url", "token", "user", "password"),
    [
        ("https://example.org/a.git", "ghp_1", "x-access-token", "ghp_1"),
        ("https://ada@example.org/a.git", "ghp_1", "ada", "ghp_1"),
        ("https://ada:p%40ss@example.org/a.git", None, "ada", "p@ss"),
        ("https://ada:old@example.org/a.git", "ghp_1", "ada", "ghp_1"),
    ],
)
def test_token(project, url, token, user, password):
    """It is a secret, for the remote's server only; the URL that is shown and cloned has none."""
    options = CloneOptions(token="TOKEN") if token else CloneOptions()
    clone = project.at(url).find(options=options, environ={"TOKEN": "ghp_1"})
    secret = f"username={user}\npassword={password}\n".encode()
    assert clone.secrets == (("credential", secret),)
    assert clone.url == clone.shown == "https://example.org/a.git"
    git_config = content(clone, "/hydra/git/.gitconfig")
    assert '[credential "https://example.org"]\n' in git_config
    assert password not in repr(clone)
    assert not any(password.encode() in text for _, text in files(clone, None, 7, 8)[1:])


def test_server_on_this_machine(project):
    """What listens on the loopback address alone is reached through a relay."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        clone = project.at(f"http://localhost:{port}/a.git").find()
        jobs = (job_options(Path()),)
        reached, relay = reach(clone, jobs, "127.0.0.2")
        assert relay is not None
        address, own = relay.address
        assert reached.url == f"http://{address}:{own}/a.git"
        assert json.loads(content(reached, "/hydra/clone.json")) == {
            "url": reached.url,
            "shown": f"http://localhost:{port}/a.git",
            "commit": project.source.commit,
            "root": str(project.source.root),
            "branches": ["refs/heads/main"],
        }
        relay.close()
        assert reach(clone, (replace(jobs[0], network_mode="host"),), "127.0.0.2") == (clone, None)


# ---- a remote on this machine ----------------------------------------------------------------


@pytest.mark.parametrize("form", ["{}", "file://{}", "../remotes/a b.git"])
def test_folder(project, tmp_path, form):
    """It is mounted, read-only, at its own path."""
    (tmp_path / "remotes").mkdir()
    remote = bare(tmp_path / "remotes" / "a b.git")
    clone = project.at(form.format(remote)).find()
    assert clone.mounts == (Mount(str(remote), str(remote), read_only=True),)
    assert clone.url == str(remote)
    assert "\tallow = always\n" in content(clone, "/hydra/git/.gitconfig")


def test_folder_with_a_working_tree(project, tmp_path):
    """Containers see its commits, not its working tree."""
    subprocess.run(("git", "init", "--quiet", tmp_path / "other"), check=True)
    git_folder = str(tmp_path / "other" / ".git")
    clone = project.at(str(tmp_path / "other")).find()
    assert clone.mounts == (Mount(git_folder, git_folder, read_only=True),)


def test_submodules_beside_it(project, commit_files, tmp_path):
    """What a relative URL in .gitmodules means is mounted as well."""
    remote, library = bare(tmp_path / "a.git"), bare(tmp_path / "lib.git")
    modules = '[submodule "lib"]\n\tpath = lib\n\turl = ../lib.git\n\turl = ../not/here\n'
    commit = commit_files({".gitmodules": modules})
    project.source = replace(project.source, commit=commit)
    project.at(str(remote)).git("update-ref", "refs/remotes/origin/main", commit)
    assert [mount.source for mount in project.find().mounts] == [str(remote), str(library)]


def test_impossible(project, tmp_path):
    """What containers cannot do is refused before they start."""
    project.at("https://example.org/a.git")
    assert project.refusal(read_only=True).startswith("hydra.launcher.read_only=true: ")
    assert project.refusal(network_mode="none") == (
        "hydra.launcher.network_mode=none: a container without network cannot clone "
        "https://example.org/a.git. Use hydra.launcher.delivery=copy."
    )
    for url, message in (
        ("s3://bucket/a", f"containers cannot clone s3://bucket/a. Valid is: {_clone.VALID}."),
        (str(tmp_path / "none"), f"there is no {tmp_path / 'none'} on this host"),
        (str(tmp_path), f"{tmp_path} is the repository that is launched from, or above it: "),
    ):
        project.git("remote", "set-url", "origin", url)
        assert project.refusal().startswith(f"hydra.launcher.remote: {message}")
