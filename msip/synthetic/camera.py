"""A synthetic uncooled microbolometer: optics, noise, counts, and the 8-bit picture that cameras show."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.synthetic.sprites import Kelvin

Polarity = Literal["white_hot", "black_hot"]

COUNTS_PER_KELVIN = 24.0  # uncooled cores give some 40 mK a count
_COUNTS_AT_ZERO_CELSIUS = 7200.0


class Camera:
    """Turns a scene's kelvin into what a camera delivers; its fixed pattern and its window stay for a whole video.

    ``blur_px``: optics (a Gaussian's deviation); ``netd_kelvin``: temporal noise of a pixel. Columns have small
    offsets of their own (fixed-pattern noise), the corners look a little warmer (the housing). ``span``: percentiles
    of the first frame that become black and white.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        *,
        polarity: Polarity = "white_hot",
        blur_px: float = 0.7,
        netd_kelvin: float = 0.06,
        span: tuple[float, float] = (0.5, 99.8),
    ) -> None:
        self._rng, self._polarity, self._blur, self._netd, self._span = rng, polarity, blur_px, netd_kelvin, span
        self._pattern: Kelvin | None = None
        self._window: tuple[float, float] | None = None

    def sense(self, kelvin: Kelvin) -> Kelvin:
        """Optics and noise: what the detector sees, in kelvin (h, w)."""
        if self._pattern is None:
            self._pattern = self._fixed_pattern(*kelvin.shape)
        seen = cv2.GaussianBlur(kelvin, (0, 0), self._blur)
        seen += self._pattern
        seen += self._rng.standard_normal(kelvin.shape, dtype=np.float32) * np.float32(self._netd)
        return seen

    def grey(self, kelvin: Kelvin) -> NDArray[np.uint8]:
        """The 8-bit picture (h, w): a linear window, set on the first frame, in the camera's polarity."""
        seen = self.sense(kelvin)
        if self._window is None:
            low, high = np.percentile(seen, self._span)
            self._window = float(low), float(max(high - low, 2.0))
        low, width = self._window
        seen -= np.float32(low)
        seen *= np.float32(255.0 / width)
        np.clip(seen, 0, 255, out=seen)
        grey = seen.astype(np.uint8)
        return grey if self._polarity == "white_hot" else 255 - grey

    def counts(self, kelvin: Kelvin) -> NDArray[np.uint16]:
        """Raw 14-bit counts (h, w) in 16 bits."""
        counts = (self.sense(kelvin) - 273.15) * COUNTS_PER_KELVIN + _COUNTS_AT_ZERO_CELSIUS
        return np.clip(np.rint(counts), 0, 2**14 - 1).astype(np.uint16)

    def centikelvin(self, kelvin: Kelvin) -> NDArray[np.uint16]:
        """Radiometric output (h, w): hundredths of a kelvin in 16 bits."""
        return np.rint(self.sense(kelvin) * 100.0).astype(np.uint16)

    def _fixed_pattern(self, height: int, width: int) -> Kelvin:
        columns = self._rng.standard_normal((1, width), dtype=np.float32) * np.float32(0.07)
        pixels = self._rng.standard_normal((height, width), dtype=np.float32) * np.float32(0.03)
        y, x = np.ogrid[-1 : 1 : complex(height), -1 : 1 : complex(width)]
        return (columns + pixels + 0.35 * (x * x + y * y) ** 1.5).astype(np.float32)


def visible(kelvin: Kelvin, tint: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A dim colour picture (h, w, 3; BGR) of the same scene for the visible partner's place; ``tint``: 3 gains."""
    detail = cv2.Laplacian(kelvin, cv2.CV_32F, ksize=3)
    grey = np.clip(70 + 6 * detail - 1.1 * np.abs(kelvin - 286), 4, 235)
    return np.clip(grey[..., None] * tint, 0, 255).astype(np.uint8)
