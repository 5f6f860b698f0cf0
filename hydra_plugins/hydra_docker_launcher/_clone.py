"""Clone: what a container needs to clone the commit from a remote by itself.

What is secret goes to the container as files (``Clone.secrets``), which are written beside each job
and removed with it. The rest (``files``) is part of the image's layer, and anyone may read it.
"""

from __future__ import annotations

import json
import posixpath
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from . import _paths, _source
from ._engine import Mount
from ._errors import OptionError, SourceError
from ._options import CloneOptions, JobOptions
from ._relay import Relay, reachable_address
from ._source import Source

PORTS = {"ssh": 22, "http": 80, "https": 443, "git": 9418}
VALID = "git@host:path, ssh://, https://, http://, git://, file://, or a path on this host"
#: Of this host; where `known_hosts` is not set.
KNOWN_HOSTS = (Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
#: A token's user, where the URL names none. GitHub and GitLab take any name.
TOKEN_USER = "x-access-token"  # noqa: S105  (a name)

Files = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Server:
    """Where a remote listens. ``host`` is as the URL has it; ``name`` as ``known_hosts`` has it."""

    scheme: str
    host: str
    address: str
    port: int
    user: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Clone:
    """A remote that has the commit. ``path`` is what its URL has after the server.

    ``refs`` are branches or tags of the remote that have the commit, ``mounts`` the folders of a
    remote on this machine.
    """

    source: Source
    shown: str
    path: str
    server: Server | None
    refs: tuple[str, ...]
    mounts: tuple[Mount, ...] = ()
    secrets: Files = field(default=(), repr=False)

    @property
    def ssh(self) -> bool:
        return self.server is not None and self.server.scheme == "ssh"

    @property
    def url(self) -> str:
        """The URL for the container, with no user (but for ssh) and no password in it."""
        if self.server is None:
            return self.path
        if self.server.scheme == "ssh":  # the port is in ssh_config
            user = f"{self.server.user}@" if self.server.user else ""
            host = f"{user}{_bracketed(self.server.host)}"
            # A path that is relative to the user's home on the server can only be written so.
            return (
                f"ssh://{host}{self.path}" if self.path.startswith("/") else f"{host}:{self.path}"
            )
        return f"{_origin(self.server)}{self.path}"


def find_clone(
    source: Source,
    remote: str,
    options: CloneOptions,
    jobs: Sequence[JobOptions],
    environ: Mapping[str, str],
) -> Clone:
    """Return how containers clone the commit from a remote (a name or a URL).

    Raises ``SourceError`` where the remote does not have the commit, and ``OptionError`` where
    containers could not reach it, or could not show who they are. Starts nothing.
    """
    _require_place(jobs)
    url = _source.remote_address(source, remote)
    shown = _source.without_password(url)
    refs = _source.remote_refs_with(source, remote)
    if not refs:
        raise SourceError(_not_pushed(source, remote, shown))
    server, path = _parse(url, shown)
    clone = Clone(source, shown, path, server, refs)
    if server is None:
        return replace(clone, mounts=tuple(_mounts(source, path)))
    if any(job.network_mode == "none" for job in jobs):
        raise OptionError(
            f"hydra.launcher.network_mode=none: a container without network cannot clone {shown}. "
            "Use hydra.launcher.delivery=copy."
        )
    if server.scheme == "ssh":
        server, secrets = _ssh_access(server, options, shown)
        return replace(clone, server=server, secrets=secrets)
    return replace(clone, secrets=_http_access(url, server, options, environ))


def reach(
    clone: Clone, jobs: Sequence[JobOptions], gateway: str | None
) -> tuple[Clone, Relay | None]:
    """Return the clone with the address at which containers find the server.

    It differs where the server listens on this machine's loopback address. The caller closes the
    relay, if one is needed, after the sweep.
    """
    server = clone.server
    if server is None or all(job.network_mode == "host" for job in jobs):
        return clone, None
    address, port, relay = reachable_address(server.address, server.port, gateway)
    return replace(clone, server=replace(server, address=address, port=port)), relay


def files(clone: Clone, passwd: str | None, uid: int, gid: int) -> Files:
    """Return the launcher's own files in the layer, by their absolute paths.

    ``passwd`` is the image's /etc/passwd where it has no line for ``uid``: ssh wants one.
    """
    request = {
        "url": clone.url,
        "shown": clone.shown,
        "commit": clone.source.commit,
        "root": str(clone.source.root),
        "branches": list(clone.refs),
    }
    cloning = Path(__file__).with_name("_cloning.py").read_bytes()
    found = [
        (str(_paths.CLONING), cloning),
        (str(_paths.CLONE), json.dumps(request).encode()),
        (str(_paths.GIT_CONFIG), _git_config(clone).encode()),
    ]
    if clone.ssh:
        found.append((str(_paths.SSH_CONFIG), _ssh_config(clone.server).encode()))
        if passwd is not None:
            lines = f"{passwd.rstrip()}\n" if passwd.strip() else ""
            line = f"hydra:x:{uid}:{gid}::{_paths.HOME}:/bin/sh\n"
            found.append(("/etc/passwd", f"{lines}{line}".encode()))
    return tuple(found)


# ---- the remote ------------------------------------------------------------------------------


def _require_place(jobs: Sequence[JobOptions]) -> None:
    if any(job.read_only for job in jobs):
        raise OptionError(
            "hydra.launcher.read_only=true: a container that cannot write to its own file system "
            "cannot clone into it. Use hydra.launcher.delivery=copy or image."
        )


def _not_pushed(source: Source, remote: str, shown: str) -> str:
    branch = None if source.dirty else source.branch
    what = branch or f"{source.commit}:refs/heads/NAME"
    return (
        f"Commit {source.commit[:12]} is on no branch of {remote} ({shown}), so no container could "
        f"clone it there.\nPush it first:\n  git push {remote} {what}\n"
        "Or use hydra.launcher.delivery=copy, which needs no remote."
    )


def _parse(url: str, shown: str) -> tuple[Server | None, str]:
    """Return the server and the path on it; no server is this machine's file system."""
    if "://" not in url:
        scp = re.match(r"(?:([^/@]+)@)?(\[[^]]+\]|[^:/]+):(.*)", url)
        if scp is None:
            return None, url
        host = scp[2].strip("[]")
        return Server("ssh", host, host, PORTS["ssh"], scp[1]), scp[3]
    parts = urlsplit(url)
    scheme = {"git+ssh": "ssh", "ssh+git": "ssh"}.get(parts.scheme, parts.scheme)
    if scheme == "file":
        return None, unquote(parts.path)
    if scheme not in PORTS or not parts.hostname:
        raise OptionError(
            f"hydra.launcher.remote: containers cannot clone {shown}. Valid is: {VALID}."
        )
    rest = url.split("://", 1)[1]
    path = rest[len(rest.split("/", 1)[0]) :]
    port = parts.port or PORTS[scheme]
    return Server(scheme, parts.hostname, parts.hostname, port, parts.username), path


def _mounts(source: Source, path: str) -> Iterator[Mount]:
    """Yield the folders of a remote on this machine, and of its submodules beside it."""
    for folder in (path, *_local_submodules(source, path)):
        place = Path(folder)
        if not place.exists():
            raise OptionError(f"hydra.launcher.remote: there is no {place} on this host")
        if place == source.root or place in source.root.parents:
            raise OptionError(
                f"hydra.launcher.remote: {place} is the repository that is launched from, or above "
                "it: a container cannot clone it into its own place. Use "
                "hydra.launcher.delivery=copy, or a remote elsewhere."
            )
        inner = place / ".git"
        shown = str(inner if inner.is_dir() else place)
        yield Mount(shown, shown, read_only=True)


def _local_submodules(source: Source, remote: str) -> list[str]:
    text = _source.read_text(source, ".gitmodules") or ""
    urls = re.findall(r"^\s*url\s*=\s*\"?(.*?)\"?\s*$", text, re.MULTILINE)
    local = [
        posixpath.normpath(posixpath.join(remote, url.removeprefix("file://")))
        for url in urls
        if url.startswith(("./", "../", "/", "file://"))
    ]
    return [path for path in dict.fromkeys(local) if Path(path).exists()]


# ---- who asks --------------------------------------------------------------------------------


def _http_access(
    url: str, server: Server, options: CloneOptions, environ: Mapping[str, str]
) -> Files:
    """Return user and password: the token, else what the URL in .git/config has."""
    parts = urlsplit(url)
    password = environ[options.token] if options.token else unquote(parts.password or "")
    user = unquote(parts.username or "")
    if server.scheme == "git" or not (user or password):
        return ()
    credential = f"username={user or TOKEN_USER}\npassword={password.strip()}\n"
    return ((_paths.CREDENTIAL.name, credential.encode()),)


def secrets_in(clone: Clone) -> tuple[str, ...]:
    """Return the secrets that a container is given to clone: a password, a private key."""
    found = []
    for name, content in clone.secrets:
        text = content.decode(errors="replace")
        if name == _paths.CREDENTIAL.name:
            found.append(text.partition("\npassword=")[2].strip())
        elif name == _paths.SSH_KEY.name:
            found.append(text)
    return tuple(found)


def _ssh_access(server: Server, options: CloneOptions, shown: str) -> tuple[Server, Files]:
    """Return the server as this host's ssh finds it, the private key and the known servers."""
    if options.ssh_key is None:
        raise OptionError(
            f"hydra.launcher.clone.ssh_key: {shown} is reached by ssh, so the containers need a "
            "private key. Name its file (a deploy key that may only read is enough)."
        )
    _require_plain_key(options.ssh_key)
    settings = _ssh_settings(server)
    address = settings.get("hostname", server.host)
    port = int(settings.get("port", server.port))
    plain = address if port == PORTS["ssh"] else f"[{address}]:{port}"
    name = settings.get("hostkeyalias", plain)
    home = tuple(path for path in map(Path.expanduser, KNOWN_HOSTS) if path.is_file())
    lists = (options.known_hosts,) if options.known_hosts else home
    if not any(_knows(file, name) for file in lists):
        place = options.known_hosts or KNOWN_HOSTS[0]
        at = "" if port == PORTS["ssh"] else f"-p {port} "
        raise OptionError(
            f"hydra.launcher.clone.known_hosts: {place} has no key of the server {name}, and in a "
            "container nobody can be asked whether to trust it. Get its key, and compare it with "
            f"the one that is published for it:\n  ssh-keyscan {at}{address} >> {place}"
        )
    found = replace(
        server, address=address, port=port, name=name, user=server.user or settings.get("user")
    )
    known = b"".join(file.read_bytes().rstrip(b"\n") + b"\n" for file in lists)
    secrets = (
        (_paths.SSH_KEY.name, options.ssh_key.read_bytes().rstrip() + b"\n"),
        (_paths.KNOWN_HOSTS.name, known),
    )
    return found, secrets


def _require_plain_key(file: Path) -> None:
    done = _ssh_tool("ssh-keygen", "-y", "-P", "", "-f", str(file))
    if done is not None and done.returncode != 0:
        raise OptionError(
            f"hydra.launcher.clone.ssh_key={file}: ssh cannot use it as a private key without a "
            f"passphrase:\n{done.stderr.strip()}"
        )


def _knows(file: Path, server: str) -> bool:
    done = _ssh_tool("ssh-keygen", "-F", server, "-f", str(file))
    return done is None or done.returncode == 0


def _ssh_settings(server: Server) -> dict[str, str]:
    """Return what this host's ssh configuration says of the server, by lower-case names."""
    port = () if server.port == PORTS["ssh"] else ("-p", str(server.port))
    user = ("-l", server.user) if server.user else ()
    done = _ssh_tool("ssh", "-G", *port, *user, "--", server.host)
    if done is None or done.returncode != 0:
        return {}
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def _ssh_tool(*command: str) -> subprocess.CompletedProcess[str] | None:
    """Run a program of OpenSSH; None where it is not installed."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return None


# ---- files that anyone may read --------------------------------------------------------------


def _git_config(clone: Clone) -> str:
    lines = [
        "[safe]",
        "\tdirectory = *",
        '[protocol "file"]',
        f"\tallow = {'always' if clone.server is None else 'never'}",
        "[advice]",
        "\tdetachedHead = false",
        "[gc]",
        "\tauto = 0",
        "[http]",
        "\tlowSpeedLimit = 1",
        "\tlowSpeedTime = 120",
        '[filter "lfs"]',
        "\tclean = git-lfs clean -- %f",
        "\tsmudge = git-lfs smudge -- %f",
        "\tprocess = git-lfs filter-process",
        "\trequired = true",
        "[credential]",
        "\thelper =",
    ]
    if clone.server is not None and any(n == _paths.CREDENTIAL.name for n, _ in clone.secrets):
        lines += [
            f'[credential "{_origin(clone.server)}"]',
            f'\thelper = "!f() {{ test \\"$1\\" = get && cat {_paths.CREDENTIAL}; }}; f"',
        ]
    return "\n".join(lines) + "\n"


def _ssh_config(server: Server | None) -> str:
    lines = []
    if server is not None:
        lines += [f"Host {server.host}", f"  HostName {server.address}", f"  Port {server.port}"]
        lines += [f"  HostKeyAlias {server.name}"]
    lines += [
        "Host *",
        "  BatchMode yes",
        "  IdentityAgent none",
        "  IdentitiesOnly yes",
        f"  IdentityFile {_paths.SSH_KEY}",
        "  StrictHostKeyChecking yes",
        f"  UserKnownHostsFile {_paths.KNOWN_HOSTS}",
        "  GlobalKnownHostsFile /dev/null",
        "  UpdateHostKeys no",
        "  ConnectTimeout 30",
        "  ServerAliveInterval 30",
        "  LogLevel ERROR",
    ]
    return "\n".join(lines) + "\n"


def _origin(server: Server) -> str:
    port = "" if server.port == PORTS[server.scheme] else f":{server.port}"
    return f"{server.scheme}://{_bracketed(server.address)}{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
