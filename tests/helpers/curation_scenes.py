"""Synthetic frames for the tests of curation: scenes of which no two are alike, and a camera at rest."""

import cv2
import numpy as np


def scene(seed, shape=(96, 128)):
    """Smooth blobs at two scales, 20 to 220: no two alike."""
    rng = np.random.default_rng(seed)
    image = cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), 6)
    image += 0.5 * cv2.GaussianBlur(rng.normal(0, 1, shape), (0, 0), 2)
    return cv2.normalize(image, None, 20, 220, cv2.NORM_MINMAX).astype(np.uint8)


def at_rest(seed, frame, shape=(96, 128)):
    """Frame by frame the same scene with noise and a small hot thing that moves."""
    image = scene(seed, shape).astype(float) + np.random.default_rng((seed, frame)).normal(0, 3, shape)
    cv2.circle(image, (10 + 4 * frame, 40), 3, 250, -1)
    return np.clip(image, 0, 255).astype(np.uint8)


def write(folder, name, image):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path
