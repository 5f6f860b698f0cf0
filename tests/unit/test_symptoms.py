"""Symptoms: the words of libraries, of the kernel and of shells, and what they say of a job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hydra_plugins.hydra_docker_launcher import _advice, _symptoms
from hydra_plugins.hydra_docker_launcher._advice import Case
from hydra_plugins.hydra_docker_launcher._engine import Boundary, ContainerSpec, Limits, Mount
from hydra_plugins.hydra_docker_launcher._option_values import Gpus, Ulimit
from hydra_plugins.hydra_docker_launcher._symptoms import Facts, explain, lacking, of_engine

MIB = 1024**2
OUTPUT = "/project/multirun/0"
SPEC = ContainerSpec(
    name="train-x-0",
    image="sha256:1",
    command=("python3",),
    working_dir="/project",
    limits=Limits(1.0, 512 * MIB, 512 * MIB, 64 * MIB, 100),
    boundary=Boundary("1000:100", tmpfs=(("/scratch", "size=8m"), ("/bare", ""))),
    gpus=Gpus(count=1),
    mounts=(
        Mount(OUTPUT, OUTPUT),
        Mount("/srv/data", "/data", read_only=True),
        Mount("cache", "/cache", named=True),
    ),
)
WITHOUT_GPU = replace(SPEC, gpus=Gpus())
READ_ONLY = replace(SPEC, boundary=replace(SPEC.boundary, read_only=True))
NO_NETWORK = replace(SPEC, boundary=replace(SPEC.boundary, network_mode="none"))


def raised(kind: str, message: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "message": message, **more}


TORCH = (
    (
        "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 1.96 GiB total capacity; 1.24 GiB "
        "already allocated; 2.88 MiB free; 1.25 GiB reserved in total by PyTorch)"
    ),
    (
        "CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a total capacity of 23.65 GiB "
        "of which 11.06 MiB is free. Including non-PyTorch memory, this process has 23.60 GiB "
        "memory in use."
    ),
    "HIP out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 16.00 GiB",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other",
    "CUDA driver error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
)
GPU_MEMORY = (
    *(("RuntimeError", message) for message in TORCH),
    ("OutOfMemoryError", TORCH[1]),
    ("XlaRuntimeError", "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 74 bytes.\nB"),
    ("JaxRuntimeError", "RESOURCE_EXHAUSTED: Out of memory allocating 20029400304 bytes."),
    ("RuntimeError", "Resource exhausted: Out of memory while trying to allocate 24 bytes."),
    (
        "ResourceExhaustedError",
        (
            "OOM when allocating tensor with shape[64,2016,9,9] and type float on /job:localhost/"
            "replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc [Op:Mul]"
        ),
    ),
    (
        "ResourceExhaustedError",
        (
            "Graph execution error:\n\nDetected at node 'model/conv' defined at:\n"
            "OOM when allocating tensor with shape[32,64] and type float on /job:localhost/"
        ),
    ),
    ("OutOfMemoryError", "Out of memory allocating 8,000,000,000 bytes (allocated so far: 512)."),
    ("CUDARuntimeError", "cudaErrorMemoryAllocation: out of memory"),
    ("CudaAPIError", "[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"),
    (
        "RuntimeError",
        (
            "Caught OutOfMemoryError in replica 0 on device 0.\nOriginal Traceback (most recent "
            f'call last):\n  File "x.py", line 1, in f\ntorch.cuda.OutOfMemoryError: {TORCH[1]}\n'
        ),
    ),
)
NO_GPU = (
    (
        "RuntimeError",
        (
            "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and "
            "installed a driver from http://www.nvidia.com/Download/index.aspx"
        ),
    ),
    ("AssertionError", "\nFound no NVIDIA driver on your system. Please check that you\nhave an"),
    ("RuntimeError", "No CUDA GPUs are available"),
    ("RuntimeError", "CUDA error: no CUDA-capable device is detected\nCUDA kernel errors might"),
    ("CUDARuntimeError", "cudaErrorNoDevice: no CUDA-capable device is detected"),
    (
        "CUDARuntimeError",
        "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version",
    ),
    (
        "RuntimeError",
        (
            "Unable to initialize backend 'cuda': FAILED_PRECONDITION: No visible GPU devices. "
            "(you may need to uninstall the failing plugin package)"
        ),
    ),
    (
        "RuntimeError",
        "Unknown backend: 'gpu' requested, but no platforms that are instances of gpu",
    ),
    ("RuntimeError", "Unknown backend cuda. Available backends are ['cpu']"),
    (
        "RuntimeError",
        "Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False.",
    ),
    ("ImportError", "libcuda.so.1: cannot open shared object file: No such file or directory"),
)
BUS_ERROR = (
    (
        "RuntimeError",
        (
            "DataLoader worker (pid 46794) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory. Please try to raise your shared memory "
            "limit."
        ),
    ),
    ("CalledProcessError", "Command '['python', 'x.py']' died with <Signals.SIGBUS: 7>."),
)
SHM = (
    ("RuntimeError", "unable to write to file </torch_76_3625483894>"),
    (
        "RuntimeError",
        "unable to write to file </torch_31911_95203_6>: No space left on device (28)",
    ),
    (
        "RuntimeError",
        (
            "unable to open shared memory object </torch_1_2> in read-write mode: No space left on "
            "device (28)"
        ),
    ),
    ("OSError", "[Errno 28] No space left on device: '/dev/shm/joblib_memmapping_folder_7/x'"),
)
REFUSED = (
    ("MemoryError", ""),
    (
        "_ArrayMemoryError",
        (
            "Unable to allocate 7.28 TiB for an array with shape (1000000, 1000000) and data type "
            "float64"
        ),
    ),
    (
        "RuntimeError",
        (
            "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you "
            "tried to allocate 6383992832 bytes."
        ),
    ),
    (
        "RuntimeError",
        (
            "[enforce fail at alloc_cpu.cpp:75] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 80 bytes. Error code 12 (Cannot allocate memory)"
        ),
    ),
    ("OSError", "[Errno 12] Cannot allocate memory"),
)
OPEN_FILES = (
    ("OSError", "[Errno 24] Too many open files: '/data/1.png'"),
    (
        "RuntimeError",
        (
            "unable to open shared memory object </torch_29919_39618> in read-write mode: Too many "
            "open files (24)"
        ),
    ),
    ("RuntimeError", "received 0 items of ancdata"),
)
KILLED = (
    ("RuntimeError", "DataLoader worker (pid 3938) is killed by signal: Killed. "),
    ("CalledProcessError", "Command '['python', 'x.py']' died with <Signals.SIGKILL: 9>."),
    (
        "TerminatedWorkerError",
        (
            "A worker process managed by the executor was unexpectedly terminated. This could be "
            "caused by a segmentation fault while calling the function or by an excessive memory "
            "usage causing the Operating System to kill the worker.\n\n"
            "The exit codes of the workers are {SIGKILL(-9)}"
        ),
    ),
)
CRASHED = (
    ("RuntimeError", "DataLoader worker (pid 2522) is killed by signal: Segmentation fault. "),
    ("CalledProcessError", "Command 'x' died with <Signals.SIGSEGV: 11>."),
    (
        "TerminatedWorkerError",
        (
            "A worker process managed by the executor was unexpectedly terminated.\n"
            "The exit codes of the workers are {SIGSEGV(-11), EXIT(1)}"
        ),
    ),
)
NAMES = (
    ("gaierror", "[Errno -3] Temporary failure in name resolution"),
    ("URLError", "<urlopen error [Errno -3] Temporary failure in name resolution>"),
    (
        "ConnectionError",
        (
            "HTTPSConnectionPool(host='example.org', port=443): Max retries exceeded with url: / "
            '(Caused by NameResolutionError("<urllib3.connection.HTTPSConnection object at 0x7f>: '
            "Failed to resolve 'example.org' ([Errno -3] Temporary failure in name resolution)\"))"
        ),
    ),
)
TABLE = [
    (error, advice)
    for errors, advice in (
        (GPU_MEMORY, _advice.gpu_memory),
        (NO_GPU, _advice.no_gpu),
        (BUS_ERROR, _advice.bus_error),
        (SHM, _advice.full_shm),
        (REFUSED, _advice.refused_memory),
        (OPEN_FILES, _advice.open_files),
        ((("RuntimeError", "can't start new thread"),), _advice.processes),
        (NAMES, _advice.no_names),
        (KILLED, lambda _: _advice.KILLED),
        (CRASHED, lambda _: _advice.CRASHED),
    )
    for error in errors
]


@pytest.mark.parametrize(("error", "advice"), TABLE)
def test_exception(error, advice):
    """An exception in the words of its library."""
    assert explain(Facts(SPEC, error=raised(*error))) == advice(Case(SPEC))


@pytest.mark.parametrize(("error", "advice"), [row for row in TABLE if "\n" not in row[0][1]])
def test_exception_in_the_log(error, advice):
    """The same at the end of a log, of a process that is not the job's own."""
    kind, message = error
    lines = ["Traceback (most recent call last):", f"torch.cuda.{kind}: {message}", "bye"]
    if kind != "MemoryError":
        assert explain(Facts(SPEC, lines=lines)) == advice(Case(SPEC))
    assert explain(Facts(SPEC, lines=["Traceback (most recent…", f"{kind}: {message}"]))


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("MemoryError", _advice.refused_memory),
        (
            "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            _advice.gpu_memory,
        ),
        (
            (
                "2020-12-07 10:00:00.1: E tensorflow/stream_executor/cuda/cuda_blas.cc:226] failed "
                "to create cublas handle: CUBLAS_STATUS_ALLOC_FAILED"
            ),
            _advice.gpu_memory,
        ),
        (
            (
                "2020-12-07 10:00:00.1: E tensorflow/stream_executor/cuda/cuda_dnn.cc:329] Could "
                "not create cudnn handle: CUDNN_STATUS_ALLOC_FAILED"
            ),
            _advice.gpu_memory,
        ),
        (
            (
                "ERROR: Unexpected bus error encountered in worker. This might be caused by "
                "insufficient shared memory (shm)."
            ),
            _advice.bus_error,
        ),
        (
            "bash: line 1:     8 Killed                  python3 train.py",
            lambda _: _advice.KILLED,
        ),
        ("dd: writing to `x': No space left on device", _advice.no_space),
        ("tar: x/y: Cannot write: No space left on device", _advice.no_space),
        ("/bin/sh: 1: cannot create /etc/x: Too many open files", _advice.open_files),
        (
            "libgomp: Thread creation failed: Resource temporarily unavailable",
            _advice.processes,
        ),
        (
            (
                "OpenBLAS blas_thread_init: pthread_create failed for thread 3 of 48: Resource "
                "temporarily unavailable"
            ),
            _advice.processes,
        ),
        ("bash: fork: retry: Resource temporarily unavailable", _advice.processes),
        ("ping: example.org: Temporary failure in name resolution", _advice.no_names),
    ],
)
def test_line_of_a_log(line, advice):
    """What libraries and shells print themselves, as they die."""
    assert explain(Facts(SPEC, lines=["before", line, "after"])) == advice(Case(SPEC))


