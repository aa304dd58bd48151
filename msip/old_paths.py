"""Modules that have moved: for one version the old path still imports, and names the new one in a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

REMOVED_IN = "0.3"


def names_of(old: str, homes: Sequence[str]) -> Callable[[str], Any]:
    """Return a module ``__getattr__`` for the path ``old`` that finds a name in ``homes``, in order, and warns."""

    def find(name: str) -> Any:
        for home in () if name.startswith("__") else homes:
            module = import_module(home)
            if hasattr(module, name):
                text = f"{old}.{name} has moved to {home}.{name}; the old path ends with version {REMOVED_IN}."
                warnings.warn(text, DeprecationWarning, stacklevel=2)
                return getattr(module, name)
        raise AttributeError(f"module {old!r} has no attribute {name!r}")

    return find


class _Moved(ModuleType):
    """An old module; where the package offers a function of its name (``pad.pretrain``), it is called as that."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


class OldPaths(MetaPathFinder, Loader):
    """Finds the modules of ``moved``: the old path to the modules that hold its names today."""

    def __init__(self, moved: Mapping[str, Sequence[str]]) -> None:
        self.moved = moved

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return a spec for an old path, ``None`` for every other name."""
        return ModuleSpec(fullname, self) if fullname in self.moved else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty module that can be called."""
        return _Moved(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Let the module find its names where they are today."""
        vars(module)["__getattr__"] = names_of(module.__name__, self.moved[module.__name__])


def register(moved: Mapping[str, Sequence[str]]) -> None:
    """Make the old paths of ``moved`` importable; asked last, after every module that exists."""
    sys.meta_path.append(OldPaths(moved))
