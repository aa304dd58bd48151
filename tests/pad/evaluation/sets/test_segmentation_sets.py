"""Segmentation readers on real samples, or on samples rebuilt in their published layout with its quirks."""

import numpy as np
import pytest
from evaluation_trees import HEIGHT, WIDTH, lines, pair, picture, plain, soda, write

from msip.errors import EvaluationError
from pad.evaluation.sets.base import IGNORED
from pad.evaluation.sets.segmentation import MFNET, SCUT_SEG, SODA, read_segmentation


def test_soda_leaves_copies_out(tmp_path):
    data = read_segmentation(soda(tmp_path))
    assert (data.layout, data.classes, len(data.classes)) == ("SODA", SODA, 21)
    assert [item.name for item in data.train] == ["0001", "0002"] and [item.name for item in data.test] == ["0003"]
    assert any("2 copies" in note for note in data.notes)


def test_mfnet_takes_the_fourth_channel_and_no_mirrored_copies(tmp_path):
    home = tmp_path / "ir_seg_dataset"
    for name in ("00001D", "00001D_flip", "00002N", "00003D"):
        rgba = np.dstack([picture(10), picture(20), picture(30), picture(200)])
        write(home / "images" / f"{name}.png", rgba)
        write(home / "labels" / f"{name}.png", picture(8))
    lines(home / "train.txt", "00001D", "00001D_flip", "00002N")
    lines(home / "val.txt", "00002N")
    lines(home / "test.txt", "00003D")
    data = read_segmentation(tmp_path)
    assert (data.layout, data.classes) == ("MFNet", MFNET)
    assert [item.name for item in data.train] == ["00001D", "00002N"]
    assert (data.train[0].image == 200).all()
    assert any("1 mirrored copies" in note for note in data.notes) and any("test.txt" in note for note in data.notes)
    write(home / "images" / "00003D.png", picture())
    with pytest.raises(EvaluationError, match="has 1 channels, MFNet's have 4"):
        read_segmentation(tmp_path)


def test_mfnet_as_pad_keeps_it(tmp_path):
    for name in ("00001D", "00002N"):
        pair(tmp_path, name, images="thermal_imgs", masks="labels")
    lines(tmp_path / "train.txt", "00001D")
    lines(tmp_path / "test.txt", "00002N")
    assert (read_segmentation(tmp_path).train[0].image == 90).all()


def test_scut_seg_and_msrs(tmp_path):
    scut = tmp_path / "scut"
    for name in ("a", "b"):
        write(scut / "images" / f"{name}.jpg", picture())
        write(scut / "gt_instance" / f"{name}_labelIds.png", picture(9))
        write(scut / "gt_instance" / f"{name}_instanceIds.png", picture(200))
    lines(scut / "scut_train.txt", "a.jpg")
    lines(scut / "scut_val.txt", "b.jpg")
    data = read_segmentation(scut)
    assert data.classes == SCUT_SEG and (data.test[0].mask == 9).all()
    assert any("MSIP" in note for note in data.notes)
    msrs = tmp_path / "msrs"
    for split in ("train", "test"):
        pair(msrs / split, "00001D", images="ir", masks="Segmentation_labels")
        write(msrs / split / "vi" / "00001D.png", picture(1))
    data = read_segmentation(msrs)
    assert (data.layout, len(data.train), data.train[0].image[0, 0]) == ("MSRS", 1, 90)


@pytest.mark.realdata
def test_plain_folders_of_real_images(realdata):
    data = read_segmentation(realdata / "downstream/seg_buffalo")
    assert (len(data.train), len(data.test), data.classes) == (136, 44, ("background", "foreground"))
    assert set(np.unique(data.train[0].mask)) == {0, 1}
    data = read_segmentation(realdata / "downstream/seg_sirst")
    assert len(data.train) + len(data.test) == 150 and not {i.name for i in data.train} & {i.name for i in data.test}


