"""The one form in which a long job reports its progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives what a job has finished; called often, perhaps from several threads."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Take note of progress.

        Args:
            stage: a name for people; a job has one or several, one after the other or side by side.
            done: units (images, files; bytes of a download) finished since the last call of this stage, negative where
                a transfer starts again.
            total: units of the whole stage as far as they are known now.
        """


def silent(stage: str, done: int, total: int, /) -> None:
    """Show nothing: the default of every job."""
