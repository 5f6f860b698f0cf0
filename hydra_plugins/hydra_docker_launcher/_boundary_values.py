"""Boundary values: what the options that open or shut a container's boundary can be.

As ``_option_values``: functions from text to a value that raise ``ValueError``. What the engine, or
the kernel, would refuse only as each job starts is refused here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ._option_values import absolute, valid_are

#: Those of Linux 5.9 and later (capabilities(7)); ALL is Docker's word for all of them.
CAPABILITIES = (
    "ALL",
    *("AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE"),
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER"),
    *("KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN"),
    *("NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP"),
    *("SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE"),
    *("SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG"),
    "WAKE_ALARM",
)
#: What the engine knows, with the values of those that are not anybody's choice.
SECURITY_KEYS = ("apparmor", "label", "no-new-privileges", "seccomp")
_LABELS = ("disable", "level", "role", "type", "user")
#: Network modes that are no network's name.
NETWORK_WORDS = ("bridge", "default", "host", "none")
CONTAINER = "container:"

#: Options of tmpfs(5) and of mount(8) that the engine passes on.
FLAGS = (
    *("async", "atime", "defaults", "dev", "diratime", "dirsync", "exec", "mand", "noatime"),
    *("nodev", "nodiratime", "noexec", "nomand", "norelatime", "nostrictatime", "nosuid"),
    *("relatime", "ro", "rw", "strictatime", "suid", "sync"),
)
_AMOUNT = (r"[0-9]{1,18}[kmgtpe]?", "a number, with k, m, g or t (1k = 1024)")
_VALUES = {
    "size": (r"[0-9]{1,18}(?:[kmgtpe]|%)?", "a size such as 512m, 2g or 50% (k, m, g, t)"),
    "mode": (r"[0-7]{1,4}", "an octal mode such as 1777"),
    "uid": (r"[0-9]{1,10}", "a number"),
    "gid": (r"[0-9]{1,10}", "a number"),
    "nr_inodes": _AMOUNT,
    "nr_blocks": _AMOUNT,
    "mpol": (r"\S+", "a memory policy such as interleave"),
}


def capability(item: str) -> str:
    """Read a capability, in any case, with ``CAP_`` or without."""
    name = item.upper().removeprefix("CAP_")
    if name not in CAPABILITIES:
        raise ValueError(f"there is no such capability; {valid_are(CAPABILITIES, name)}")
    return item


def security_key(item: str) -> tuple[str, str]:
    """Return key and value of an option of ``security_opt``; without a value that is empty."""
    key, _, value = item.partition("=" if "=" in item else ":")  # the engine's own rule
    return key, value


def security_opt(item: str, folder: Path) -> str:
    """Docker's command line sends a seccomp profile's content, and so does this."""
    key, value = security_key(item)
    if key not in SECURITY_KEYS:
        raise ValueError(f"there is no {key!r}; {valid_are(SECURITY_KEYS, key)}")
    if key == "no-new-privileges":
        if value not in ("true", "false") and item != key:
            raise ValueError("no-new-privileges must be true or false")
        return item
    if not value:
        raise ValueError(f"must be {key}=value")
    if key == "label" and value.partition(":")[0] not in _LABELS:
        raise ValueError(f"label: {valid_are(_LABELS, value.partition(':')[0])}")
    if key != "seccomp" or value in ("unconfined", "builtin"):
        return item
    try:
        return f"seccomp={json.dumps(json.loads((folder / value).read_text()))}"
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the seccomp profile: {error}") from None


def tmpfs(item: str) -> tuple[str, str]:
    path, _, options = item.partition(":")
    for option in options.split(",") if options else ():
        name, equals, value = option.partition("=")
        if not equals and name in FLAGS:
            continue
        if name not in _VALUES:
            valid = (*(f"{key}=…" for key in _VALUES), *FLAGS)
            raise ValueError(f"there is no option {option!r}; {valid_are(valid, option)}")
        pattern, meant = _VALUES[name]
        if re.fullmatch(pattern, value, re.IGNORECASE) is None:
            raise ValueError(f"{name} must be {meant}")
    return absolute(path), options


def network_mode(value: object) -> str:
    """Read a word, ``container:NAME``, or a network's name; only the engine knows those."""
    text = str(value)
    if text != text.strip() or not text or "\0" in text:
        raise ValueError("must be bridge, host, none, container:NAME, or a network's name")
    if text == CONTAINER:
        raise ValueError("must be container:NAME")
    return text


def network_of(mode: str | None) -> str | None:
    """Return the network that a mode names, None where it is one of Docker's own words."""
    if mode is None or mode in NETWORK_WORDS or mode.startswith(CONTAINER):
        return None
    return mode
