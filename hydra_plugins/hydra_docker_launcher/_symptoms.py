"""Symptoms: what an exception, the end of a log, or an exit code tells of why a job failed. Pure.

Only words that the libraries themselves use are known here, and only where a traceback or a program
of the shell puts them: a job that prints "out of memory" by itself explains nothing.
"""

from __future__ import annotations

import builtins
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import _advice
from ._advice import Case
from ._engine import ContainerSpec

LAST_LINES = 30  # lines of a log that are looked at
MAX_LINE = 1000  # characters of each of them
MAX_CHAIN = 20  # exceptions that one was raised from
MAX_TEXT = 20_000  # characters of a message that are looked at

#: A sentence, or what makes one of the job's own limits, where they fit.
Explanation = str | Callable[[Case], str | None]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a job that failed.

    ``error`` is its exception, as the worker wrote it; ``lines`` are the last ones of its log.
    ``full`` are the mount points of the container where the worker has found no space left.
    """

    spec: ContainerSpec
    exit_code: int | None = None
    error: Mapping[str, Any] | None = None
    lines: Sequence[str] = ()
    full: Sequence[str] = ()


def explain(facts: Facts) -> str | None:
    """Say for the user why the job failed and what helps, or None where that is not plain.

    An exception explains itself, or by those that it was raised from. The log counts where there is
    no exception, or one that only says that another process has failed.
    """
    chain = list(_chain(facts.error))
    for error in chain:
        found = _of_start(facts, error) or _search(facts, _said(error))
        if found:
            return found
    if not chain or any(_CHILD_FAILED.search(_said(error)) for error in chain):
        lines = (line[:MAX_LINE] for line in facts.lines[-LAST_LINES:])
        found = _search(facts, "\n".join(lines))
        if found:
            return found
    code = None if chain else facts.exit_code
    told = None if code is None else _OF_EXIT_CODE.get(code)
    return None if told is None else _sentence(told, Case(facts.spec))


def lacking(error: Mapping[str, Any]) -> str | None:
    """Return the module or file for want of which an exception was raised, where it does not say.

    Hydra's "Unable to configure formatter 'colorlog'" and "Error locating target" keep to
    themselves that the image has no such module.
    """
    first = error
    for _ in range(MAX_CHAIN):
        if not isinstance(first.get("cause"), Mapping):
            break
        first = first["cause"]
    kind = getattr(builtins, str(first.get("type")), None)
    if first is error or not isinstance(kind, type) or not issubclass(kind, (ImportError, OSError)):
        return None
    return f"{first['type']}: {first.get('message')}".split("\n", 1)[0]


def of_engine(reason: str) -> str | None:
    """Say what helps where the engine could not start a container, in its own words."""
    return next((advice for pattern, advice in _OF_ENGINE if pattern.search(reason)), None)


def _chain(error: object) -> Iterator[Mapping[str, Any]]:
    """Yield an exception and those that it came of, the last one raised first."""
    for _ in range(MAX_CHAIN):
        if not isinstance(error, Mapping):
            return
        yield error
        error = error.get("cause") or error.get("context")


def _said(error: Mapping[str, Any]) -> str:
    """Return an exception as the last line of a traceback has it."""
    return f"{error.get('type')}: {error.get('message')}"[:MAX_TEXT]


def _search(facts: Facts, text: str) -> str | None:
    """Return the explanation of the last thing in ``text`` that has one."""
    found = [
        (match.start(), sentence)
        for pattern, explanation in _SYMPTOMS
        for match in pattern.finditer(text)
        if (sentence := _sentence(explanation, _case(facts, match)))
    ]
    return max(found, key=lambda item: item[0])[1] if found else None


def _case(facts: Facts, match: re.Match[str]) -> Case:
    return Case(facts.spec, match.groupdict().get("path"), facts.full)


def _sentence(explanation: Explanation, case: Case) -> str | None:
    return explanation if isinstance(explanation, str) else explanation(case)


def _of_start(facts: Facts, error: Mapping[str, Any]) -> str | None:
    """Explain what many things raise, where it was raised as a process was started."""
    frames = error.get("frames")
    last = frames[-1] if isinstance(frames, list) and frames else None
    name = last[1] if isinstance(last, list) and len(last) == 3 else None
    if name not in ("_execute_child", "_launch"):  # of subprocess and multiprocessing
        return None
    for pattern, explanation in _AT_START:
        match = pattern.match(_said(error))
        if match is not None:
            return _sentence(explanation, _case(facts, match))
    return None


_OF_EXIT_CODE: dict[int, Explanation] = {
    126: "A shell ends with 126 where it may not execute a command: see the log.",
    127: "A shell ends with 127 where it does not find a command: see the log.",
    128 + signal.SIGILL: (
        "A library of the image was built for another processor than this machine's."
    ),
    128 + signal.SIGABRT: "Native code has given up (abort): the log may say why.",
    128 + signal.SIGBUS: _advice.bus_error,
    128 + signal.SIGFPE: "Native code has divided by zero.",
    128 + signal.SIGKILL: _advice.KILLED,
    128 + signal.SIGSEGV: _advice.CRASHED,
    128 + signal.SIGTERM: (
        "Nobody did that through the engine: a process of the job did, or one of the host."
    ),
    128 + signal.SIGSYS: (
        "It made a system call that the engine forbids: see hydra.launcher.security_opt (seccomp)."
    ),
}

_OF_ENGINE: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"could not select device driver .* with capabilities: \[\[gpu"),
        _advice.NO_TOOLKIT,
    ),
    (re.compile(r"nvidia-container-cli: initialization error"), _advice.NO_DRIVER),
    (re.compile(r"nvidia-container-cli: device error: .*unknown device"), _advice.NO_DEVICE),
    (re.compile(r"(?i)unknown (?:or invalid )?runtime"), _advice.NO_RUNTIME),
    (re.compile(r"network \S+ not found$"), _advice.NO_SUCH_NETWORK),
    # Not the job's own one, which is known by its id.
    (re.compile(r"No such container: (?![0-9a-f]{64}$)"), _advice.NO_SUCH_CONTAINER),
    (re.compile(r"cannot join network of a non running container"), _advice.NO_SUCH_CONTAINER),
    (re.compile(r"no space left on device$"), _advice.ENGINE_FULL),
)

# ---- the words -----------------------------------------------------------------------------------

#: How a traceback ends: the exception's type, and the beginning of its message.
_RAISED = r"^(?:\[rank\d+\]:[ ]?)?(?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception|gaierror):\s{0,2}"
#: How a program complains: its name, what it wanted to do, and (below) the kernel's words.
_COMPLAINED = (
    r"^(?!(?i:debug|info|note|warn|warning)\b)[\w./+-]+(?:\[\d+\])?: "
    r"(?:.*?(?:['`\u2018](?P<path>/[^'\u2019\n]{0,300})['\u2019])?: )?"
)
_PATH = r"(?:: (?P<quote>['\"])(?P<path>.+?)(?P=quote))"
_SHARED = r"</?torch_\w+>"  # a tensor of PyTorch in /dev/shm

#: Exceptions that say no more than that another process has failed.
_CHILD_FAILED = re.compile(
    r"^\w+: DataLoader worker \(pid(?:\(s\))? [\d, ]+\) (?:is killed by|exited unexpectedly)"
    r"|^(?:BrokenProcessPool|TerminatedWorkerError|CalledProcessError|ChildFailedError"
    r"|ProcessExitedException|WorkerCrashedError): "
    r"|^RuntimeError: One or more background workers are no longer alive"
)

_AT_START: tuple[tuple[re.Pattern[str], Explanation], ...] = (
    (re.compile(r"BlockingIOError: \[Errno 11\] "), _advice.processes),
    (re.compile(rf"FileNotFoundError: \[Errno 2\] .+?{_PATH}$"), _advice.no_such_program),
)

#: First what follows an exception's type, then what stands in a log by itself.
_MESSAGES: tuple[tuple[str, Explanation], ...] = (
    # PyTorch, from 0.4 to 2.9
    (r"(?:CUDA|HIP|XPU) out of memory\.", _advice.gpu_memory),
    (r"(?:CUDA|HIP)(?: driver)? error: out of memory", _advice.gpu_memory),
    (r"(?:CUDA|HIP) error: CUBLAS_STATUS_ALLOC_FAILED", _advice.gpu_memory),
    (r"cuDNN error: CUDNN_STATUS_ALLOC_FAILED", _advice.gpu_memory),
    # JAX; TensorFlow; CuPy; Numba
    (r"(?:RESOURCE_EXHAUSTED|Resource exhausted): Out of memory ", _advice.gpu_memory),
    (r".*\bOOM when allocating tensor with shape\[", _advice.gpu_memory),
    (r"Out of memory allocating [\d,]+ bytes \(allocated so far:", _advice.gpu_memory),
    (r".*\b(?:CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation)\b", _advice.gpu_memory),
    (r"Found no NVIDIA driver on your system", _advice.no_gpu),
    (r"No CUDA GPUs are available", _advice.no_gpu),
    (r".*\bno CUDA-capable device is detected", _advice.no_gpu),
    (r".*\bCUDA driver version is insufficient for CUDA runtime", _advice.no_gpu),
    (r".*\bNo visible GPU devices", _advice.no_gpu),
    (r"Unknown backend:? '?(?:gpu|cuda)\b", _advice.no_gpu),
    (r"Attempting to deserialize object on a CUDA device but", _advice.no_gpu),
    (r"libcuda\.so\.1: cannot open shared object file", _advice.no_gpu),
    (
        r"Torch not compiled with CUDA enabled",
        "The image has a PyTorch without CUDA. Install one with it in the image.",
    ),
    # /dev/shm: PyTorch's DataLoader, and its tensors that several processes share
    (r"DataLoader worker \(pid \d+\) is killed by signal: Bus error", _advice.bus_error),
    (r".*\bdied with <Signals\.SIGBUS: \d+>", _advice.bus_error),
    # children that others killed, or that crashed; the data loader has the kernel's words
    (r"DataLoader worker \(pid \d+\) is killed by signal: Killed\.", _advice.KILLED),
    (r".*\bdied with <Signals\.SIGKILL: \d+>", _advice.KILLED),
    (r"DataLoader worker \(pid \d+\) is killed by signal: Segmentation fault", _advice.CRASHED),
    (r".*\bdied with <Signals\.SIGSEGV: \d+>", _advice.CRASHED),
    (rf"unable to write to file {_SHARED}", _advice.full_shm),
    (rf"unable to .*{_SHARED}.*: No space left on device \(28\)", _advice.full_shm),
    # disks; HDF5; SQLite
    (rf"\[Errno 28\] No space left on device{_PATH}?", _advice.no_space),
    (r".*\berror message = 'No space left on device'", _advice.no_space),
    (r"database or disk is full$", _advice.no_space),
    (rf"\[Errno 122\] Disk quota exceeded{_PATH}?", _advice.quota),
    # memory; NumPy; PyTorch
    (r"Unable to allocate [\d.]+ [KMGTPE]iB for an array with shape", _advice.refused_memory),
    (r".*\bDefaultCPUAllocator: (?:can't allocate|not enough) memory", _advice.refused_memory),
    (r"\[Errno 12\] Cannot allocate memory", _advice.refused_memory),
    # files, processes, threads
    (r"\[Errno 24\] Too many open files", _advice.open_files),
    (rf".*{_SHARED}.*: Too many open files \(24\)", _advice.open_files),
    (r"received 0 items of ancdata$", _advice.open_files),
    (r"can't start new thread$", _advice.processes),
    # the network
    (r".*\[Errno -3\] Temporary failure in name resolution", _advice.no_names),
    (r".*\[Errno 101\] Network is unreachable", _advice.no_network),
    # files
    (rf"\[Errno 30\] Read-only file system{_PATH}", _advice.read_only),
    (rf"\[Errno 13\] Permission denied{_PATH}", _advice.not_permitted),
    (rf"\[Errno 2\] No such file or directory{_PATH}", _advice.no_such_file),
    (r"\[Errno 2\] No usable temporary directory found in ", _advice.no_temporary),
    (r"No module named '", _advice.NO_MODULE),
)
_NO_HANDLE = (
    r"\.cc:\d+\] (?:failed to create cublas|Could not create cudnn) handle: "
    r"(?:CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
)
_BUS_ERROR = (
    r"^ERROR: Unexpected bus error encountered in worker\. "
    r"This might be caused by insufficient shared memory \(shm\)\."
)
_NO_THREAD = (
    r"^(?:libgomp: Thread creation failed|OpenBLAS blas_thread_init: pthread_create.*): "
    r"Resource temporarily unavailable"
)
_LINES: tuple[tuple[str, Explanation], ...] = (
    (r"^MemoryError(?:: $|$)", _advice.refused_memory),
    (r"OOM when allocating tensor with shape\[[\d,]*\] and type \w+ on /job:", _advice.gpu_memory),
    (_NO_HANDLE, _advice.gpu_memory),
    (_BUS_ERROR, _advice.bus_error),
    (r"^The exit codes of the workers are \{.*\bSIGKILL\(-9\)", _advice.KILLED),
    (r"^The exit codes of the workers are \{.*\bSIGSEGV\(-11\)", _advice.CRASHED),
    (r"^[\w./+-]+: line \d+: +\d+ Killed  ", _advice.KILLED),
    (rf"{_COMPLAINED}No space left on device$", _advice.no_space),
    (rf"{_COMPLAINED}Too many open files$", _advice.open_files),
    (_NO_THREAD, _advice.processes),
    (rf"{_COMPLAINED}fork: (?:retry: )?Resource temporarily unavailable$", _advice.processes),
    (rf"{_COMPLAINED}Temporary failure in name resolution$", _advice.no_names),
)
_SYMPTOMS = tuple(
    (re.compile(pattern, re.MULTILINE), explanation)
    for pattern, explanation in (*((_RAISED + said, how) for said, how in _MESSAGES), *_LINES)
)
