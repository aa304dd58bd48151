"""What other packages add by entry points: camera formats, sources, methods, tasks."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TypeVar

from msip.errors import MsipError

T = TypeVar("T")


def load_plugins(group: str, expected: type[T]) -> dict[str, T]:
    """The objects that installed packages register under ``group`` (such as ``msip.cameras``), by entry point name.

    Raises ``MsipError``, naming the entry point, for one that cannot be imported or is no ``expected``, and for a name
    that two packages register.
    """
    found: dict[str, T] = {}
    for point in entry_points(group=group):
        named = f"the entry point {point.name!r} ({point.value}) in the group {group}"
        try:
            loaded = point.load()
        except Exception as error:
            raise MsipError(
                f"{named} cannot be loaded ({type(error).__name__}: {error}); mend or uninstall the package that "
                "registers it."
            ) from error
        if not isinstance(loaded, expected):
            raise MsipError(f"{named} is a {type(loaded).__name__}, expected a {expected.__name__}.")
        if point.name in found:
            raise MsipError(f"{named} is registered by two packages; uninstall one of them.")
        found[point.name] = loaded
    return found
