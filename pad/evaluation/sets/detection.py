"""Detection sets in the layouts they are published in, plain COCO and YOLO; each reader says what it left out.

Sources of the layouts: FLIR ADAS v1 (three categories, as casiatao/PAD trains on), suojiashun/HIT-UAV (its own key
names, category numbers from 0, ``DontCare``), LLVIP (VOC), MSRS detection labels (YOLO).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from msip.errors import EvaluationError, RunError
from pad.config.options import read_options
from pad.evaluation.sets.base import (
    TEST_FOLDERS,
    DetectionData,
    DetectionItem,
    Listing,
    by_stem,
    decode_all,
    images_in,
    in_test,
    list_set,
    read_image,
)

FLIR_KEPT = {1: "person", 2: "bicycle", 3: "car"}
DONT_CARE = "DontCare"
MIN_SIDE_PX = 1e-3
"""Boxes narrower or lower than this hold nothing and are left out."""

ROUNDING = 1e-3
"""YOLO's numbers may exceed 1 by so much."""
YOLO_BOX, YOLO_SCORED = 5, 6
"""Columns of a line of YOLO: class and box, and a score behind them; outlines have more, an odd number."""


@dataclass
class BoxedImage:
    """An image and its boxes (x1, y1, x2, y2, class, crowd).

    ``relative``: centre, width and height in 0 to 1. ``size``: (width, height) of the image as the annotations have it.
    """

    name: str
    image: Path
    boxes: list[tuple[float, float, float, float, int, bool]] = field(default_factory=list)
    relative: bool = False
    size: tuple[int, int] | None = None


BoxedListing = Listing[BoxedImage]
Splits = tuple[list[BoxedImage], list[BoxedImage]]


@dataclass
class _Coco:
    """A COCO file, its keys as they should be named."""

    path: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[int, str]


def _read_coco(path: Path) -> _Coco:
    """COCO, and HIT-UAV's ``filename`` and ``annotation``. Raises ``EvaluationError`` for a file without boxes."""
    try:
        content = json.loads(path.read_text())
        annotations = content["annotations"] if "annotations" in content else content["annotation"]
        images = [
            {**image, "id": image["id"], "file_name": str(image.get("file_name", image.get("filename")))}
            for image in content["images"]
        ]
        categories = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = "it is empty" if path.is_file() and not path.stat().st_size else f"{type(error).__name__}: {error}"
        raise EvaluationError(f"{path} is no COCO file with images, annotations and categories ({reason}).") from error
    unfit = next((i["id"] for i in images if not isinstance(i["id"], int | str)), None)
    if unfit is not None:
        raise EvaluationError(f"{path} has the image id {unfit!r}, expected a number; correct it.")
    if not annotations:
        raise EvaluationError(f"{path} has {len(images)} images and not one box; give the complete annotations.")
    return _Coco(path, images, annotations, categories)


def _flir(root: Path) -> BoxedListing | None:
    """FLIR ADAS v1: ``{train,val}/thermal_annotations.json``; person, bicycle and car, as the paper."""
    files = [root / split / "thermal_annotations.json" for split in ("train", "val")]
    if not all(file.is_file() for file in files):
        return None
    numbers = {category: index for index, category in enumerate(FLIR_KEPT)}
    notes = ["FLIR ADAS v1, train and val; person, bicycle and car, as the paper"]
    train, test = (_boxed(_read_coco(file), numbers, [file.parent], notes) for file in files)
    return Listing("FLIR ADAS v1", root, tuple(FLIR_KEPT.values()), (train, test), notes)


