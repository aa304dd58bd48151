"""One way to compile the hot loops: exact arithmetic, no interpreter lock, cached where the disk allows it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])


@lru_cache
def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells one state of a folder's modules from another."""
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(folder.glob("*.py")))


def exact_jit(function: Function) -> Function:
    """Compile ``function`` with IEEE arithmetic as written (no ``fastmath``, so no contraction and no re-association).

    The machine code is cached beside the module or in numba's user folder; where neither can be written, numba
    refuses at decoration time, and the function is then compiled anew in each process instead.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": False, "error_model": "numpy"}
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)
    # numba looks only at the function's own file to see whether its cache is stale, yet the machine code contains
    # functions of the other files too.
    index: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(index, "_source_stamp"):
        index._source_stamp = _stamp(Path(function.__code__.co_filename).parent)
    return compiled


@intrinsic
def float_bits(typing_context: Any, value: Any) -> Any:
    """The bit pattern of a float64 as uint64 (in compiled code only); those of non-negative floats order as they do."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.uint64(types.float64), generate
