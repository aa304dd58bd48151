"""Where a run's numbers and panels also go: TensorBoard where it is installed, Weights & Biases when asked."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from msip.errors import RunError
from msip.extras import need
from msip.files import write_bytes

WANDB_ID = "wandb-id.txt"


class Tracker(Protocol):
    """One of the places."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers of one log line."""

    def image(self, step: int, picture: NDArray[np.uint8]) -> None:
        """A panel, uint8 (h, w)."""

    def close(self) -> None:
        """Nothing more comes."""


class TensorBoard:
    """Event files in RUN/tensorboard; those of steps after ``step``, left by a killed run, are hidden."""

    def __init__(self, run: Path, *, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers of one log line."""
        for tag, value in values.items():
            self._events.add_scalar(tag, value, step)

    def image(self, step: int, picture: NDArray[np.uint8]) -> None:
        """A panel, uint8 (h, w)."""
        self._events.add_image("panel", picture[None], step)

    def close(self) -> None:
        """Write what is left."""
        self._events.close()


class WeightsAndBiases:
    """A run of a Weights & Biases project; a run that is continued continues there, by the id in RUN/wandb-id.txt.

    ``WANDB_MODE=offline`` keeps all in RUN/wandb until ``wandb sync``. Raises ``MissingExtra`` where wandb is
    not installed, ``RunError`` where it does not let the run in.
    """

    def __init__(self, run: Path, *, project: str, config: dict[str, Any]) -> None:
        need("wandb")
        import wandb

        self._wandb = wandb
        try:
            self._run = wandb.init(
                project=project, id=_lasting_id(run), name=run.name, dir=str(run), config=config, resume="allow"
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise RunError(
                f"Weights & Biases refuses the run ({reason:.150}); run `wandb login`, set WANDB_MODE=offline, or "
                "leave `wandb` out."
            ) from error

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers of one log line."""
        self._run.log(values, step=step)

    def image(self, step: int, picture: NDArray[np.uint8]) -> None:
        """A panel, uint8 (h, w)."""
        self._run.log({"panel": self._wandb.Image(picture)}, step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def _lasting_id(run: Path) -> str:
    path = run / WANDB_ID
    if not path.is_file():
        write_bytes(path, f"{uuid.uuid4().hex[:12]}\n".encode())
    return path.read_text().strip()