def _hit_uav(root: Path) -> BoxedListing | None:
    """Its official split has near-duplicates on both sides: split by capture date, ``DontCare`` boxes ignored."""
    files = [file for file in _coco_files(root) if DONT_CARE.encode() in file.read_bytes()]
    if not files:
        return None
    sets = [_read_coco(file) for file in files]
    dates = Counter(str(image.get("date_captured")) for part in sets for image in part.images)
    if len(dates) < 2:
        raise EvaluationError(
            f"{root}: HIT-UAV is split by capture date (date_captured), and all its images are of {next(iter(dates))}; "
            "give the set's complete annotations."
        )
    names = [name for name in sets[0].categories.values() if name != DONT_CARE]
    held_out = held_out_dates(dates)
    notes = [
        f"split by capture date, because the official split has near-duplicates in train and test: test is "
        f"{', '.join(held_out)}",
        f"{DONT_CARE} boxes are neither targets nor mistakes",
    ]
    splits: Splits = ([], [])
    for part in sets:
        numbers = {category: names.index(name) for category, name in part.categories.items() if name != DONT_CARE}
        boxed = _boxed(part, numbers, _image_homes(root, part.path), notes)
        for image, ref in zip(part.images, boxed, strict=True):
            splits[str(image.get("date_captured")) in held_out].append(ref)
    return Listing("HIT-UAV", root, tuple(names), splits, notes)


def held_out_dates(dates: Counter[str]) -> list[str]:
    """The latest dates that make up at least a fifth of the images; no date is on both sides."""
    held: list[str] = []
    for date in sorted(dates, reverse=True):
        if held and sum(dates[d] for d in held) >= dates.total() / 5:
            break
        held.append(date)
    if len(held) == len(dates):
        held = held[:1]
    return sorted(held)


def _coco(root: Path) -> BoxedListing | None:
    """COCO files named for their split, or one file, divided by a hash of the images' names."""
    files = _coco_files(root)
    if not files:
        return None
    notes: list[str] = []
    named = {split: [f for f in files if _is_of(f, split)] for split in ("train", "val", "test")}
    test = named["test"] or named["val"]
    if named["train"] and test:
        chosen = [_read_coco(_only(found, root)) for found in (named["train"], test)]
        notes.append(f"train is {chosen[0].path.name}, test is {chosen[1].path.name}")
    elif len(files) == 1:
        chosen = [_read_coco(files[0])]
        notes.append("no split given: one image in five, by a hash of its name, is test")
    else:
        raise EvaluationError(
            f"{root} has {len(files)} COCO files, but not one for train and one for val or test; name them so."
        )
    if len({tuple(sorted(part.categories.items())) for part in chosen}) > 1:
        raise EvaluationError(f"{root}: the COCO files differ in their categories; make them equal.")
    categories = sorted(chosen[0].categories)
    numbers = {category: index for index, category in enumerate(categories)}
    refs = [_boxed(part, numbers, _image_homes(root, part.path), notes) for part in chosen]
    splits = (refs[0], refs[1]) if len(refs) == 2 else _by_hash(refs[0])
    return Listing("COCO", root, tuple(chosen[0].categories[c] for c in categories), splits, notes)


def _is_of(file: Path, split: str) -> bool:
    folder = file.parent.name.lower().replace("valid", "val")
    return split in file.stem.lower() or (folder == split and file.stem.startswith("_annot"))


def _only(files: list[Path], root: Path) -> Path:
    if len(files) > 1:
        raise EvaluationError(f"{root} has {files[0].name} and {files[1].name} for one split; leave one of them.")
    return files[0]


def _by_hash(refs: list[BoxedImage]) -> Splits:
    return [ref for ref in refs if not in_test(ref.name)], [ref for ref in refs if in_test(ref.name)]


def _coco_files(root: Path) -> list[Path]:
    """The files that could be COCO annotations, below the root or one of the usual folders."""
    homes = (
        root,
        root / "annotations",
        root / "normal_json" / "annotations",
        *(root / s for s in ("train", *TEST_FOLDERS)),
    )
    found = [file for home in homes for file in sorted(home.glob("*.json"))]
    return [file for file in found if "excerpt" not in file.stem and _may_be_coco(file)]


def _may_be_coco(file: Path) -> bool:
    """Whether it names images, or is empty, which its reader says."""
    return not file.stat().st_size or b'"images"' in file.read_bytes()[: 1 << 22]