@pytest.mark.parametrize(
    "line",
    [
        "note: out of memory",
        "loss: CUDA out of memory. Tried to allocate",
        "INFO: retrying after RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "config: {on_error: 'CUDA out of memory'}",
        "WARNING: could not cache: No space left on device",
        "warning: cp: No space left on device",
        "No space left on device",
        "Killed",
        "I print [Errno 24] Too many open files",
        "2026-11-22 E xla/cuda_driver.cc:152] failed call to cuInit: CUDA_ERROR_NO_DEVICE",
        "OpenBLAS blas_thread_init: pthread_create failed for thread 1: Operation not permitted",
        "the MemoryError of yesterday",
        "MyError: no luck",
    ],
)
def test_false_friend(line):
    """What a job prints by itself, or warns of and goes on, explains nothing."""
    assert explain(Facts(SPEC, exit_code=1, lines=[line])) is None


@pytest.mark.parametrize(
    "error",
    [
        raised("ValueError", "loss is nan"),
        raised("ValueError", "the config says: CUDA out of memory. Tried to allocate"),
        raised("BlockingIOError", "[Errno 11] Resource temporarily unavailable"),
        raised("RuntimeError", "my shm: unable to write to file /x"),
        raised("OSError", "[Errno 101] Network is unreachable"),
        raised("PermissionError", "[Errno 13] Permission denied"),
        raised("PermissionError", "[Errno 13] Permission denied: 'relative'"),
        raised("OSError", "[Errno 30] Read-only file system: '/elsewhere'"),
        raised("FileNotFoundError", "[Errno 2] No usable temporary directory found in ['/tmp']"),
        {},
        {"type": ["x"], "message": {}},
    ],
)
def test_exception_that_explains_nothing(error):
    """Neither words that are somebody's own, nor such as many things are the reason of."""
    lines = ["RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB"]
    assert explain(Facts(SPEC, 139, error or {"type": "E"}, lines)) is None


