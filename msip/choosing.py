"""Which files of a folder of one's own are taken: no leftovers of systems; globs and a stride choose among the rest."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate

from msip.errors import LayoutError, OptionError

_LEFTOVERS = (
    # macOS, and hidden files of all systems
    *("._*", ".*", "__macosx", "network trash folder", "temporary items"),
    # Windows
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information"),
    *("found.[0-9][0-9][0-9]", "~$*"),
    # Synology, QNAP, Linux
    *("@eadir", "@tmp", "@synodrive", "#recycle", "#snapshot", "*@synoeastream", "*@synoresource"),
    *("synophoto_thumb*", "synofile_thumb*", "@recycle", "@recently-snapshot", "lost+found"),
)
"""Lower-case globs of what systems and network disks leave in folders; nobody's own ``@holiday`` is among them."""
_LEFTOVER = re.compile("|".join(translate(glob) for glob in _LEFTOVERS))


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is what a system or a network disk left, at any depth."""
    return _LEFTOVER.match(name.lower()) is not None


def leftover_kind(name: str) -> str:
    """``._img0.png`` to ``._*``: one kind of leftover for what is left beside every file; other names as they are."""
    return next((glob for glob in _LEFTOVERS if "*" in glob and glob != ".*" and fnmatchcase(name.lower(), glob)), name)


@dataclass(frozen=True)
class Choice:
    """Which frames of a folder are taken.

    Attributes:
        include: globs of which a frame must match one; all without any.
        exclude: globs of which it must match none.
        every: of the frames that are left in each folder, take the first and then every ``every``-th.

    A glob is compared, whatever the case of its letters, with the path below the folder and with each part of it:
    ``*_T.JPG``, ``masks``, ``day2/*``.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise OptionError(f"`every` is {self.every}, expected 1 or more.")

    def of(self, paths: Sequence[str], place: object) -> list[str]:
        """The ``paths`` (relative, in order) that are taken. Raises ``LayoutError`` for a glob that matches none."""
        hits = {glob: {path for path in paths if _matches(path, glob)} for glob in (*self.include, *self.exclude)}
        for glob in (glob for glob, found in hits.items() if not found):
            option = "include" if glob in self.include else "exclude"
            raise LayoutError(f"no frame in {place} matches `{option}` {glob!r} (the first is {paths[0]}); correct it.")
        included = set().union(*(hits[glob] for glob in self.include)) if self.include else set(paths)
        left = included.difference(*(hits[glob] for glob in self.exclude))
        if not left:
            raise LayoutError(f"`include` and `exclude` leave no frame of the {len(paths)} in {place}; change them.")
        seen: Counter[str] = Counter()
        taken = []
        for path in (path for path in paths if path in left):
            folder = path.rpartition("/")[0]
            if seen[folder] % self.every == 0:
                taken.append(path)
            seen[folder] += 1
        return taken

    def as_dict(self) -> dict[str, object]:
        """What differs from taking everything."""
        chosen = {"include": list(self.include), "exclude": list(self.exclude), "every": self.every}
        return {key: value for key, value in chosen.items() if value not in ([], 1)}


def _matches(path: str, glob: str) -> bool:
    path, glob = path.lower(), glob.lower()
    return any(fnmatchcase(text, glob) for text in (path, f"/{path}", *path.split("/")))
