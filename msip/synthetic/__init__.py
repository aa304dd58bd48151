"""Synthetic infrared scenes, and raw trees made of them: for tests, demonstrations and documents without any data.

``write_raw`` writes all eight sources in their published layouts, ``write_folder`` a folder of 16-bit frames,
``render_scene`` and ``Scene`` give temperatures in kelvin, ``Camera`` makes 8-bit or 16-bit frames of them.
"""

from __future__ import annotations

from msip.synthetic.camera import Camera
from msip.synthetic.scenes import Scene, render_scene
from msip.synthetic.trees import write_folder, write_raw

__all__ = ["Camera", "Scene", "render_scene", "write_folder", "write_raw"]