def _image_homes(root: Path, file: Path) -> list[Path]:
    """Where the images of a COCO file usually lie."""
    base = file.parent.parent if file.parent.name == "annotations" else file.parent
    split = next((name for name in ("train", "val", "test") if name in file.stem.lower()), "")
    named = file.stem.removeprefix("instances_")  # annotations/instances_train2017.json, train2017/
    folders = [base / split, base / "images" / split, root / "images" / split, base / named, base / "images" / named]
    return [root, file.parent, root / "images", *folders]


def _boxed(part: _Coco, numbers: dict[int, int], homes: list[Path], notes: list[str]) -> list[BoxedImage]:
    """The images of a COCO file with their boxes; categories outside ``numbers`` are crowds (DontCare) or left out."""
    table: dict[Any, BoxedImage] = {}
    for image in part.images:
        if image["id"] in table:
            raise EvaluationError(f"{part.path}: the image id {image['id']} is given twice; make the ids unique.")
        path = _found(image["file_name"], homes, part.path)
        wide, high = image.get("width"), image.get("height")
        size = (wide, high) if isinstance(wide, int) and isinstance(high, int) and wide and high else None
        table[image["id"]] = BoxedImage(Path(image["file_name"]).stem, path, size=size)
    left_out: Counter[str] = Counter()
    for annotation in part.annotations:
        corners, category = _coco_box(annotation, part.path)
        ref = table.get(annotation["image_id"])
        if ref is None:
            raise EvaluationError(
                f"{part.path}: a box names the image id {annotation['image_id']}, which is not listed."
            )
        if category not in part.categories and category not in numbers:
            raise EvaluationError(f"{part.path}: a box has the category {category}, which is not listed.")
        if category in numbers:
            ref.boxes.append((*corners, numbers[category], bool(annotation.get("iscrowd", 0))))
        elif part.categories.get(category) == DONT_CARE:
            ref.boxes.extend((*corners, label, True) for label in numbers.values())
        else:
            left_out[part.categories.get(category, str(category))] += 1
    if left_out:
        named = ", ".join(f"{name} ({count})" for name, count in left_out.most_common(3))
        notes.append(f"{part.path.parent.name}: {left_out.total()} boxes of other categories left out: {named}")
    return list(table.values())


def _coco_box(annotation: dict[str, Any], path: Path) -> tuple[tuple[float, float, float, float], int]:
    """Corners and category of an annotation that names an image."""
    try:
        x, y, width, height = (float(value) for value in annotation["bbox"])
        category = int(annotation["category_id"])
        hash(annotation["image_id"])
    except (TypeError, ValueError, KeyError) as error:
        raise EvaluationError(
            f"{path}: the annotation {str(annotation)[:120]} has no image_id, category_id and bbox of four numbers; "
            "correct it."
        ) from error
    return (x, y, x + width, y + height), category


def _found(file_name: str, homes: list[Path], source: Path) -> Path:
    for home in homes:
        for name in (file_name, Path(file_name).name):
            if (home / name).is_file():
                return home / name
    raise EvaluationError(f"{source} names {file_name}, which is in none of its folders, e.g. {homes[0]}; add it.")


def _llvip(root: Path) -> BoxedListing | None:
    """LLVIP: ``infrared/{train,test}`` and VOC files in ``Annotations``."""
    if not (root / "Annotations").is_dir() or not (root / "infrared" / "train").is_dir():
        return None
    train, test = (
        [_voc(image, root / "Annotations", ("person",)) for image in images_in(root / "infrared" / split)]
        for split in ("train", "test")
    )
    return Listing("LLVIP", root, ("person",), (train, test), ["infrared/train and infrared/test"])