def test_chain():
    """An exception is explained by those that it came of."""
    below = raised("OutOfMemoryError", TORCH[1])
    for relation in ("cause", "context"):
        error = raised("RuntimeError", "training failed", **{relation: below})
        assert explain(Facts(SPEC, error=error)) == _advice.gpu_memory(Case(SPEC))
    error = raised("RuntimeError", "can't start new thread", cause=below)
    assert explain(Facts(SPEC, error=error)) == _advice.processes(Case(SPEC))


def test_endless_chain():
    """A container may write anything."""
    error: dict[str, Any] = raised("ValueError", "x")
    error["cause"] = error
    assert explain(Facts(SPEC, error=error)) is None
    assert lacking(error) is None


@pytest.mark.parametrize(
    "error",
    [
        raised("RuntimeError", "DataLoader worker (pid(s) 42, 43) exited unexpectedly"),
        raised("BrokenProcessPool", "A process in the process pool was terminated abruptly while"),
        raised("CalledProcessError", "Command '['sh']' returned non-zero exit status 1."),
    ],
)
def test_exception_of_another_process(error):
    """An exception that only says that a child process has failed: its words are in the log."""
    lines = ["OSError: [Errno 24] Too many open files: '/data/1.png'", "…"]
    assert explain(Facts(SPEC, 1, error, lines)) == _advice.open_files(Case(SPEC))
    assert explain(Facts(SPEC, 139, error)) is None


