"""Runs one job inside its container. A single file that needs only Python >= 3.9 and hydra-core.

It puts its own ``hydra.main`` in place and runs the user's script as ``__main__``; the script's
decorator then hands over its task function, which runs with the config that the host composed. What
came of it is written as JSON into the job's output folder: the host unpickles nothing from here.
"""

from __future__ import annotations

import atexit
import builtins
import dataclasses
import functools
import importlib
import importlib.machinery
import io
import json
import operator
import os
import pathlib
import pickle
import runpy
import select
import sys
import traceback
import types
import warnings

JOB = "/hydra/job.pickle"
SECRETS = "/hydra/secrets"
#: Tells a worker that has started itself again that its variables are there.
STARTED_AGAIN = "HYDRA_DOCKER_VARIABLES_READ"
LIBRARY = "/hydra/lib"
CLONE = "/hydra/clone.json"
CLONING = "/hydra/cloning.py"
CGROUP = "/sys/fs/cgroup"
OWN_CGROUP = "/proc/self/cgroup"
MOUNTS = "/proc/self/mounts"
MAX_VALUE = 1_000_000  # characters of a return value as JSON
MAX_TEXT = 100_000  # characters of a message or a traceback
MAX_FRAMES = 200
MAX_CHAIN = 20
#: What a shell says of a process that has died of SIGPIPE.
DIED_OF_A_PIPE = 141
MAX_FULL = 20  # places without space that are named
NO_SPACE = ("No space left on device", "unable to write to file", "file write failed", "is full")
#: Kinds of file systems that hold files of a job.
FILE_SYSTEMS = {"tmpfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "vfat"}
#: What a shell says of a process that has died of SIGPIPE.
DIED_OF_A_PIPE = 141


class ConfigUnpickler(pickle.Unpickler):
    """Reads a config, in which a path is its text, and a dataclass made at run time its fields."""

    def __init__(self, file):
        super().__init__(file)
        self.made = {}

    def persistent_load(self, pid):
        if pid[0] == "path":
            return pathlib.Path(pid[1])
        if pid[0] == "path type":
            return getattr(pathlib, pid[1])
        _, number, content = pid
        if number not in self.made:
            self.made[number] = make_dataclass(**content)
        return self.made[number]


def make_dataclass(cls_name, module, bases, fields, frozen):
    specified = [
        (name, kind, dataclasses.field(default=None, init=init)) for name, kind, init in fields
    ]
    made = dataclasses.make_dataclass(cls_name, specified, bases=bases, frozen=frozen)
    made.__module__ = module
    return made


class Job:
    """What the host has sent: how to find the task function, and the config as bytes.

    The config is unpickled only when the task function is known: its types may be defined in the
    script itself.
    """

    def __init__(self, content):
        self.kind = content["kind"]
        self.target = content["target"]
        self.function = content["function"]
        self.argv = content["argv"]
        self.path = content["path"]
        self.task_name = content["task_name"]
        self.version_base = content["version_base"]
        self.config = content["config"]
        self.hydra_files = content["hydra_files"]
        self.result = content["result"]
        self.final = content["final"]
        #: Where values of the config are that come in a file of their own, and what to mask.
        self.withheld = content.get("withheld", ())
        self.masks = ()
        #: What has been written as the result so far, and the exit code that is to follow.
        self.written = {}
        self.exit_code = 0
        self.process = os.getpid()

    @property
    def outcome(self):
        return self.written.get("outcome")


def main():
    take_variables()
    with open(JOB, "rb") as file:
        job = Job(pickle.load(file))
    take_redaction(job)
    if job.final and os.path.exists(job.result):
        # A restart policy has started the container again, but the job had come to its end.
        note_death(job)
        sys.exit(0)
    if os.path.lexists(job.result):
        os.unlink(job.result)  # of an attempt before this one
    if os.path.lexists(returned_file(job)):
        os.unlink(returned_file(job))
    atexit.register(write_end, job)  # the first to be registered is the last to be called
    if job.final:
        take_over_exit(job)
    if os.path.exists(CLONE):
        clone_commit(job)
    sys.argv = list(job.argv)
    if not getattr(sys.flags, "safe_path", False):  # PYTHONSAFEPATH
        del sys.path[0]  # the folder of this file
    sys.path[0:0] = job.path
    if job.function is not None:
        sys.path.append(LIBRARY)
    take_over_hydra_main(job)
    try:
        run_target(job)
    except SystemExit as error:
        code = job.exit_code = exit_code(error)
        if job.outcome is None or (job.outcome == "completed" and code != 0):
            write_result(job, exited(code, job.outcome))
        raise
    except BaseException as error:
        job.exit_code = 1
        if job.outcome != "error":
            write_error(job, error)
        raise
    if job.outcome is None:
        message = "the script has ended without calling a function decorated with hydra.main"
        job.exit_code = 1
        write_error(job, RuntimeError(message))
        sys.exit("error: " + message)


# ---- secrets -----------------------------------------------------------------------------------


def read_secret(name):
    """Return the content of one of the job's secret files, None where there is none."""
    try:
        with open(os.path.join(SECRETS, name), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def take_variables():
    """Start again with the variables that are in no ``docker inspect``, as if they were given."""
    content = read_secret("environment.json")
    if os.environ.pop(STARTED_AGAIN, None) is not None or content is None:
        return
    variables = {**os.environ, **json.loads(content), STARTED_AGAIN: "1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], variables)  # noqa: S606


def take_redaction(job):
    content = json.loads(read_secret("redaction.json") or b"{}")
    if content.get("argv") is not None:
        job.argv = content["argv"]
    # The longest first: one may be part of another.
    job.masks = sorted(content.get("masks", ()), key=lambda mask: -len(mask[0]))


def masked(value, masks):
    """Return JSON values with no secret in their texts."""
    if isinstance(value, str):
        for text, shown in masks:
            value = value.replace(text, shown)
        return value
    if isinstance(value, dict):
        return {masked(key, masks): masked(item, masks) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(item, masks) for item in value]
    return value


def fill_in(config, job):
    """Put the secrets into the config, which has other texts in their places."""
    if not job.withheld:
        return
    values = read_secret("values.pickle")
    if values is None:
        raise RuntimeError("the secrets of the job's config are gone: it has ended before")
    for at, (kind, value) in zip(job.withheld, pickle.loads(values)):  # noqa: B905  (Python 3.9)
        node = config
        for number in at:
            content = node._content
            node = list(content.values() if isinstance(content, dict) else content)[number]
            if type(node).__name__ == "UnionNode":
                node = node._content
        node.__dict__["_val"] = pathlib.Path(value) if kind == "path" else value


def take_over_saving(job):
    """Have Hydra's own files of the config written without secrets from the beginning."""
    import hydra.core.utils

    original = getattr(hydra.core.utils, "_save_config", None)
    if not job.withheld or original is None:
        return

    def _save_config(cfg, filename, output_dir):
        if filename not in job.hydra_files:
            original(cfg, filename, output_dir)
            return
        os.makedirs(str(output_dir), exist_ok=True)
        with open(os.path.join(str(output_dir), filename), "w", encoding="utf-8") as file:
            file.write(job.hydra_files[filename])

    hydra.core.utils._save_config = _save_config


# ---- the task function -------------------------------------------------------------------------


def clone_commit(job):
    cloning = runpy.run_path(CLONING)
    try:
        cloning["clone"]()
    except cloning["CloneError"] as error:
        job.exit_code = 1
        write_result(job, {"outcome": "not cloned", "cause": str(error)})
        sys.exit("error: {}".format(error))


def run_target(job):
    if job.kind == "script":
        run_script(job.target)
    elif job.kind == "module":
        runpy.run_module(job.target, run_name="__main__", alter_sys=True)
    else:
        set_version_base(job.version_base)
        run_task(job, load_function(job))


def run_script(path):
    """Run a script as ``python path`` does; ``runpy.run_path`` would change sys.argv[0]."""
    module = types.ModuleType("__main__")
    module.__file__ = path
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    module.__cached__ = None
    module.__builtins__ = builtins
    sys.modules["__main__"] = module
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    exec(code, module.__dict__)  # noqa: S102  (the script is what was asked for)


def load_function(job):
    if job.function is not None:
        return pickle.loads(job.function)
    module, _, name = job.target.partition(":")
    function = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    return function


def set_version_base(version_base):
    import hydra.version

    if version_base is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            hydra.version.setbase(version_base)


def take_over_hydra_main(job):
    """Replace ``hydra.main``, wherever a script may import it from."""
    import hydra

    original = hydra.main

    def main(*args, **kwargs):
        with warnings.catch_warnings():
            # What it has to say about its arguments, it has said on the host.
            warnings.simplefilter("ignore")
            original(*args, **kwargs)  # notes version_base

        def decorator(task_function):
            @functools.wraps(task_function)
            def decorated_main(cfg_passthrough=None):
                if cfg_passthrough is not None:
                    return task_function(cfg_passthrough)
                run_task(job, task_function, kwargs.get("execution_whitelist"))
                return None

            return decorated_main

        return decorator

    functools.update_wrapper(main, original)
    hydra.main = main
    sys.modules["hydra.main"].main = main


def run_task(job, task_function, execution_whitelist=None):
    """Run the task function as Hydra does in a multirun; ends the process if it fails."""
    from hydra.core.utils import JobRuntime, run_job, setup_globals
    from hydra.types import HydraContext

    setup_globals()
    config = ConfigUnpickler(io.BytesIO(job.config)).load()
    fill_in(config, job)
    take_over_saving(job)
    JobRuntime.instance().set("name", job.task_name)
    context = HydraContext(config_loader=None, callbacks=JobCallbacks(config, job))
    if execution_whitelist is not None:
        context.execution_whitelist = execution_whitelist
    returned = run_job(
        hydra_context=context,
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    try:
        value = returned.return_value  # raises what the task function raised
    except Exception as error:
        write_error(job, error)
        traceback.print_exception(type(error), error, frames_shown(error.__traceback__))
        sys.exit(1)
    write_result(job, {"outcome": "completed", **encode_value(value)})


class JobCallbacks:
    """The callbacks of ``hydra.callbacks`` for the part of a job that happens here."""

    def __init__(self, config, job):
        from hydra.utils import instantiate
        from omegaconf import OmegaConf

        self.job = job
        configured = OmegaConf.select(config, "hydra.callbacks") or {}
        self.callbacks = [instantiate(params) for params in configured.values()]

    def on_job_start(self, config, **kwargs):
        self.write_hydra_files(config)
        self.notify(self.callbacks, "on_job_start", config=config, **kwargs)

    def on_job_end(self, config, job_return, **kwargs):
        reverse = reversed(self.callbacks)
        self.notify(reverse, "on_job_end", config=config, job_return=job_return, **kwargs)

    def write_hydra_files(self, config):
        """Write .hydra/*.yaml as they would be on the host: with interpolations unresolved."""
        if config.hydra.output_subdir is None:
            return
        folder = os.path.join(config.hydra.runtime.output_dir, config.hydra.output_subdir)
        for name, text in self.job.hydra_files.items():
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                file.write(text)

    @staticmethod
    def notify(callbacks, event, **kwargs):
        for callback in callbacks:
            try:
                getattr(callback, event)(**kwargs)
            except Exception as error:
                warnings.warn(
                    "Callback {}.{} raised {}: {}".format(
                        type(callback).__name__, event, type(error).__name__, error
                    ),
                    stacklevel=2,
                )


# ---- the result --------------------------------------------------------------------------------


def write_result(job, content):
    """Write how the job stands; a process that it has forked has no say in that."""
    if os.getpid() != job.process:
        return
    shown = masked(content, job.masks)
    if "value" in content and shown != content:
        # For the sweeper alone: the host removes the file as it reads it.
        save(returned_file(job), {"value": content["value"]})
    job.written = content = shown
    memory = read_memory()
    if memory:
        content["memory"] = memory
    save(job.result, content)


def returned_file(job):
    return os.path.join(os.path.dirname(job.result), "returned.json")


def save(path, content):
    folder, name = os.path.split(path)
    # The launcher knows such a name, and removes it where this process is killed meanwhile.
    partial = os.path.join(folder, ".{}.{}".format(name, os.urandom(8).hex()))
    try:
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave an empty file under the name
        os.replace(partial, path)
    except BaseException:
        if os.path.lexists(partial):
            os.unlink(partial)
        raise
    keep_names(folder)


def keep_names(folder):
    """Have the names in a folder outlive a power cut, where its file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_error(job, error):
    if has_lost_output(error):
        # No error of the job's own: it has no result, and a restart policy lets it begin again.
        os._exit(DIED_OF_A_PIPE)
    content = {"outcome": "error", "error": encode_error(error)}
    if any(words in content["error"]["traceback"] for words in NO_SPACE):
        content["full"] = full_places()
    write_result(job, content)


def has_lost_output(error):
    """Tell whether an error comes from printing where nobody reads any more.

    That is so when the engine was killed: the process goes on until the engine is there again.
    """
    for _ in range(MAX_CHAIN):
        if isinstance(error, BrokenPipeError):
            return any(map(is_broken, (1, 2)))
        error = error and (error.__cause__ or error.__context__)
    return False


def is_broken(handle):
    """Tell whether a pipe that is written to has nobody who reads it."""
    poll = select.poll()
    poll.register(handle, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def exited(code, after):
    content = {"outcome": "exited", "code": code, "after": after}
    full = full_places() if code else []
    return {**content, "full": full} if full else content


def write_end(job):
    """Write the result once more, as the process ends: nothing of the job follows."""
    if job.outcome is None:
        return
    try:
        write_result(job, {**job.written, "exit_code": job.exit_code})
    except OSError as error:  # a full disk; the result as such is there
        sys.stderr.write("Could not write down the end of the job: {}\n".format(error))


def take_over_exit(job):
    """Note the exit code of ``os._exit`` too: after a restart nobody knows it any more."""
    original = os._exit

    def _exit(status):
        try:
            if os.getpid() == job.process:
                job.exit_code = status & 0xFF
                if job.outcome == "completed" and job.exit_code != 0:
                    content = {"outcome": "exited", "code": job.exit_code, "after": "completed"}
                    job.written = content
                write_end(job)
        finally:
            original(status)

    os._exit = _exit


def note_death(job):
    """Complete the result of a process that was gone before it could write its end."""
    try:
        with open(job.result, encoding="utf-8") as file:
            content = dict(json.load(file))
    except (OSError, ValueError, TypeError):
        content = {}
    if "exit_code" in content:
        return
    if content.get("outcome") == "error":
        content["exit_code"] = 1
    else:
        died = {"outcome": "exited", "code": None, "after": content.get("outcome"), "died": True}
        content = {**content, **died, "exit_code": None}
    save(job.result, content)


# ---- what it has used ----------------------------------------------------------------------------


def read_memory():
    """Return what the container's cgroup has counted: bytes, and processes that were killed."""
    for version, folder in cgroups():
        if version == 2:
            counted = {
                "peak": read_number(os.path.join(folder, "memory.peak")),
                "limit": read_number(os.path.join(folder, "memory.max")),
                "oom_kills": read_number(os.path.join(folder, "memory.events"), "oom_kill"),
            }
        else:
            counted = {
                "peak": read_number(os.path.join(folder, "memory.max_usage_in_bytes")),
                "limit": read_number(os.path.join(folder, "memory.limit_in_bytes")),
                "oom_kills": read_number(os.path.join(folder, "memory.oom_control"), "oom_kill"),
            }
        counted = {name: number for name, number in counted.items() if number is not None}
        if counted:
            return counted
    return {}


def cgroups():
    """Yield version and folder of where the own cgroup may be, of version 1 or 2.

    A container sees its own as the root, or, by its path, as part of the host's.
    """
    try:
        with open(OWN_CGROUP, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield 1, CGROUP + "/memory" + path
            yield 1, CGROUP + "/memory"
    for line in lines:
        if line.startswith("0::"):
            yield 2, CGROUP + line[3:]
            yield 2, CGROUP


def read_number(path, name=None):
    """Return the number in a file, or beside ``name`` in it; None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            words = file.read().split()
    except OSError:
        return None
    if name is not None:
        words = words[words.index(name) + 1 :] if name in words else []
    return int(words[0]) if words and words[0].isdigit() else None


def full_places():
    """Return the mount points of file systems that have next to no space left."""
    try:
        with open(MOUNTS, encoding="utf-8", errors="replace") as file:
            mounts = [line.split(" ") for line in file]
    except OSError:
        return []
    found = []
    for _, escaped, kind, *_ in mounts:
        place = escaped.replace("\\040", " ")
        if kind in FILE_SYSTEMS and len(found) < MAX_FULL and is_full(place):
            found.append(place)
    return found


def is_full(place):
    if not os.path.isdir(place):  # a single file that is mounted
        return False
    try:
        space = os.statvfs(place)
    except OSError:
        return False
    total = space.f_blocks * space.f_frsize
    if total == 0 or space.f_flag & os.ST_RDONLY:
        return False
    left = space.f_bavail * space.f_frsize
    return left < min(1024 * 1024, total // 50) or (space.f_files > 0 and space.f_favail == 0)


# ---- encoding ------------------------------------------------------------------------------------


def exit_code(error):
    """Return the exit code that ``SystemExit`` stands for, as the interpreter has it."""
    if error.code is None:
        return 0
    return error.code if isinstance(error.code, int) else 1


def encode_value(value):
    """Return ``value`` as JSON; what cannot be, as its repr and the name of its type."""
    try:
        plain = to_plain(value)
        fits = len(json.dumps(plain)) <= MAX_VALUE
    except Exception:  # of its library too: a tensor may have no data to tell
        fits = False
    if fits:
        return {"value": plain}
    kind = "{}.{}".format(type(value).__module__, type(value).__qualname__)
    return {"value": safely(repr, value)[:MAX_TEXT], "not_json": kind}


def to_plain(value):
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of an Enum whose members are strings, the string
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("keys of JSON objects are strings")
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if type(value).__module__.startswith("omegaconf."):
        from omegaconf import OmegaConf

        return to_plain(OmegaConf.to_container(value, resolve=True))
    if hasattr(value, "shape") and not hasattr(value, "item") and hasattr(value, "numpy"):
        value = value.numpy()  # TensorFlow
    if isinstance(getattr(value, "shape", None), tuple):
        return array_to_plain(value)
    raise TypeError("not a JSON value")


def array_to_plain(value):
    """Return what NumPy, PyTorch or JAX holds: a number where it is a single one, else lists."""
    count = functools.reduce(operator.mul, value.shape, 1)
    if count > MAX_VALUE // 2:  # two characters each at least, and many times that as a list
        raise TypeError("too many values for a result")
    if count != 1 or hasattr(value, "filled"):  # item() of a masked array gives what is masked
        return to_plain(value.tolist())
    item = value.item()
    return float(item) if type(item) is type(value) else to_plain(item)  # numpy.longdouble


def encode_error(error, depth=0, seen=()):
    kind = type(error)
    try:
        args = [to_plain(item) for item in arguments(error)]
        if len(json.dumps(args)) > MAX_TEXT:
            args = None
    except Exception:
        args = None
    encoded = {
        "module": kind.__module__,
        "type": kind.__qualname__,
        "message": safely(str, error)[:MAX_TEXT],
        "args": args,
        "frames": [encode_frame(frame) for frame in walk(frames_of_user(error.__traceback__))],
        "notes": [str(note)[:MAX_TEXT] for note in getattr(error, "__notes__", ())],
    }
    if depth == 0:
        lines = traceback.format_exception(kind, error, frames_shown(error.__traceback__))
        encoded["traceback"] = "".join(lines)[-MAX_TEXT:]
    cause = error.__cause__
    relation = "cause"
    if cause is None and not error.__suppress_context__:
        cause, relation = error.__context__, "context"
    if cause is not None and depth < MAX_CHAIN and id(cause) not in seen:
        seen = (*seen, id(error))
        encoded[relation] = encode_error(cause, depth + 1, seen)
    return encoded


def arguments(error):
    """Return what the exception is made again from; OSError keeps its file names elsewhere."""
    if isinstance(error, OSError) and error.filename is not None and len(error.args) == 2:
        names = [error.filename]
        if error.filename2 is not None:
            names += [None, error.filename2]
        return [*error.args, *names]
    return error.args


def encode_frame(frame):
    code = frame.tb_frame.f_code
    # Hydra 1.3 on the host looks for the name that the function has in 1.3.
    name = "run_job" if is_run_job(code) else code.co_name
    return [code.co_filename, name, frame.tb_lineno]


def is_run_job(code):
    return code.co_name in ("run_job", "_run_job") and "hydra" in code.co_filename


def frames_of_user(frames):
    """Leave out the frames up to Hydra's ``run_job``, or those of this file and of ``runpy``.

    Hydra strips what is above that frame when it shows an error.
    """
    start = frames
    for frame in walk(frames):
        if is_run_job(frame.tb_frame.f_code):
            return frame
    while start is not None and is_ours(start.tb_frame.f_code.co_filename):
        start = start.tb_next
    return start if start is not None else frames


def frames_shown(frames):
    """Leave out Hydra's ``run_job`` as well: a traceback starts with the user's code."""
    frames = frames_of_user(frames)
    below = frames is not None and is_run_job(frames.tb_frame.f_code) and frames.tb_next
    return below or frames


def is_ours(filename):
    return filename == __file__ or "runpy" in filename or filename.startswith("<frozen importlib")


def walk(frames):
    count = 0
    while frames is not None and count < MAX_FRAMES:
        yield frames
        frames = frames.tb_next
        count += 1


def safely(function, value):
    try:
        return function(value)
    except Exception as error:
        return "<{} of {} raised {}>".format(
            function.__name__, type(value).__name__, type(error).__name__
        )


if __name__ == "__main__":
    main()
