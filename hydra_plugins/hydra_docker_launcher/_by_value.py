"""By value: functions that no module has, pickled with the names of the files they came from."""

from __future__ import annotations

import functools
import io
import pickle
import types
from collections import ChainMap
from typing import Any, ClassVar

#: What cloudpickle (from 3.1.3 on) says instead of the file that a function was defined in.
_NO_FILE = "<dynamic-code>"


@functools.cache
def pickler() -> type[pickle.Pickler]:
    """Return cloudpickle's pickler, with which tracebacks name the files of functions.

    Raises ``ImportError`` where there is no cloudpickle.
    """
    from cloudpickle import CloudPickler

    reduce_code = CloudPickler.dispatch_table[types.CodeType]

    def with_file(code: types.CodeType) -> tuple[Any, ...]:
        make, arguments = reduce_code(code)
        named = (code.co_filename if item == _NO_FILE else item for item in arguments)
        return make, tuple(named)

    class Pickler(CloudPickler):  # type: ignore[misc]
        dispatch_table: ClassVar[Any] = ChainMap(
            {types.CodeType: with_file}, CloudPickler.dispatch_table
        )

    return Pickler


def dumps(value: object) -> bytes:
    """Return a value pickled. Raises whatever the pickler does."""
    file = io.BytesIO()
    pickler()(file).dump(value)
    return file.getvalue()