def test_last_symptom():
    """What came last in a log was the end; what is far above was not."""
    lines = ["OSError: [Errno 24] Too many open files", "RuntimeError: can't start new thread"]
    assert explain(Facts(SPEC, lines=lines)) == _advice.processes(Case(SPEC))
    far = [lines[0], *["…"] * _symptoms.LAST_LINES]
    assert explain(Facts(SPEC, lines=far)) is None


def started(starter: str) -> dict[str, Any]:
    return {"frames": [["/code/train.py", "main", 1], ["/lib/python/x.py", starter, 2]]}


@pytest.mark.parametrize("starter", ["_execute_child", "_launch"])
def test_process_that_was_refused(starter):
    """EAGAIN means many things; from subprocess or multiprocessing it means pids_limit."""
    message = "[Errno 11] Resource temporarily unavailable"
    error = raised("BlockingIOError", message, **started(starter))
    assert explain(Facts(SPEC, error=error)) == _advice.processes(Case(SPEC))
    unlimited = replace(SPEC, limits=replace(SPEC.limits, pids=-1))
    assert explain(Facts(unlimited, error=error)) is None
    assert explain(Facts(SPEC, error=raised("BlockingIOError", message, frames=[5]))) is None


def test_program_that_is_missing():
    """From subprocess, a file that is missing is a program."""
    message = "[Errno 2] No such file or directory: 'ffmpeg'"
    error = raised("FileNotFoundError", message, **started("_execute_child"))
    assert explain(Facts(SPEC, error=error)) == "Install ffmpeg in the image."


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        (
            "/home/ann/data.csv",
            (
                "/home/ann/data.csv is not in the container: it has the image's files, the "
                "commit's, and what hydra.launcher.volumes names."
            ),
        ),
        (
            "data.csv",
            (
                "data.csv is not in the container: it has the image's files, the commit's, and "
                "what hydra.launcher.volumes names."
            ),
        ),
        ("/data/x.csv", None),
    ],
)
def test_file_that_is_missing(path, advice):
    """What is on the host is not in the container by itself; what a volume lacks, is nowhere."""
    error = raised("FileNotFoundError", f"[Errno 2] No such file or directory: '{path}'")
    assert explain(Facts(SPEC, error=error)) == advice


def test_torch_without_cuda():
    """The image's PyTorch is one for processors."""
    error = raised("AssertionError", "Torch not compiled with CUDA enabled")
    found = explain(Facts(SPEC, error=error))
    assert found == "The image has a PyTorch without CUDA. Install one with it in the image."


