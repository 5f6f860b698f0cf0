"""Task: how the task function of a sweep is found again inside a container."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import FrameType
from typing import Any

from . import _by_value
from ._errors import TaskError


@dataclass(frozen=True, slots=True)
class Task:
    """What a container runs.

    ``kind`` is ``script`` (``target``: its path), ``module`` (as of ``python -m``), ``function``
    (``target``: ``module:name``), or ``value`` (``function``: the function itself, serialized).
    ``path`` goes to the front of ``sys.path``.
    """

    kind: str
    target: str
    argv: tuple[str, ...]
    path: tuple[str, ...]
    function: bytes | None = None


def running_script(task_function: Callable[[Any], Any]) -> Path | None:
    """Return the script that Hydra was started from, or None: a notebook, a test, a console script.

    The script counts if ``hydra.main`` called the launcher and the script is the place to start
    from again: it holds the task function, or is a Python file that imports it.
    """
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file is None or not _called_by_hydra_main():
        return None
    path = Path(file).resolve()
    if not path.is_file():
        return None
    defined_there = inspect.unwrap(task_function).__module__ == "__main__"
    return path if defined_there or path.suffix == ".py" else None


def module_file(task_function: Callable[[Any], Any]) -> Path | None:
    """Return the file that a task function is imported from; None of one that is installed."""
    name = _importable_name(task_function)
    if name is None:
        return None
    file = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    if not isinstance(file, str) or {"site-packages", "dist-packages"} & set(Path(file).parts):
        return None
    return Path(file).resolve()


def describe(task_function: Callable[[Any], Any], script: Path | None, root: Path) -> Task:
    """Return how to run ``task_function`` in a container that has the repository at ``root``.

    Raises ``TaskError`` where it can neither be imported nor be serialized.
    """
    argv = tuple(sys.argv) or ("",)
    imports = _import_path(root)
    if script is not None:
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is not None:
            folder = str(Path.cwd())
            module = str(spec.name).removesuffix(".__main__")
            return Task("module", module, argv, _front(folder, imports))
        return Task("script", str(script), argv, _front(str(script.parent), imports))
    name = _importable_name(task_function)
    if name is not None:
        return Task("function", name, argv, imports)
    return Task("value", _name(task_function), argv, imports, _serialize(task_function))


def _called_by_hydra_main() -> bool:

    file = sys.modules["hydra.main"].__file__
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  (inspect.stack() reads every source file)
    while frame is not None:
        if frame.f_code.co_name == "decorated_main" and frame.f_code.co_filename == file:
            return True
        frame = frame.f_back
    return False


def _import_path(root: Path) -> tuple[str, ...]:
    """Return where this process imports the repository's modules from (``src/`` layouts).

    These are the entries of ``sys.path``, and what only the finder of an editable install knows.
    """
    found = []
    for entry in (*sys.path, *_folders_of_modules()):
        path = Path(entry).resolve()
        inside = path == root or root in path.parents
        if inside and path.is_dir() and "site-packages" not in path.parts:
            found.append(str(path))
    return tuple(dict.fromkeys(found))


def _folders_of_modules() -> Iterator[str]:
    """Return the folders that lead to the top-level modules which have been imported by name."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or "." in name or name == "__main__":
            continue
        path = PurePath(file)
        if path.parent.name == name and path.stem == "__init__":
            yield str(path.parents[1])
        elif path.stem == name:
            yield str(path.parent)


def _front(folder: str, others: tuple[str, ...]) -> tuple[str, ...]:
    return (folder, *(other for other in others if other != folder))


def _name(task_function: Callable[[Any], Any]) -> str:
    return getattr(task_function, "__qualname__", type(task_function).__qualname__)


def _importable_name(task_function: Callable[[Any], Any]) -> str | None:
    module = getattr(task_function, "__module__", None)
    name = getattr(task_function, "__qualname__", None)
    if module in (None, "__main__") or name is None or "<" in name:
        return None
    try:
        found: Any = importlib.import_module(str(module))
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    same = found is task_function or inspect.unwrap(found) is inspect.unwrap(task_function)
    return f"{module}:{name}" if same else None


def _serialize(task_function: Callable[[Any], Any]) -> bytes:
    try:
        return _by_value.dumps(task_function)
    except Exception as error:
        raise TaskError(
            f"The task function {_name(task_function)} is in no script and cannot be imported, and "
            f"cannot be serialized either: {type(error).__name__}: {error}\n"
            "Put it into a module of the repository."
        ) from error
