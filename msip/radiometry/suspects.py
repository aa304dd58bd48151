"""What is probably no thermal frame among one's own: photographs, label masks, an image hidden in the alpha channel.

Measured on the 4,306 real images at hand: of 3,638 frames none is called a photograph or a mask, of 338 photographs 307
are, of 330 masks all. The thresholds of photographs were set on 75 of them and 32 false-colour previews.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.radiometry.checks import is_colour_mapped
from msip.radiometry.frame import RawFrame

VISIBLE_PHOTO, MASK, IMAGE_IN_ALPHA = "visible_photo", "mask", "image_in_alpha"
PHOTO_SIDE, PHOTO_SATURATION, PHOTO_SCATTER = 128, 0.6, 0.14
"""Photographs are pale (mean saturation at most 0.46; palettes from 0.62 on, paler ones are functions of brightness),
and one brightness comes in several colours (at least 0.15 of the variance of colour; pale palettes at most 0.13)."""
MASK_LEVELS, MASK_FLAT, MASK_FLAT_SURELY, MASK_SPECKLE = 64, 0.95, 0.99, 0.15
"""Masks: few levels, neighbours alike (0.995 and more; frames at most 0.984), and no speckle where they are not."""
ALPHA_LEVELS, ALPHA_BETWEEN = 32, 0.5
"""An alpha channel of more levels than this, most of them neither 0 nor full, is an image."""


def suspicions(raw: RawFrame) -> list[str]:
    """Flags for a frame of one's own that would be trained on without a word otherwise."""
    pixels = raw.pixels
    found = list(raw.flags)
    if pixels.ndim == 3 and pixels.shape[2] == 4 and is_image(pixels[..., 3]):
        found.append(IMAGE_IN_ALPHA)
    if is_mask(pixels):
        found.append(MASK)
    elif not found and pixels.dtype == np.uint8 and is_colour_mapped(pixels) and is_photograph(pixels):
        found.append(VISIBLE_PHOTO)
    return found


def is_image(alpha: NDArray) -> bool:
    """Whether a channel that should say what is transparent holds a picture."""
    levels, counts = np.unique(alpha, return_counts=True)
    inside = counts[(levels > 0) & (levels < np.iinfo(alpha.dtype).max)]
    return len(inside) > ALPHA_LEVELS and int(inside.sum()) > ALPHA_BETWEEN * alpha.size


def is_photograph(pixels: NDArray[np.uint8]) -> bool:
    """Whether a coloured image (h, w, 3 or 4) is a photograph: pale, and its colour no function of its brightness."""
    scale = min(1.0, PHOTO_SIDE / max(pixels.shape[:2]))
    small = cv2.resize(pixels[..., :3], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    colours = small.reshape(-1, 3).astype(np.float64)
    most = colours.max(axis=1)
    saturation = ((most - colours.min(axis=1)) / np.maximum(most, 1)).mean()
    brightness = (colours @ [0.114, 0.587, 0.299] / 6).astype(np.int64)
    members = np.maximum(np.bincount(brightness), 1)
    chroma = [colours[:, 2] - colours[:, 1], colours[:, 0] - colours[:, 1]]
    scatter = sum(((c - (np.bincount(brightness, c) / members)[brightness]) ** 2).mean() for c in chroma)
    return bool(saturation < PHOTO_SATURATION and scatter > PHOTO_SCATTER * sum(c.var() for c in chroma))


def is_mask(pixels: NDArray) -> bool:
    """Whether the image is made of flat regions of a few levels or colours, as label masks are."""
    plane = pixels if pixels.ndim == 2 else pixels[..., :3].astype(np.int64) @ [1, 65536, 65536**2]
    if min(plane.shape) < 16:
        return False
    flat = ((plane[:, 1:] == plane[:, :-1]).mean() + (plane[1:] == plane[:-1]).mean()) / 2
    if flat < MASK_FLAT:
        return False
    levels, labels, counts = np.unique(plane, return_inverse=True, return_counts=True)
    large = counts >= plane.size / 1000
    if not (1 < len(levels) <= 256 and large.sum() <= MASK_LEVELS and counts[large].sum() >= 0.99 * plane.size):
        return False
    labels = labels.reshape(plane.shape).astype(np.uint8)
    speckle = (labels != cv2.medianBlur(labels, 3)).mean()
    return bool(flat >= MASK_FLAT_SURELY or speckle < MASK_SPECKLE * (1 - flat))
