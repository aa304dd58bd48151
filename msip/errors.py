"""Errors a user can cause or must know about.

Every one says, in one sentence, what was found, what was expected and what to do; the command line prints
that sentence and leaves with code 2, without a traceback. Each class also inherits the builtin that stands for its kind
of mistake in Python. A parameter stands in the sentence by its Python name in backquotes, perhaps with a value
(`mode=frozen`); the command line turns it into its option.
"""

from __future__ import annotations


class MsipError(Exception):
    """Root of all user errors of this project (``msip`` and ``pad``)."""


class OptionError(MsipError, ValueError):
    """A parameter has a value, or goes with another parameter, that is not possible."""


class MissingExtra(MsipError, ImportError):
    """A package is not installed that only some commands need; the sentence has the line that installs it."""

    __str__ = Exception.__str__  # ImportError's keeps the text it was made with, and the command line rewords it


class EngineError(MsipError, RuntimeError):
    """The processes or machines that work in parallel are missing or have died."""


class SourceError(MsipError, ValueError):
    """A source or corpus description (YAML) is unknown or wrong."""


class LayoutError(MsipError, FileNotFoundError):
    """A raw tree does not look as the source's layout says."""


class StemCollisionError(MsipError, ValueError):
    """Two raw frames would get the same name in the output."""


class ArchiveError(MsipError, OSError):
    """An archive cannot be read: broken, incomplete, encrypted, or of a format that needs a tool."""


class BrokenArchive(ArchiveError):
    """An archive is damaged, or not all of it is there."""


class UnsafeArchive(ArchiveError):
    """An archive wants to write outside its folder, or unpacks to far more than it should; nothing of it is kept."""


class DownloadError(MsipError, OSError):
    """A file could not be downloaded; what has arrived is kept and the next run goes on from there."""


class OutputError(MsipError, OSError):
    """The output cannot be written: no permission, no space, in use."""


class ManifestError(MsipError, ValueError):
    """A manifest is missing, unreadable or not of this project's schema."""


class ManifestNotFound(ManifestError, FileNotFoundError):
    """There is no manifest."""


class FrameError(MsipError, ValueError):
    """One frame cannot be used; builds list it under ``problems`` and go on.

    ``kind`` is one word for tables: ``broken``, ``unsupported``, ``blank``, ``collapsed``, ``too_large``.
    """

    kind = "broken"


class BrokenFrame(FrameError):
    """The bytes cannot be decoded whole (truncated, corrupt, not an image)."""

    kind = "broken"


class UnsupportedFrame(FrameError):
    """A known format that is not read here, refused by name."""

    kind = "unsupported"


class BlankFrame(FrameError):
    """Every pixel has the same value."""

    kind = "blank"


class CollapsedFrame(FrameError):
    """The 16-bit to 8-bit mapping would leave a constant image."""

    kind = "collapsed"


class TooLargeFrame(FrameError):
    """The header announces more pixels than are decoded here."""

    kind = "too_large"


class ImageError(MsipError, ValueError):
    """An array given as an image is of the wrong type or shape."""


class WeightsError(MsipError, ValueError):
    """Weights or adapters do not fit the model, or cannot be read safely."""


class ModelError(MsipError, ValueError):
    """An unknown model, or one that cannot take adapters."""


class RunError(MsipError, RuntimeError):
    """A training run's folder or configuration is in the way or inconsistent."""


class InspectionError(MsipError, RuntimeError):
    """The FiftyOne App, its database or its port cannot be used."""


class EvaluationError(MsipError, ValueError):
    """An evaluation set, a comparison's file or a result is not what an evaluation needs."""
