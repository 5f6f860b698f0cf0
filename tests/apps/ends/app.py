"""Ends in every way that a job can end, as ``how`` says."""

import faulthandler
import mmap
import os
import signal
import subprocess
import sys
import time

import hydra

WAIT_S = 60
CHUNK = 16 * 1024**2
returned = []


class OwnError(Exception):
    pass


def wait():
    print("waiting", flush=True)
    time.sleep(WAIT_S)


def use_memory():
    print("filling the memory", flush=True)
    held = []
    while True:
        held.append(b"x" * CHUNK)


def lose_a_child():
    code = "held = []\nwhile True: held.append(b'x' * 2**24)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


def fail_with_a_child():
    """As a data loader does whose worker was killed."""
    code = "held = []\nwhile True: held.append(b'x' * 2**24)"
    subprocess.run([sys.executable, "-c", code], check=True)


def fill(path):
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 2**16)


def fill_shm():
    fill("/dev/shm/x")


def fill_tmpfs():
    fill("/scratch/x")


def bus_error():
    """More shared memory than there is may be had, but not used."""
    with open("/dev/shm/x", "w+b") as file:
        file.truncate(2**22)
        mmap.mmap(file.fileno(), 2**22)[:] = b"x" * 2**22


def fork_bomb():
    """Every process forks as long as it may; returns how many children this one had."""
    first = os.getpid()
    children = []
    for _ in range(200):  # a bound, should the limit not hold
        try:
            child = os.fork()
        except BlockingIOError:
            break
        if child == 0:
            time.sleep(WAIT_S)
            os._exit(0)
        children.append(child)
    assert os.getpid() == first
    for child in children:
        os.kill(child, signal.SIGKILL)
    return len(children)


def raise_chained():
    try:
        {}["lr"]
    except KeyError as error:
        raise RuntimeError("no learning rate") from error


def raise_own():
    raise OwnError("loss is nan")


def raise_builtin():
    raise ValueError("lr must be positive")


def exit_before():
    sys.exit(0)


def exit_with_code():
    print("giving up")
    sys.exit(3)


def exit_hard():
    os._exit(7)


def kill_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def segfault():
    faulthandler._sigsegv()


def ignore_sigterm():
    signal.signal(signal.SIGTERM, lambda *_: print("not now", flush=True))
    wait()


run_overtime = ignore_sigterm
wait_for_kill = wait_for_stop = wait_for_removal = wait


def noisy():
    """Bytes that are no text, terminal escapes, and a long last line without an end."""
    sys.stdout.buffer.write(b"caf\xe9 \x1b[2J\x1b]0;title\x07\x1b[31mred\x1b[0m\n")
    sys.stdout.buffer.write(b"x" * 100_000 + b"end")
    sys.stdout.flush()


def completed():
    return {"accuracy": 0.5, "layers": [1, 2]}


def exit_after():
    return 1


def opaque():
    return {1, 2}


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    value = globals()[cfg.how]()
    returned.append(cfg.how)
    return value


if __name__ == "__main__":
    main()
    if returned == ["exit_after"]:
        sys.exit(5)