# ---- what helps ----------------------------------------------------------------------------------


def test_gpu():
    """A job without a GPU is told so; JAX on a processor says the same as on a GPU."""
    assert _advice.no_gpu(Case(WITHOUT_GPU)) == (
        "The job was given no GPU: hydra.launcher.gpus is 0."
    )
    assert "nvidia-smi" in _advice.no_gpu(Case(SPEC))
    assert _advice.gpu_memory(Case(WITHOUT_GPU)) == _advice.refused_memory(Case(WITHOUT_GPU))


NO_SPACE = "[Errno 28] No space left on device"


@pytest.mark.parametrize(
    ("path", "full", "advice"),
    [
        ("/dev/shm/x", (), "/dev/shm was full: it holds shm_size=64m. Raise hydra.launcher."),
        ("/scratch/a/b", (), "The tmpfs /scratch:size=8m was full. Give it more: hydra.launcher.t"),
        ("/bare/a", (), "The tmpfs /bare was full."),
        (f"{OUTPUT}/model.pt", (), f"The disk of {OUTPUT} was full. Free some space there"),
        ("/cache/x", (), "The volume cache was full."),
        ("/root/.cache/x", (), "The container's own files were too large for the engine's disk."),
        ("relative", ("/scratch",), "The tmpfs /scratch:size=8m was full."),
        (None, ("/scratch",), "The tmpfs /scratch:size=8m was full."),
        (None, (OUTPUT, "/dev/shm"), "/dev/shm was full"),
        (None, (OUTPUT, "/"), f"Full were: {OUTPUT}, /. Free some space there."),
        (None, (), "What was full, it does not say: the disk of the output folder, that of the e"),
        ("/mnt/x/y", ("/mnt/x",), "The container's own files were too large"),
    ],
)
def test_no_space(path, full, advice):
    """Which place was full: by the file's path, else by what the worker has found."""
    message = NO_SPACE if path is None else f"{NO_SPACE}: {path!r}"
    found = explain(Facts(SPEC, error=raised("OSError", message), full=full))
    assert found is not None
    assert found.startswith(advice)


def test_no_space_of_a_program():
    """Programs of the shell name the file in quotes."""
    for line in (
        "cp: error writing '/scratch/x': No space left on device",
        "dd: error writing '/x'",
    ):
        lines = [f"{line.split(': No')[0]}: No space left on device"]
        place = "The tmpfs /scratch:size=8m" if "scratch" in line else "The container's own files"
        assert str(explain(Facts(SPEC, 1, lines=lines))).startswith(place)


def test_shared_memory_as_large_as_memory():
    """To raise shm_size alone would not help."""
    spec = replace(SPEC, limits=replace(SPEC.limits, shm_size=512 * MIB))
    assert _advice.bus_error(Case(spec)) == (
        "A bus error mostly means that shared memory has run out. /dev/shm was full: it counts as "
        "memory, of which there is mem_limit=512m. Raise hydra.launcher.mem_limit."
    )


def test_quota():
    """A quota is of a user, on a host's disk."""
    error = raised("OSError", f"[Errno 122] Disk quota exceeded: '{OUTPUT}/x'")
    found = explain(Facts(SPEC, error=error))
    assert found == f"The user's share of the disk of {OUTPUT} is used up. Free some space there."


def test_ulimit():
    """The limit that is set stands in the advice."""
    limits = replace(SPEC.limits, ulimits=(Ulimit("nofile", 1024, 4096),))
    assert "(nofile=1024)" in _advice.open_files(Case(replace(SPEC, limits=limits)))


def test_network():
    """Without a network, nothing can be reached; with one, the name server may be missing."""
    error = raised("OSError", "[Errno 101] Network is unreachable")
    told = "The job was given no network: hydra.launcher.network_mode=none."
    assert explain(Facts(NO_NETWORK, error=error)) == told
    assert "the default" in _advice.no_names(Case(SPEC))


