"""An archive to download, and a policy that does not wait long."""

import io
import zipfile

import cv2
import numpy as np

from msip.download.transfer import Policy

PATIENCE = Policy(
    attempts=3, backoff_s=0.01, longest_wait_s=0.05, timeout_s=2, slow_bytes_per_s=50_000, slow_window_s=0.3
)


def archive() -> bytes:
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(buffer, "w") as file:
        for index in range(1, 6):
            picture = cv2.resize(rng.integers(20, 220, (6, 8), np.uint8), (840, 712), interpolation=cv2.INTER_CUBIC)
            for folder in ("trainimgr", "trainimg"):
                file.writestr(f"some/train/{folder}/{index:05d}.jpg", cv2.imencode(".jpg", picture)[1].tobytes())
    return buffer.getvalue()


DATA = archive()
