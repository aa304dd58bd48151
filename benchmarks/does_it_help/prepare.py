"""The data folders of compare.yaml, made from fetched repositories and a folder of real images; what is there is kept.

Nothing of the data is part of this project; each set's terms are its own. A repository is a checked-out clone or a
bare git folder. Masks and boxes that are larger than the tasks look at are halved, so that a set fits in memory.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.curation.near import near_duplicates
from msip.pipeline import build
from pad.evaluation.sets.detection import held_out_dates, list_detection

TILE = 64
TARGET_MARGIN = 12
"""Between the middle of a tile's target and the tile's edge, in pixels, unless the image ends there."""
DAY = re.compile(r"img_(20[0-9]{6})_")
"""In the names of the buffalo set."""


@dataclass(frozen=True)
class Places:
    """Where things are: fetched repositories, the folder of real images, and the folder to work in."""

    hit_uav: Path
    buffalo: Path
    sirst: Path
    msrs: Path
    tiny_imagenet: Path
    realdata: Path
    work: Path


@contextmanager
def whole(folder: Path) -> Iterator[Path | None]:
    """A temporary folder that becomes ``folder`` once it is complete; None where that is there already."""
    if folder.is_dir():
        yield None
        return
    temporary = folder.with_name(folder.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    temporary.rename(folder)


def take(repository: Path, names: list[str], to: Path) -> None:
    """Write files of a repository's newest commit below ``to``, by their names in it."""
    asked = "".join(f"HEAD:{name}\n" for name in names).encode()
    with tempfile.TemporaryFile() as lines:
        lines.write(asked)
        lines.seek(0)
        reader = subprocess.Popen([*_git(repository), "cat-file", "--batch"], stdin=lines, stdout=subprocess.PIPE)
        assert reader.stdout is not None
        for name in names:
            header = reader.stdout.readline().split()
            if header[-1:] == [b"missing"] or len(header) != 3:
                raise SystemExit(f"{repository} lacks {name}; give a complete clone, or its bare git folder.")
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes(reader.stdout.read(int(header[2])))
            reader.stdout.read(1)
        reader.wait()


def listed(repository: Path, *folders: str) -> list[str]:
    """Names of all files below folders of the newest commit."""
    command = [*_git(repository), "ls-tree", "-r", "--name-only", "HEAD", *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout:
        raise SystemExit(f"{repository} has no {folders[0]}; give a clone, or its bare git folder.")
    return sorted(done.stdout.splitlines())


def _git(repository: Path) -> list[str]:
    return ["git", f"--git-dir={repository / '.git' if (repository / '.git').exists() else repository}"]


def halve(source: Path, to: Path, *, mask: bool = False) -> None:
    """Write an image or mask at half its size."""
    image = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
    to.parent.mkdir(parents=True, exist_ok=True)
    how = cv2.INTER_NEAREST if mask else cv2.INTER_AREA
    cv2.imwrite(str(to), cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=how))


def buffalo(places: Places) -> None:
    """Udders of buffaloes, halved to 320 x 240, split by day: the set's own split cuts through series of frames.

    Test are the latest days that make up a fifth; images whose names have no day are for training.
    """
    with whole(places.work / "buffalo") as to:
        if to is None:
            return
        raw = to / "raw"
        raw.mkdir()
        take(places.buffalo, listed(places.buffalo, "data/images", "data/masks"), raw)
        days = {path: DAY.search(path.name) for path in sorted(raw.glob("data/images/*/*.png"))}
        held = held_out_dates(Counter(found[1] for found in days.values() if found))
        for image, found in days.items():
            split = "test" if found and found[1] in held else "train"
            mask = raw / "data" / "masks" / image.parent.name / image.name
            halve(image, to / split / "images" / image.name)
            halve(mask, to / split / "masks" / image.name, mask=True)
        shutil.rmtree(raw)


def sirst(places: Places) -> None:
    """SIRST-V2 with its own lists trainval_full and test_full; a mask is 0 or 1."""
    with whole(places.work / "sirst") as to:
        if to is None:
            return
        raw = to / "raw"
        raw.mkdir()
        take(places.sirst, listed(places.sirst, "mixed", "annotations/masks", "splits"), raw)
        for split, name in (("train", "trainval_full"), ("test", "test_full")):
            for stem in (raw / "splits" / f"{name}.txt").read_text().split():
                mask = raw / "annotations/masks" / f"{stem}_pixels0.png"
                image = raw / "mixed" / f"{stem}.png"
                if not mask.is_file() or not image.is_file():
                    raise SystemExit(f"SIRST-V2 lists {stem}, but lacks its image or mask.")
                for kind, source in (("images", image), ("masks", mask)):
                    (to / split / kind).mkdir(parents=True, exist_ok=True)
                    source.rename(to / split / kind / f"{stem}.png")
        shutil.rmtree(raw)


def sirst_tiles(places: Places) -> None:
    """Tiles of 64 x 64 px of SIRST-V2: one a target, which lies anywhere in it, and one a drawn place of each image.

    Half of its targets have no more than 20 of the 300,000 pixels of an image: made 128 px as a whole, they vanish.
    Where tiles lie depends on the image's name alone.
    """
    with whole(places.work / "sirst-tiles") as to:
        if to is None:
            return
        for path in sorted((places.work / "sirst").glob("*/images/*.png")):
            split = path.parts[-3]
            image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            mask = cv2.imread(str(path.parents[1] / "masks" / path.name), cv2.IMREAD_GRAYSCALE)
            for number, (top, left) in enumerate(_tile_places(mask, path.stem)):
                for kind, pixels in (("images", image), ("masks", mask)):
                    name = to / split / kind / f"{path.stem}_{number}.png"
                    name.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(name), pixels[top : top + TILE, left : left + TILE])


