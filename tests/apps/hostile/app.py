"""Does harm to the launcher on the host, in the way that ``how`` names, as far as it can."""

import errno
import json
import os
import stat
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

TEN_GB = 10 * 1024**3


def tell(output, answers):
    (output / "answers.json").write_text(json.dumps(answers))


def tried(action, *arguments):
    """Return the name of the error that an action ends with, or "ok"."""
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"


def replace(path, plant):
    path.unlink(missing_ok=True)
    plant(path)


def sparse(path):
    with path.open("wb") as file:
        file.truncate(TEN_GB)


def die():
    """End without the worker's word in the end."""
    sys.stdout.flush()
    os._exit(0)


def move_mounts(output, _):
    """What is mounted has its place in the output folder, where links could lead the engine."""
    private = output / ".docker"
    places = [private, private / "config.yaml", private / "job.pickle"]
    moved = {path.name: tried(os.rename, path, path.with_name("moved")) for path in places}
    removed = {path.name: tried(os.unlink, path) for path in places[1:]}
    device = tried(os.mknod, output / "device", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    tell(output, {"moved": moved, "removed": removed, "device": device})
    return "done"


def link_results(output, secret):
    for name in ("result.json", "container.json"):
        replace(output / ".docker" / name, lambda path: path.symlink_to(secret))
    die()


def link_log(output, secret):
    replace(output / "container.log", lambda path: path.symlink_to(secret))
    (output / "stray").symlink_to(Path(secret).parent)
    raise ValueError("linked")


def pipes(output, _):
    replace(output / ".docker" / "result.json", os.mkfifo)
    replace(output / "container.log", os.mkfifo)
    die()


def huge(output, _):
    replace(output / ".docker" / "result.json", sparse)
    sparse(output / "container.log")
    die()


def bomb(output, _):
    text = '{"outcome": "completed", "value": ' + "[" * 10**6
    replace(output / ".docker" / "result.json", lambda path: path.write_text(text))
    die()


def lie(output, secret):
    frames = [[secret, "run_job", 1], ["/dev/zero", "main", 1]]
    error = {"module": "builtins", "type": "eval", "args": ["exit()"], "message": "", "notes": 1}
    content = {"outcome": "error", "error": {**error, "frames": frames, "cause": [error]}}
    text = json.dumps(content)
    replace(output / ".docker" / "result.json", lambda path: path.write_text(text))
    sys.stdout.flush()
    os._exit(3)


def escapes(output, _):
    evil = "\x1b]0;owned\x07\x1b[2J\x9b2J\u202eevil\r\x08 \x1b[31mred\x1b[0m"
    print(evil, flush=True)
    sys.stdout.buffer.write(b"\xff\xfe\x00\n")
    sys.stdout.buffer.flush()
    (output / "\x1b[2J\n").touch()
    raise type("Own\x1b[2J", (Exception,), {})(evil)


def endless(output, _):
    sys.stdout.write("y" * 3_000_000 + "\n")
    for number in range(30_000):
        print(f"{number:06d} {'x' * 60}")
    return "printed"


def again(output, _):
    """Be restarted, and see whether what is mounted is what it was."""
    answers = output / "answers.json"
    if not answers.exists():
        move_mounts(output, None)
        os._exit(1)
    told = json.loads(answers.read_text())
    told["config"] = Path("/hydra/config.yaml").read_text()
    tell(output, told)
    return "again"


@hydra.main(version_base=None, config_path=None)
def main(cfg):
    output = Path(HydraConfig.get().runtime.output_dir)
    return globals()[cfg.how](output, cfg.secret)


if __name__ == "__main__":
    main()
