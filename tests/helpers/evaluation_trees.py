"""Small evaluation sets on disk, in the layouts that readers know."""

import cv2
import numpy as np

HEIGHT, WIDTH = 24, 32


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def picture(value=90):
    return np.full((HEIGHT, WIDTH), value, np.uint8)


def lines(path, *text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text) + "\n")


def pair(root, name, label=1, images="images", masks="masks"):
    write(root / images / f"{name}.png", picture())
    mask = picture(0)
    mask[:12] = label
    write(root / masks / f"{name}.png", mask)


def soda(root):
    home = root / "InfraredSemanticLabel"
    for name in ("0001", "0001 (1)", "~temp_0002", "0002", "0003"):
        write(home / "JPEGImages" / f"{name}.jpg", picture())
        write(home / "SegmentationClassPNG" / f"{name}.png", picture(20))
    lines(home / "train_infrared.txt", "0001 day", "0001 (1) day", "0002 night")
    lines(home / "test_infrared.txt", "0003 day")
    return root


def plain(root):
    for name in "abc":
        pair(root / "train", name)
        pair(root / "test", f"{name}{name}")
    return root


def coco(root, split, *, ids, folder, key="file_name", boxes_key="annotations", boxes=None, categories=None, date=None):
    names = [f"{split}{n}.jpg" for n in ids]
    for name in names:
        write(root / folder / name, picture())
    images = [{"id": n, key: name, "width": WIDTH, "height": HEIGHT} for n, name in zip(ids, names, strict=True)]
    for image, day in zip(images, date or [], strict=False):
        image["date_captured"] = day
    boxes = [{"id": 1, "image_id": ids[0], "category_id": 1, "bbox": [2, 3, 10, 8]}] if boxes is None else boxes
    categories = categories or [{"id": 1, "name": "person"}]
    return {"images": images, boxes_key: boxes, "categories": categories}


def yolo(root, *text):
    for name in "abc":
        for split in ("train", "val"):
            write(root / "images" / split / f"{name}{split}.png", picture())
            lines(root / "labels" / split / f"{name}{split}.txt", "0 0.5 0.5 0.25 0.5" if name == "a" else "")
    lines(root / "classes.txt", "person")
    lines(root / "labels/train/btrain.txt", *text)
    return root
