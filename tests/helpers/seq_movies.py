"""SCUT's .seq movies, made of noise."""

import struct

import cv2
import numpy as np


def frames(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        cv2.imencode(".jpg", cv2.resize(rng.integers(0, 255, (6, 8), np.uint8), (64, 48)))[1].tobytes()
        for _ in range(count)
    ]


def movie(jpegs, stamp=8, announced=None):
    header = bytearray(1024)
    header[:4] = b"\xed\xfe\x00\x00"
    header[4:24] = "Norpix seq".encode("utf-16-le")
    struct.pack_into("<I", header, 572, len(jpegs) if announced is None else announced)
    body = b"".join(struct.pack("<I", len(jpeg) + 4) + jpeg + bytes(stamp) for jpeg in jpegs)
    return bytes(header) + body
