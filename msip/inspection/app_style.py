"""How the App looks at first: colours, the sidebar and the workspace."""

from __future__ import annotations

from typing import Any

SIZE_COLOURS = {"small": "#ffb000", "medium": "#56b4e9", "large": "#cc79a7"}
CROP_COLOUR = "#2ee6a6"
WORKSPACE = "MSIP"

_GROUPS = {
    "tags": ["tags"],
    "image": ["image_id", "source", "split", "sequence", "frame_index", "bit_depth"],
    "labels": ["rois", "crops"],
    "statistics": ["pixel_mean", "pixel_std", "roi_count", "roi_mean_share", "roi_largest_share"],
    "curation": ["flags", "duplicate_group", "shown_as_patches"],
    "provenance": ["filepath", "source_path", "transform", "licence", "sha256", "phash"],
}
_CLOSED = ("provenance", "metadata", "other")


def decorate(fiftyone: Any, dataset: Any) -> None:
    """Set colours, sidebar groups, visible fields, media fields and the workspace of a dataset."""
    config = dataset.app_config
    config.color_scheme = _colours(fiftyone)
    config.sidebar_groups = _sidebar(fiftyone, dataset)
    config.active_fields = fiftyone.ActiveFields(paths=["source", "rois"])
    with_previews = any(path is not None for path in dataset.exists("preview").limit(1).values("preview"))
    config.media_fields = ["filepath", "preview"] if with_previews else ["filepath"]
    config.grid_media_field = config.modal_media_field = "preview" if with_previews else "filepath"
    config.media_fallback = with_previews
    dataset.save()
    save_workspace(fiftyone, dataset)


def _colours(fiftyone: Any) -> Any:
    sizes = [{"value": name, "color": colour} for name, colour in SIZE_COLOURS.items()]
    fields = [
        {"path": "rois", "colorByAttribute": "label", "fieldColor": SIZE_COLOURS["medium"], "valueColors": sizes},
        {"path": "crops", "fieldColor": CROP_COLOUR, "colorByAttribute": "label", "valueColors": []},
    ]
    return fiftyone.ColorScheme(color_by="value", fields=fields, opacity=0.6)


def _sidebar(fiftyone: Any, dataset: Any) -> list[Any]:
    from fiftyone.core.odm.dataset import SidebarGroupDocument

    groups = dict(_GROUPS)
    named = {path for paths in groups.values() for path in paths}
    schema = dataset.get_field_schema(flat=True)
    groups["metadata"] = [path for path in schema if path.startswith("metadata.")]
    added = [path for path in dataset.get_field_schema() if path not in named and path not in ("metadata", "id")]
    groups["other"] = added
    return [
        SidebarGroupDocument(name=name, paths=paths, expanded=name not in _CLOSED) for name, paths in groups.items()
    ]


def save_workspace(fiftyone: Any, dataset: Any) -> None:
    """The images, and beside them histograms of the numbers per image, and the map of embeddings if there is one."""
    if WORKSPACE in dataset.list_workspaces():
        dataset.delete_workspace(WORKSPACE)
    dataset.save_workspace(WORKSPACE, make_workspace(fiftyone, dataset), description="What msip inspect opens with.")


def make_workspace(fiftyone: Any, dataset: Any) -> Any:
    """A ``fiftyone.Space``. Without ``active_child`` FiftyOne leaves the panes blank."""
    samples = fiftyone.Panel(type="Samples", pinned=True)
    beside = [fiftyone.Panel(type="Histograms", state={"path": "pixel_mean"})]
    if dataset.has_brain_runs and EMBEDDINGS in dataset.list_brain_runs():
        # The App of FiftyOne 1.22 ignores the state: it lists the maps first, and a click opens one.
        state = {"brainResult": EMBEDDINGS, "colorByField": "source"}
        beside.insert(0, fiftyone.Panel(type="Embeddings", state=state))
    return fiftyone.Space(
        children=[
            fiftyone.Space(children=[samples], active_child=samples.component_id),
            fiftyone.Space(children=beside, active_child=beside[0].component_id),
        ],
        orientation="horizontal",
        sizes=[0.7, 0.3] if len(beside) == 1 else [0.6, 0.4],  # two tabs need the room
    )


EMBEDDINGS, SIMILARITY = "msip_embeddings", "msip_similarity"
"""Brain keys of ``msip inspect --embeddings``."""