def _voc(image: Path, annotations: Path, classes: tuple[str, ...]) -> BoxedImage:
    """Corners of VOC count pixels from 1, both ends inside: x1 and y1 move by one."""
    file = annotations / f"{image.stem}.xml"
    if not file.is_file():
        raise EvaluationError(
            f"{image} has no annotation file {file.name}; an image without objects has one without any."
        )
    try:
        tree = ElementTree.parse(file).getroot()
        ref = BoxedImage(image.stem, image)
        for thing in tree.iter("object"):
            name = str(thing.findtext("name")).strip().lower()
            if name not in classes:
                raise EvaluationError(f"{file} names the class {name!r}; expected {', '.join(classes)}.")
            x1, y1, x2, y2 = (float(str(thing.findtext(f"bndbox/{end}"))) for end in ("xmin", "ymin", "xmax", "ymax"))
            ref.boxes.append((x1 - 1, y1 - 1, x2, y2, classes.index(name), False))
    except EvaluationError:
        raise
    except (ElementTree.ParseError, ValueError) as error:
        raise EvaluationError(f"{file} is no VOC annotation ({error}); get it again.") from error
    return ref


def _yolo(root: Path) -> BoxedListing | None:
    """``images`` and ``labels``, below split folders either way round or without; an empty file has no boxes."""
    if not any((root / place).is_dir() for place in ("labels", "train/labels")):
        return None
    classes = _yolo_names(root)
    notes: list[str] = []
    for shape in ("{kind}/{split}", "{split}/{kind}"):
        homes = {split: root / shape.format(kind="images", split=split) for split in ("train", *TEST_FOLDERS)}
        test = next((split for split in TEST_FOLDERS if homes[split].is_dir()), None)
        if homes["train"].is_dir() and test:
            notes.append(f"train and {test} folders")
            first, second = (
                _yolo_folder(homes[split], root / shape.format(kind="labels", split=split), classes, notes)
                for split in ("train", test)
            )
            return Listing("YOLO", root, classes, (first, second), notes)
    notes.append("no split given: one image in five, by a hash of its name, is test")
    refs = _yolo_folder(root / "images", root / "labels", classes, notes)
    return Listing("YOLO", root, classes, _by_hash(refs), notes)


def _yolo_names(root: Path) -> tuple[str, ...]:
    """Class names: ``classes.txt``, or ``names`` of the set's YAML file."""
    file = root / "classes.txt"
    if file.is_file():
        return tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    for file in sorted((*root.glob("*.yaml"), *root.glob("*.yml"))):
        try:
            names = read_options(file).get("names")
        except RunError as error:
            raise EvaluationError(str(error)) from error
        if isinstance(names, dict | list) and names:
            return tuple(str(n) for n in (names.values() if isinstance(names, dict) else names))
    raise EvaluationError(
        f"{root} does not name its classes; write classes.txt, one name a line, in the labels' order."
    )


def _yolo_folder(images: Path, labels: Path, classes: tuple[str, ...], notes: list[str]) -> list[BoxedImage]:
    files = {path.stem: path for path in sorted(labels.glob("*.txt"))}
    refs = []
    missing = outlines = 0
    for stem, image in sorted(by_stem(images_in(images)).items()):
        ref = BoxedImage(stem, image, relative=True)
        if stem in files:
            rows = [(line, line.split()) for line in _text(files[stem]).splitlines() if line.strip()]
            ref.boxes = [_yolo_line(line, values, files[stem], classes) for line, values in rows]
            outlines += sum(len(values) > YOLO_SCORED for _, values in rows)
        else:
            missing += 1
        refs.append(ref)
    place = f"{images.parent.name}/{images.name}"
    if missing:
        notes.append(f"{missing} images of {place} have no label file: taken as without objects")
    alone = sorted(files.keys() - {ref.name for ref in refs})
    if alone:
        notes.append(f"{len(alone)} label files have no image in {place} and are left out, e.g. {alone[0]}.txt")
    if outlines:
        notes.append(f"{outlines} outlines of {place} are taken as the boxes around them")
    return refs


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{file} cannot be read ({error}); it should hold a box a line.") from error


