"""Writes down what a container is and may do, as it looks from inside."""

import getpass
import json
import os
import resource
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

CGROUP = Path("/sys/fs/cgroup")
NAMESPACES = ("ipc", "mnt", "net", "pid", "uts")
NO_LIMIT = 2**60  # cgroup v1 writes a huge number, v2 writes "max"


def number(*path):
    text = CGROUP.joinpath(*path).read_text().split()[0]
    return -1 if text == "max" or int(text) >= NO_LIMIT else int(text)


def limits():
    if (CGROUP / "cgroup.controllers").exists():
        quota, period = (CGROUP / "cpu.max").read_text().split()
        memory, swap = number("memory.max"), number("memory.swap.max")
        return {
            "cpus": int(quota) / int(period),
            "memory": memory,
            "memory_swap": -1 if -1 in (memory, swap) else memory + swap,
            "pids": number("pids.max"),
        }
    return {
        "cpus": number("cpu", "cpu.cfs_quota_us") / number("cpu", "cpu.cfs_period_us"),
        "memory": number("memory", "memory.limit_in_bytes"),
        "memory_swap": number("memory", "memory.memsw.limit_in_bytes"),
        "pids": number("pids", "pids.max"),
    }


def size(path):
    facts = os.statvfs(path)
    return facts.f_blocks * facts.f_frsize


def attempt(action):
    try:
        return action() or "ok"
    except OSError as error:
        return os.strerror(error.errno)


def write(path):
    Path(path).write_text("written")


def read(path):
    return Path(path).read_text()


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    home = Path.home()
    status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
    answers = {
        "limits": limits(),
        "shm": size("/dev/shm"),
        "ulimits": {
            "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
            "core": resource.getrlimit(resource.RLIMIT_CORE),
        },
        "no_new_privileges": status["NoNewPrivs"],
        "seccomp": status["Seccomp"],
        "processes": [int(name) for name in os.listdir("/proc") if name.isdecimal()],
        "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES},
        "effective": int(status["CapEff"], 16),
        "bounding": int(status["CapBnd"], 16),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "user": getpass.getuser(),
        "home": str(home),
        "home_use": attempt(lambda: write(home / "cache")),
        "first_process": Path("/proc/1/cmdline").read_text().split("\0")[0],
        "hosts": [line.split() for line in Path("/etc/hosts").read_text().splitlines()],
        "environment": dict(os.environ),
        "interfaces": sorted(os.listdir("/sys/class/net")),
        "mounts": [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()],
        "writes": {path: attempt(lambda path=path: write(path)) for path in cfg.try_to_write},
        "reads": {path: attempt(lambda path=path: read(path)) for path in cfg.try_to_read},
    }
    output = Path(HydraConfig.get().runtime.output_dir)
    (output / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
