"""The fields of a dataset: their types and their meaning, declared before the first sample."""

from __future__ import annotations

from typing import Any

FIELDS: dict[str, tuple[Any, str]] = {
    "image_id": ("a/b", "<source>/<stem>: the image's name in the manifest"),
    "source": ("a", "the public source, or the folder, that it comes from"),
    "split": ("train", "of the source"),
    "sequence": ("a", "the recording"),
    "frame_index": (0, "position in the recording before the stride"),
    "bit_depth": (8, "of the raw frame"),
    "pixel_mean": (0.5, "of the stored grey image, 0 to 1"),
    "pixel_std": (0.5, "of the stored grey image, 0 to 1"),
    "roi_count": (0, "proposals of selective search"),
    "roi_mean_share": (0.5, "mean share of the image that a RoI's box covers"),
    "roi_largest_share": (0.5, "share of the image that the largest RoI's box covers"),
    "flags": (["blank"], "of the manifest, as imported; edit the tags, then run msip inspect --pull-tags"),
    "duplicate_group": ("a/b", "the image that this one repeats, or its own name if others repeat it"),
    "shown_as_patches": (True, "its RoIs and training crops are in the patch views"),
    "source_path": ("a", "inside the raw source"),
    "transform": ("a", "what was done to the raw frame"),
    "sha256": ("a", "of the stored file"),
    "phash": ("a", "perceptual hash"),
    "licence": ("a", "of the source"),
    "preview": ("/a.png", "8-bit preview of a stored 16-bit image"),
    "row_digest": (0, "changes with the manifest's row"),
}
"""Sample fields: an example that fixes the type, and the description shown in the App."""


def declare(fiftyone: Any, dataset: Any) -> None:
    """All fields with their types: one throw-away sample declares them, nothing is guessed from the data."""
    detection = fiftyone.Detection(label="small", bounding_box=[0, 0, 1, 1], area=1, order=0, share=0.5)
    crop = fiftyone.Detection(label="view 0", bounding_box=[0, 0, 1, 1], view=0, mirrored=False, share=0.5)
    size = fiftyone.ImageMetadata(size_bytes=1, mime_type="image/png", width=1, height=1, num_channels=1)
    values = {name: example for name, (example, _) in FIELDS.items()}
    sample = fiftyone.Sample(filepath="/none.png", metadata=size, **values)
    sample["rois"] = fiftyone.Detections(detections=[detection])
    sample["crops"] = fiftyone.Detections(detections=[crop])
    dataset.add_sample(sample, dynamic=True)
    dataset.delete_samples([sample.id])
    for name, (_, description) in FIELDS.items():
        declared = dataset.get_field(name)
        declared.description = description
        declared.save()


def has_fields(dataset: Any) -> bool:
    """Whether a dataset has them all: one of an earlier version may lack some."""
    schema = dataset.get_field_schema()
    return all(name in schema for name in FIELDS)
