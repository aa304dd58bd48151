"""Regions of interest by selective search, exactly as PAD's preprocessing finds them, in about a fiftieth of the time.

The reference is PAD's ``roi.py`` on the package ``selectivesearch`` 0.4 with scikit-image's ``felzenszwalb``: for the
same image, the labels, the ordered list of regions and the boxes kept are identical (x86-64; where edges of exactly
equal cost decide, the reference itself depends on the processor: see ``tie_order``).

The first call in a process loads compiled code (about a second; on a machine's first run, it is compiled for half a
minute). The functions release the interpreter lock and keep one workspace per thread, bounded by 69 bytes per pixel
and 8 more per channel (one if all channels are equal), of which about 30 are touched; workspaces of images above 4
million pixels are given back after use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from msip.rois.search import TieOrder

__all__ = [
    "extremal_boxes",
    "half_size_search",
    "regions",
    "segment",
    "selective_search",
    "warm_up",
    "warm_up_extremal",
]


def selective_search(
    image: np.ndarray,
    *,
    scale: float = 600,
    sigma: float = 0.9,
    min_size: int = 30,
    filtered: bool = True,
    tie_order: TieOrder = "index",
) -> np.ndarray:
    """Boxes of an image's regions: int32 (n, 5), the columns x, y, width, height and area, in pixels.

    image: uint8 (h, w) or (h, w, 3) in the order cv2 gives. Rows are in region order and no box comes twice (the first
    region wins). ``area`` is the region's pixel count; width and height are max - min, without + 1, as in the
    reference. With ``filtered`` only what the reference keeps is returned: area >= 600, width and height >= 40, the
    longer side at most three times the shorter.

    ``tie_order="index"`` handles edges of equal cost in (direction, pixel) order on every machine; ``"numpy"`` in the
    order ``np.argsort`` happens to give on this one, as scikit-image does (slower; for comparisons with it).

    Raises :class:`msip.errors.ImageError` for another type or shape.
    """
    from msip.rois.search import all_regions, choose, first_of_each_box

    rows = all_regions(image, scale, sigma, min_size, tie_order)
    return first_of_each_box(choose(rows) if filtered else rows)


def regions(
    image: np.ndarray, *, scale: float = 600, sigma: float = 0.9, min_size: int = 30, tie_order: TieOrder = "index"
) -> np.ndarray:
    """All regions in order of their number, segments first: int32 (n, 5), columns as :func:`selective_search`."""
    from msip.rois.search import all_regions

    return all_regions(image, scale, sigma, min_size, tie_order)


def segment(
    image: np.ndarray, *, scale: float = 600, sigma: float = 0.9, min_size: int = 30, tie_order: TieOrder = "index"
) -> np.ndarray:
    """Felzenszwalb segments: int32 labels (h, w), numbered 0, 1, ... in raster order of first appearance."""
    from msip.rois.search import segment_image

    return segment_image(image, scale, sigma, min_size, tie_order)


def half_size_search(image: np.ndarray, *, filtered: bool = True) -> np.ndarray:
    """Selective search on the image at half its size, in a quarter of the time: boxes as :func:`selective_search`.

    Not the reference's boxes; coordinates and sides are even, scale and smallest segment fit the smaller image.
    """
    from msip.rois.search import half_size_search as search

    return search(image, filtered)


def extremal_boxes(image: np.ndarray, *, filtered: bool = True) -> np.ndarray:
    """Boxes of what stands out warmer, colder or sharper, best first: see :func:`msip.rois.extremal.extremal_boxes`."""
    from msip.rois.extremal import extremal_boxes as find

    return find(image, filtered=filtered)


def warm_up_extremal() -> None:
    """As :func:`warm_up`, for :func:`extremal_boxes`."""
    import numpy as np

    extremal_boxes(np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8))


def warm_up() -> None:
    """Compile everything, or load it from the cache, for grey and colour; call it before starting workers."""
    import numpy as np

    grey = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    colour = np.stack([grey, grey[::-1], grey.T], axis=2)
    for image in (grey, colour):
        selective_search(image, min_size=5, scale=50)