@pytest.mark.parametrize(
    ("spec", "kind", "message", "advice"),
    [
        (
            SPEC,
            "OSError",
            "[Errno 30] Read-only file system: '/data/x'",
            "/data is mounted read-only: see :ro in hydra.launcher.volumes.",
        ),
        (
            READ_ONLY,
            "OSError",
            "[Errno 30] Read-only file system: '/root/x'",
            (
                "/root/x is no place to write to (hydra.launcher.read_only=true). Write to the "
                "output folder, or name it in hydra.launcher.volumes or hydra.launcher.tmpfs."
            ),
        ),
        (
            SPEC,
            "PermissionError",
            "[Errno 13] Permission denied: '/opt/x'",
            (
                "/opt/x belongs to the image, where 1000:100 (uid:gid) may not do that. Write to "
                "the output folder, or name it in hydra.launcher.volumes."
            ),
        ),
        (
            SPEC,
            "PermissionError",
            "[Errno 13] Permission denied: '/data/x'",
            (
                "1000:100 (uid:gid) may not do that in the host's /srv/data. Change the "
                "permissions there, or hydra.launcher.user."
            ),
        ),
        (
            READ_ONLY,
            "FileNotFoundError",
            "[Errno 2] No usable temporary directory found in ['/tmp', '/var/tmp']",
            (
                "The container has no place for temporary files (hydra.launcher.read_only=true). "
                "Name one: hydra.launcher.tmpfs=[/tmp]."
            ),
        ),
    ],
)
def test_path(spec, kind, message, advice):
    """A place that cannot be written to: which one, and which option is about it."""
    assert explain(Facts(spec, error=raised(kind, message))) == advice


def test_path_of_the_containers_choice():
    """A path is the container's word: no end of it, and nothing that plays with a terminal."""
    path = "/opt/" + "\x1b[2J" + "x" * 1000
    error = raised("PermissionError", f"[Errno 13] Permission denied: '{path}'")
    found = explain(Facts(SPEC, error=error))
    assert found is not None
    assert "\x1b" not in found
    assert len(found) < 500


# ---- the engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', _advice.NO_TOOLKIT),
        (
            (
                "failed to create shim: OCI runtime create failed: error running hook #0: exit "
                "status 1, stderr: nvidia-container-cli: initialization error: load library "
                "failed: libnvidia-ml.so.1: cannot open shared object file: unknown"
            ),
            _advice.NO_DRIVER,
        ),
        ("nvidia-container-cli: device error: 7: unknown device: unknown", _advice.NO_DEVICE),
        ("Unknown runtime specified nvidia", _advice.NO_RUNTIME),
        ("unknown or invalid runtime name: nvidia", _advice.NO_RUNTIME),
        ("network no-such-network not found", _advice.NO_SUCH_NETWORK),
        ("No such container: postgres", _advice.NO_SUCH_CONTAINER),
        (f"No such container: {'a1' * 32}", None),
        ("cannot join network of a non running container: a1", _advice.NO_SUCH_CONTAINER),
        ("mkdir /var/lib/docker/overlay2/x: no space left on device", _advice.ENGINE_FULL),
        ("the name is taken", None),
    ],
)
def test_engine_that_cannot_start(reason, advice):
    """What the engine says when it cannot start a container."""
    assert of_engine(f"The engine could not start the container: {reason}") == advice


# ---- missing modules -----------------------------------------------------------------------------

NO_MODULE = raised("ModuleNotFoundError", "No module named 'colorlog'")


@pytest.mark.parametrize(
    ("below", "named"),
    [
        (
            {"cause": raised("ValueError", "Cannot resolve", cause=NO_MODULE)},
            "ModuleNotFoundError: No module named 'colorlog'",
        ),
        (
            {"cause": raised("PermissionError", "[Errno 13] …: '/x'\nmore")},
            "PermissionError: [Errno 13] …: '/x'",
        ),
        ({"cause": {"type": "OSError"}}, "OSError: None"),
        ({"cause": raised("KeyError", "'lr'")}, None),
        ({"context": NO_MODULE}, None),
        ({"cause": raised("print", "")}, None),
        ({"cause": {"type": ["OSError"], "message": ""}}, None),
        ({"cause": "OSError"}, None),
        ({}, None),
    ],
)
def test_lacking(below, named):
    """A missing module, or a file, that another exception was raised from; nothing else."""
    assert lacking(raised("ValueError", "Unable to configure formatter 'c'", **below)) == named


def test_lacking_is_named_once():
    """An exception that names it already stays as it is; what to do is said all the same."""
    assert lacking(NO_MODULE) is None
    assert explain(Facts(SPEC, error=NO_MODULE)) == "Install it in the image."