def _tile_places(mask: NDArray[np.uint8], name: str) -> list[tuple[int, int]]:
    """Top and left of a tile around each target's middle, then of one drawn anywhere."""
    rng = np.random.default_rng(list(name.encode()))
    rows, columns = mask.shape[0] - TILE, mask.shape[1] - TILE
    _, _, _, middles = cv2.connectedComponentsWithStats((mask > 0).astype(np.uint8))
    places = []
    for x, y in middles[1:]:
        up, along = rng.integers(TARGET_MARGIN, TILE - TARGET_MARGIN, 2)
        places.append((int(np.clip(y - up, 0, rows)), int(np.clip(x - along, 0, columns))))
    return [*places, (int(rng.integers(rows + 1)), int(rng.integers(columns + 1)))]


def hit_uav(places: Places) -> None:
    """HIT-UAV's three COCO files with images and boxes halved to 320 x 256; its reader splits by capture date."""
    with whole(places.work / "hit-uav") as to:
        if to is None:
            return
        raw = to / "raw"
        raw.mkdir()
        take(places.hit_uav, listed(places.hit_uav, "normal_json"), raw)
        (to / "annotations").mkdir()
        for split in ("train", "val", "test"):
            content = json.loads((raw / f"normal_json/annotations/{split}.json").read_text())
            for image in content["images"]:
                halve(raw / "normal_json" / split / image["filename"], to / "images" / image["filename"])
                image |= {"width": image["width"] // 2, "height": image["height"] // 2}
            for annotation in content["annotation"]:
                annotation["bbox"] = [value / 2 for value in annotation["bbox"]]
                annotation.pop("segmentation", None)
            (to / "annotations" / f"{split}.json").write_text(json.dumps(content))
        shutil.rmtree(raw)


def small_sets(places: Places) -> None:
    """MSRS boxes and solar modules, as they lie in the folder of real images."""
    for name, source in (("msrs", "det_msrs"), ("solar", "cls_solar")):
        with whole(places.work / name) as to:
            if to is not None:
                shutil.copytree(places.realdata / "downstream" / source, to, dirs_exist_ok=True)


def rgb(places: Places, per_class: int) -> None:
    """A build of Tiny-ImageNet's training images, 64 x 64, for the warm start."""
    if (places.work / "rgb" / "manifest.parquet").is_file():
        return
    with whole(places.work / "rgb-raw") as to:
        if to is not None:
            names = listed(places.tiny_imagenet, "tiny-imagenet-200/train")
            images: dict[str, list[str]] = {}
            for name in (name for name in names if name.endswith(".JPEG")):
                images.setdefault(name.split("/")[2], []).append(name)
            chosen = [name for group in images.values() for name in group[:per_class]]
            take(places.tiny_imagenet, chosen, to)
    build(None, places.work / "rgb", folder=places.work / "rgb-raw", workers=2, with_rois=False)


def infrared(places: Places) -> None:
    """Two builds, with and without RoIs, of infrared frames that are like none of the test images."""
    with whole(places.work / "infrared-raw") as to:
        if to is not None:
            _gather(places, to)
            _leave_out_test_images(places, to)
    for name, rois in (("infrared", True), ("infrared-no-roi", False)):
        if not (places.work / name / "manifest.parquet").is_file():
            build(
                None,
                places.work / name,
                folder=places.work / "infrared-raw",
                name="infrared",
                workers=2,
                with_rois=rois,
            )


def _gather(places: Places, to: Path) -> None:
    """Training images of HIT-UAV, buffalo and SIRST, MSRS without the boxed ones, and what the eight sources have."""
    for folder, images in (
        ("hit_uav", [ref.image for ref in list_detection(places.work / "hit-uav").train]),
        ("buffalo", sorted((places.work / "buffalo/train/images").iterdir())),
        ("sirst", sorted((places.work / "sirst/train/images").iterdir())),
        ("misc", sorted(p for p in (places.realdata / "pretrain_misc").rglob("*.*") if p.is_file())),
    ):
        (to / folder).mkdir()
        for image in images:
            shutil.copyfile(image, to / folder / image.name)
    boxed = {path.stem for path in (places.realdata / "downstream/det_msrs/images").iterdir()}
    names = listed(places.msrs, "MSRS/Infrared/train/MSRS")
    take(places.msrs, [name for name in names if Path(name).stem not in boxed], to)
    sources = places.work / "sources"
    build(places.realdata / "msip_sources", sources, workers=2, with_rois=False)
    for path in sorted(sources.glob("*/thermal/*")):
        (to / path.parts[-3]).mkdir(exist_ok=True)
        shutil.copyfile(path, to / path.parts[-3] / path.name)


def _leave_out_test_images(places: Places, folder: Path) -> None:
    """Remove what is a near-duplicate of a test image: the sources overlap, and films are cut into both splits."""
    tests = [ref.image for name in ("hit-uav", "msrs") for ref in list_detection(places.work / name).test]
    tests += [path for name in ("buffalo", "sirst") for path in (places.work / name / "test/images").iterdir()]
    found = near_duplicates(folder, sorted(tests))
    for image in found:
        image.path.unlink()
    print(f"preparing: {len(found)} frames that are near-duplicates of test images left out", flush=True)


def prepare(places: Places, per_class: int) -> None:
    """Make what is missing; a folder is there whole or not at all."""
    places.work.mkdir(parents=True, exist_ok=True)
    for step in (buffalo, sirst, sirst_tiles, hit_uav, small_sets, infrared):
        print(f"preparing: {step.__name__}", flush=True)
        step(places)
    print("preparing: rgb", flush=True)
    rgb(places, per_class)