def test_a_missing_mask_a_wrong_class_and_a_wrong_size_are_one_sentence(tmp_path):
    root = plain(tmp_path)
    assert read_segmentation(root).classes == ("background", "class 1")
    (root / "train/masks/b.png").unlink()
    with pytest.raises(EvaluationError, match=r"1 of 3 images have no mask file, e\.g\. b"):
        read_segmentation(root)
    write(root / "train/masks/b.png", picture(4))
    lines(root / "classes.txt", "background", "udder")
    with pytest.raises(EvaluationError, match=r"the mask of b holds class 4, but .* has 2 classes, 0 to 1"):
        read_segmentation(root)
    write(root / "train/masks/b.png", picture()[:-1])
    with pytest.raises(EvaluationError, match="is 32 x 23 px, its image 32 x 24"):
        read_segmentation(root)
    write(root / "train/masks/b.png", np.dstack([picture(1), picture(2), picture(3)]))
    with pytest.raises(EvaluationError, match="holds colours, expected class numbers"):
        read_segmentation(root)


def test_binary_masks_need_two_classes_and_some_foreground(tmp_path):
    root = plain(tmp_path)
    for mask in root.rglob("masks/*.png"):
        write(mask, picture(0))
    with pytest.raises(EvaluationError, match="all masks are 0 everywhere"):
        read_segmentation(root)
    half = picture(0)
    half[:5] = 255
    write(root / "train/masks/a.png", half)
    assert read_segmentation(root).classes == ("background", "foreground")
    for names in (("background",), ("background", "udder", "calf")):
        lines(root / "classes.txt", *names)
        with pytest.raises(EvaluationError, match=f"hold 0 and 255, .* but classes.txt names {len(names)}"):
            read_segmentation(root)


def test_masks_and_images_that_cannot_be_read_are_named(tmp_path):
    root = plain(tmp_path)
    (root / "train/masks/b.png").write_bytes(b"")
    with pytest.raises(EvaluationError, match=r"masks/b\.png cannot be read \(no image\)"):
        read_segmentation(root)
    write(root / "train/masks/b.png", picture(1))
    image = root / "test/images/bb.png"
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(EvaluationError, match=r"images/bb\.png cannot be read \(the PNG"):
        read_segmentation(root)


def test_ignored_pixels_are_no_class(tmp_path):
    root = plain(tmp_path)
    mask = picture(2)
    mask[:4] = IGNORED
    write(root / "train/masks/a.png", mask)
    assert read_segmentation(root).classes == ("background", "class 1", "class 2")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 128], r"its masks hold 2 values \(0, 128\), expected class numbers"),
        ([0, 1, 3], r"its masks hold 3 values \(0, 1, 3\)"),
        (range(256), r"its masks hold 255 values \(0, 1, 2, 3, 4, 5 \.\.\.\)"),
        ([255], "all masks are 255 everywhere"),
        ([1], "all masks are 1 everywhere"),
        ([1, 255], "there is one class"),
    ],
)
def test_masks_without_class_numbers_are_refused_not_counted(tmp_path, values, message):
    root = plain(tmp_path)
    for mask in root.rglob("masks/*.png"):
        write(mask, np.resize(np.array(values, np.uint8), (HEIGHT, WIDTH)))
    with pytest.raises(EvaluationError, match=message):
        read_segmentation(root)


def test_masks_may_skip_classes_that_are_named_but_not_be_jpegs_or_colours(tmp_path):
    root = plain(tmp_path)
    for mask in root.rglob("masks/*.png"):
        write(mask, np.resize(np.array([0, 3], np.uint8), (HEIGHT, WIDTH)))
    lines(root / "classes.txt", "background", "cat", "dog", "cow")
    assert len(read_segmentation(root).classes) == 4
    write(root / "train/masks/b.png", np.dstack([picture(250), picture(0), picture(0)]))  # blue, in OpenCV's order
    with pytest.raises(EvaluationError, match="holds colours, expected class numbers"):
        read_segmentation(root)
    (root / "train/masks/b.png").unlink()
    write(root / "train/masks/b.jpg", picture(3))
    with pytest.raises(EvaluationError, match=r"b\.jpg is a JPEG, which changes class numbers"):
        read_segmentation(root)


def test_test_masks_of_ignored_pixels_alone_are_refused(tmp_path):
    root = plain(tmp_path)
    lines(root / "classes.txt", "background", "udder")
    for mask in (root / "test/masks").iterdir():
        write(mask, picture(IGNORED))
    with pytest.raises(EvaluationError, match="255 everywhere, which is not counted"):
        read_segmentation(root)
