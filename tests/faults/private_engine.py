"""A Docker engine of the tests' own, next to the one that runs already, to be stopped and killed.

It has its own data root, exec root, socket, pidfile and containerd, and a bridge of its own: with
`--bridge=none` dockerd removes docker0, which another engine may use. It sets no rules of a
firewall: its containers have the host's network or none. Only processes that belong to it are ever
signalled: those that name its exec root in their command line, and those of its containers, which
all run in a cgroup of its own.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import docker
from docker.errors import DockerException
from sweep_command import wait_for

CGROUPS = Path("/sys/fs/cgroup")
SHIM_SOCKETS = Path("/run/containerd/s")
PR_SET_PDEATHSIG = 1  # of the kernel's linux/prctl.h
PATIENCE = 60.0  # seconds, of a start or a stop


def missing() -> str | None:
    """Return why no engine can be started here, or None."""
    if os.uname().sysname != "Linux" or os.geteuid() != 0:
        return "an engine of their own needs root on Linux"
    if _dockerd() is None:
        return "an engine of their own needs dockerd on this machine (Debian: docker.io)"
    if shutil.which("ip") is None:
        return "an engine of their own needs the command ip (Debian: iproute2)"
    return None


class PrivateEngine:
    """One engine, which may be started and ended in any way many times on the same data.

    ``folder`` holds its data and its log.
    """

    def __init__(self, folder: Path) -> None:
        # A socket's path may have about 100 characters, so it does not stand below the folder.
        self.run = Path(tempfile.mkdtemp(prefix="hydra-faults-", dir="/run"))
        self.name = self.run.name
        self.folder = folder
        self.data = folder / "data"
        self.exec_root = self.run / "exec"
        self.socket = self.run / "docker.sock"
        self.url = f"unix://{self.socket}"
        self.log = folder / "dockerd.log"
        #: Instead of the machine's own, /etc/docker/daemon.json.
        self.configuration = folder / "daemon.json"
        self.bridge = f"hf-{self.name[-8:]}"  # a device's name has at most 15 characters
        self.live_restore = False
        self._daemon: subprocess.Popen[bytes] | None = None
        self._shim_sockets: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True)

    # ---- its life --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the engine on its data, and wait until it answers."""
        self._configure()
        if not Path("/sys/class/net", self.bridge).exists():
            subprocess.run(("ip", "link", "add", self.bridge, "type", "bridge"), check=True)
        with self.log.open("ab") as log:
            self._daemon = subprocess.Popen(
                (
                    _dockerd() or "dockerd",
                    f"--config-file={self.configuration}",
                    f"--host={self.url}",
                    f"--data-root={self.data}",
                    f"--exec-root={self.exec_root}",
                    f"--pidfile={self.run / 'dockerd.pid'}",
                    f"--cgroup-parent=/{self.name}",
                    "--exec-opt=native.cgroupdriver=cgroupfs",
                    f"--bridge={self.bridge}",
                    "--iptables=false",
                    "--ip6tables=false",
                    "--ip-forward=false",
                    "--ip-masq=false",
                    "--userland-proxy=false",
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  (no lock is held by another thread)
            )

        def answers() -> bool:
            assert self._daemon is not None
            assert self._daemon.poll() is None, f"dockerd has ended:\n{self.last_words()}"
            return self.answers()

        wait_for(answers, "the engine answers", PATIENCE)

    def set_live_restore(self, live_restore: bool) -> None:
        """Let containers go on while the engine is restarted, or stop them then."""
        self.live_restore = live_restore
        self._configure()
        if self._daemon is not None:
            self._daemon.send_signal(signal.SIGHUP)
            with closing(self.api()) as api:
                wait_for(
                    lambda: api.info()["LiveRestoreEnabled"] == live_restore,
                    "the engine takes its configuration in",
                )

    def _configure(self) -> None:
        options = {"live-restore": self.live_restore, "shutdown-timeout": 10}
        self.configuration.write_text(json.dumps(options))

    def answers(self) -> bool:
        try:
            with closing(docker.APIClient(base_url=self.url, timeout=5)) as api:
                return bool(api.ping())
        except (DockerException, OSError):
            return False

    def api(self) -> docker.APIClient:
        """Return a client. It stays usable when the engine has been restarted."""
        return docker.APIClient(base_url=self.url, timeout=60)

    def stop(self) -> None:
        """End the engine as its init system does: SIGTERM. Without live-restore, all containers."""
        self._note_shim_sockets()
        if self._daemon is not None:
            self._daemon.terminate()
            self._await_daemon()

    def kill(self) -> list[int]:
        """End dockerd, containerd and its shims with SIGKILL; return whom of them there was.

        The containers' processes go on, without anybody who looks after them.
        """
        return self._kill(self._engine_processes)

    def cut_power(self) -> list[int]:
        """End everything of the engine's at once, and lose what a machine loses that is turned off:
        mounts, sockets, the exec root. What is on disk stays. Returns whom it has ended.
        """
        ended = self._kill(self.processes)
        self._clear_run()
        return ended

    def remove(self) -> None:
        """End the engine and all that it has started, and remove every trace of it."""
        if self._daemon is not None and self._daemon.poll() is None:
            self._remove_containers()
            with suppress(AssertionError):
                self.stop()
        self._kill(self.processes)
        self._clear_run()
        subprocess.run(("ip", "link", "delete", self.bridge), check=False, capture_output=True)
        for cgroup in CGROUPS.glob(f"**/{self.name}"):
            for folder in sorted(cgroup.rglob("*"), reverse=True):
                if folder.is_dir():
                    folder.rmdir()
            cgroup.rmdir()
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)

    def last_words(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # ---- its processes ---------------------------------------------------------------------------

    def processes(self) -> list[int]:
        """Return the pids of all that belongs to it: itself, its helpers, its containers'."""
        return [pid for pid in pids() if self._is_engine(pid) or self._is_contained(pid)]

    def _engine_processes(self) -> list[int]:
        return [pid for pid in pids() if self._is_engine(pid) and not self._is_contained(pid)]

    def _is_engine(self, pid: int) -> bool:
        # The arguments of a client name the socket at most.
        words = _read(pid, "cmdline").split(b"\0")
        return any(str(self.exec_root).encode() in word for word in words)

    def _is_contained(self, pid: int) -> bool:
        return f":/{self.name}/".encode() in _read(pid, "cgroup")

    def _kill(self, find: Callable[[], list[int]]) -> list[int]:
        """End with SIGKILL whom ``find`` finds, until it finds nobody; return their pids.

        All are held first, so that none of them can take note of the others' end.
        """
        self._note_shim_sockets()
        ended: list[int] = []

        def all_ended() -> bool:
            found = find()
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in found:
                    _signal(pid, number, find)
            ended.extend(found)
            return not found

        wait_for(all_ended, "the engine's processes end", PATIENCE)
        if self._daemon is not None:
            self._await_daemon()
        # Until their parent has taken note of their end, dockerd thinks that its containerd still
        # runs.
        wait_for(lambda: not any(map(_exists, ended)), "the engine's processes are gone", PATIENCE)
        return ended

    def _await_daemon(self) -> None:
        assert self._daemon is not None
        self._daemon.wait(PATIENCE)
        self._daemon = None

    # ---- what it leaves behind -------------------------------------------------------------------

    def _remove_containers(self) -> None:
        with suppress(DockerException, OSError), closing(self.api()) as api:
            for container in api.containers(all=True):
                api.remove_container(container["Id"], v=True, force=True)

    def _note_shim_sockets(self) -> None:
        """Shims put their sockets into a folder of the machine's, and say so in a file."""
        for folder, _, names in os.walk(self.exec_root):  # which may go as it is walked
            if "address" not in names:
                continue
            with suppress(OSError):
                file = Path(folder, "address")
                path = Path(file.read_text().strip().removeprefix("unix://"))
                if path.parent == SHIM_SOCKETS:
                    self._shim_sockets.add(path)

    def _clear_run(self) -> None:
        """Undo the mounts, and remove all that would be gone after a power cut."""
        for mount in sorted(self._mounts(), reverse=True):
            subprocess.run(("umount", "--lazy", mount), check=False, capture_output=True)
        shutil.rmtree(self.exec_root, ignore_errors=True)
        for file in (self.socket, self.run / "dockerd.pid", *self._shim_sockets):
            file.unlink(missing_ok=True)
        self._shim_sockets.clear()

    def _mounts(self) -> list[str]:
        roots = (self.run, self.data)  # the engine mounts its data root on itself
        lines = Path("/proc/self/mounts").read_text().splitlines()
        targets = (line.split(" ")[1].encode().decode("unicode_escape") for line in lines)
        return [path for path in targets if any(map(Path(path).is_relative_to, roots))]


def _end_with_parent() -> None:
    """Let the engine stop when the process that has started it is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _dockerd() -> str | None:
    return shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin")


def pids() -> Iterator[int]:
    """Return the processes of this machine."""
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _read(pid: int, name: str) -> bytes:
    """Return a file of a process; nothing of one that has ended meanwhile (or is a zombie)."""
    try:
        if name == "cgroup" and not Path(f"/proc/{pid}/cmdline").read_bytes():
            return b""
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _signal(pid: int, number: signal.Signals, find: Callable[[], list[int]]) -> None:
    """Send one process a signal, if it is still one of those that ``find`` finds."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # Its number may have got to another process before the handle was there.
        if pid in find():
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
