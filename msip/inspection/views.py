"""The saved views: what each shows, how FiftyOne selects it, and how many it must hold by the manifest alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msip.inspection.rows import DARK_MEAN, LARGE_SHARE, LOW_CONTRAST_STD, SMALL_SHARE, Rows


@dataclass(frozen=True)
class View:
    """One saved view.

    Attributes:
        name: in the App's list; the address has it with hyphens.
        shows: one sentence, the view's description in the App.
        kind: ``images`` or ``patches``.
        select: from the dataset to the view.
        count: images or patches, computed from the manifest.
    """

    name: str
    shows: str
    kind: str
    select: Callable[[Any], Any]
    count: int


def make_views(rows: Rows, chosen: NDArray[np.int64], per_image: int) -> list[View]:
    """The views that make sense for a manifest.

    Args:
        rows: the manifest.
        chosen: rows whose patches are shown (``Rows.chosen_for_patches``).
        per_image: training crops of each of them.
    """
    views = [View("all images", "Every image of the manifest.", "images", lambda data: data.view(), len(rows))]
    if rows.numbers["computed"].any():
        views += _roi_views(rows, chosen)
    crops = per_image * len(chosen)
    views.append(View("training crops", "What the trainer draws, over the image.", "patches", _patches("crops"), crops))
    views += _image_views(rows)
    return views + _source_views(rows, {_slug(view.name) for view in views})


def _roi_views(rows: Rows, chosen: NDArray[np.int64]) -> list[View]:
    from fiftyone import ViewField

    shown, small, large = rows.numbers.loc[chosen, ["rois", "small", "large"]].sum().tolist()
    empty = int((rows.numbers["computed"] & (rows.numbers["rois"] == 0)).sum())
    none = "Images in which selective search found no RoI."
    no_rois = View("no RoI", none, "images", lambda data: data.match(ViewField("roi_count") == 0), empty)
    return [
        View("RoI crops", "The proposals, cut out.", "patches", _patches("rois"), shown),
        View(
            "small objects", f"RoIs below {SMALL_SHARE:.0%} of the image.", "patches", _patches("rois", "small"), small
        ),
        View(
            "large objects", f"RoIs from {LARGE_SHARE:.0%} of the image.", "patches", _patches("rois", "large"), large
        ),
        no_rois,
    ]


# What patches take along of their image: the preview that they are cut out of, and the number that the workspace's
# histogram shows (the App's panel fails on a field that a view lacks).
_OF_THE_IMAGE = ["source", "image_id", "preview", "pixel_mean"]


def _patches(field: str, label: str | None = None) -> Callable[[Any], Any]:
    def select(data: Any) -> Any:
        from fiftyone import ViewField

        view = data.match(ViewField("shown_as_patches") == True)  # noqa: E712 (an expression, not a comparison)
        if label is not None:
            view = view.filter_labels(field, ViewField("label") == label)
        return view.to_patches(field, other_fields=_OF_THE_IMAGE)

    return select


def _image_views(rows: Rows) -> list[View]:
    from fiftyone import ViewField

    flagged = sum(1 for flags in rows.flags if flags)
    is_dark = ((ViewField("pixel_mean") != None) & (ViewField("pixel_mean") < DARK_MEAN)) | (  # noqa: E711
        (ViewField("pixel_std") != None) & (ViewField("pixel_std") < LOW_CONTRAST_STD)  # noqa: E711
    )
    views = [
        View("flagged", "Images with any flag.", "images", lambda d: d.match(ViewField("flags").length() > 0), flagged),
        View(
            "dark and low contrast",
            f"Mean below {DARK_MEAN} or standard deviation below {LOW_CONTRAST_STD}, grey values 0 to 1.",
            "images",
            lambda data: data.match(is_dark),
            int(rows.numbers["dark"].sum()),
        ),
    ]
    grouped = sum(1 for group in rows.groups if group is not None)
    if grouped:
        views.append(
            View(
                "near duplicates",
                "Images flagged as duplicates, each beside the one that it repeats.",
                "images",
                lambda data: data.match(ViewField("duplicate_group") != None).sort_by("duplicate_group"),  # noqa: E711
                grouped,
            )
        )
    return views


def _source_views(rows: Rows, taken: set[str]) -> list[View]:
    views = []
    for source, count in rows.manifest.counts().items():
        name = source
        while _slug(name) in taken:  # a source may be called "flagged"
            name = f"source {name}"
        taken.add(_slug(name))
        views.append(View(name, f"Images of {source}.", "images", _of_source(source), count))
    return views


def _of_source(source: str) -> Callable[[Any], Any]:
    def select(data: Any) -> Any:
        from fiftyone import ViewField

        return data.match(ViewField("source") == source)

    return select


def _slug(name: str) -> str:
    """As FiftyOne makes addresses of names: two names with one slug cannot both be saved."""
    from fiftyone.core.utils import to_slug

    return str(to_slug(name)) if any(sign.isalnum() for sign in name) else name