def _yolo_line(
    line: str, columns: list[str], file: Path, classes: tuple[str, ...]
) -> tuple[float, float, float, float, int, bool]:
    """A box, one with a score behind it, or an outline (x and y of at least three corners): the box around it."""
    try:
        label, values = int(columns[0]), [float(value) for value in columns[1:YOLO_SCORED]]
        if len(columns) > YOLO_SCORED and len(columns) % 2:
            corners = np.array(columns[1:], float).reshape(-1, 2)
            low, high = corners.min(0), corners.max(0)
            values = [*((low + high) / 2).tolist(), *(high - low).tolist()]
        elif len(columns) not in (YOLO_BOX, YOLO_SCORED):
            raise ValueError(line)
        x, y, width, height = values[:4]
        if not all(0 <= value <= 1 + ROUNDING for value in (x, y, width, height)):  # NaN is not, either
            raise ValueError(line)
    except ValueError as error:
        raise EvaluationError(
            f"{file} has the line {line!r}; expected `class x y width height`, all but the class in 0 to 1."
        ) from error
    if not 0 <= label < len(classes):
        raise EvaluationError(f"{file} has class {label}, but the set names {len(classes)}, 0 to {len(classes) - 1}.")
    return x, y, width, height, label, False


LAYOUTS: dict[str, Callable[[Path], BoxedListing | None]] = {
    "flir-v1": _flir,
    "llvip": _llvip,
    "hit-uav": _hit_uav,
    "coco": _coco,
    "yolo": _yolo,
}
"""Readers, the most particular first: each returns None for a tree that is not of its layout."""


def list_detection(root: Path) -> BoxedListing:
    """The images and boxes of a folder in whatever layout it is. Raises ``EvaluationError``."""
    plain = (
        "the plain ones are images/ with a COCO .json file, or images/ and labels/ with YOLO's .txt and classes.txt."
    )
    return list_set(root, LAYOUTS, "detection", plain)


def read_detection(root: Path) -> DetectionData:
    """A detection set, decoded and checked; boxes are clipped to the image, those without area left out and counted."""
    listing = list_detection(root)
    train, test = (decode_all(refs, _decode) for refs in (listing.train, listing.test))
    if not sum(len(item.labels) for item in train):
        raise EvaluationError(f"{root}: not one training image has a box; nothing can be learnt from it.")
    if not sum(int((~item.crowd).sum()) for item in test):
        raise EvaluationError(f"{root}: not one test image has a box; there is nothing to score.")
    given = sum(len(ref.boxes) for ref in (*listing.train, *listing.test))
    flat = given - sum(len(item.labels) for item in (*train, *test))
    empty = [sum(not len(item.labels) for item in items) for items in (train, test)]
    notes = [*listing.notes]
    if flat:
        notes.append(f"{flat} boxes without area, or outside their image, left out")
    if any(empty):
        notes.append(f"{empty[0]} training and {empty[1]} test images without boxes are kept")
    return DetectionData(listing.layout, root, listing.classes, train, test, tuple(notes))


def _decode(ref: BoxedImage) -> DetectionItem:
    image = read_image(ref.image)
    height, width = image.shape
    if ref.size is not None and ref.size != (width, height):
        raise EvaluationError(
            f"{ref.image} is {width} x {height} px, its annotations are for {ref.size[0]} x {ref.size[1]}; they must "
            "be equal."
        )
    size = np.array([width, height, width, height], np.float32)
    boxes = np.array([box[:4] for box in ref.boxes], np.float32).reshape(-1, 4)
    if ref.relative:
        centre, half = boxes[:, :2].copy(), boxes[:, 2:] / 2
        boxes = np.concatenate([centre - half, centre + half], 1) * size
    boxes = boxes.clip(0, size)
    kept = ((boxes[:, 2:] - boxes[:, :2]) > MIN_SIDE_PX).all(1)
    labels = np.array([box[4] for box in ref.boxes], np.int64)
    crowd = np.array([box[5] for box in ref.boxes], bool)
    return DetectionItem(ref.name, image, boxes[kept], labels[kept], crowd[kept])
