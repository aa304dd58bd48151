"""What other packages add by entry points: camera formats, sources, methods, tasks."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from msip.errors import MsipError

T = TypeVar("T")


def load_plugins(group: str, expected: type) -> dict[str, Any]:
    """Return the objects that installed packages register under ``group`` (``msip.cameras``), by entry point name.

    Raises ``MsipError``, naming the entry point, for one that cannot be imported or is neither an ``expected`` nor a
    subclass of it, and for a name that two packages register.
    """
    found: dict[str, Any] = {}
    for point in entry_points(group=group):
        named = f"the entry point {point.name!r} ({point.value}) in the group {group}"
        try:
            loaded = point.load()
        except Exception as error:
            raise MsipError(
                f"{named} cannot be loaded ({type(error).__name__}: {error}); mend or uninstall the package that "
                "registers it."
            ) from error
        if not (issubclass(loaded, expected) if isinstance(loaded, type) else isinstance(loaded, expected)):
            raise MsipError(f"{named} is a {type(loaded).__name__}, expected a {expected.__name__}.")
        if point.name in found:
            raise MsipError(f"{named} is registered by two packages; uninstall one of them.")
        found[point.name] = loaded
    return found


def with_plugins(group: str, ours: Mapping[str, T], expected: type) -> dict[str, T]:
    """Return what installed packages register under ``group``, then ``ours``, by name; the order is that of asking.

    Raises ``MsipError`` for a broken entry point, or one that takes the name of one of ``ours``.
    """
    theirs: dict[str, T] = load_plugins(group, expected)
    if taken := sorted(theirs.keys() & ours.keys()):
        raise MsipError(f"the entry point {taken[0]!r} in the group {group} has the name of one of ours; rename it.")
    return {**theirs, **ours}
