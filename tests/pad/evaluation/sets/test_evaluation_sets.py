"""Probe readers, and what holds for the sets of every task."""

import shutil

import pytest
from evaluation_trees import lines, pair, picture, plain, soda, write, yolo

from msip.errors import EvaluationError
from pad.evaluation.sets.base import share
from pad.evaluation.sets.detection import read_detection
from pad.evaluation.sets.probe import read_probe
from pad.evaluation.sets.segmentation import read_segmentation
from pad.evaluation.tasks.registry import make_task


def test_labels_csv_of_real_images_and_shares(realdata):
    data = read_probe(realdata / "downstream/cls_solar")
    assert len(data.classes) == 12 and len(data.train) + len(data.test) == 1716
    tenth, half = share(data.train, 0.1, 1), share(data.train, 0.5, 1)
    assert {i.name for i in tenth} <= {i.name for i in half}
    assert len({i.label for i in share(data.train, 0.001, 0)}) == 12
    assert [i.name for i in share(data.train, 0.1, 1)] == [i.name for i in tenth]
    assert [i.name for i in share(data.train, 0.1, 2)] != [i.name for i in tenth]


def test_folders_of_classes(tmp_path):
    for split in ("train", "val"):
        for name in ("cold", "hot"):
            write(tmp_path / split / name / f"{split}{name}.png", picture())
    data = read_probe(tmp_path)
    assert data.classes == ("cold", "hot") and [i.label for i in data.test] == [0, 1]
    shutil.rmtree(tmp_path / "train" / "hot")
    with pytest.raises(EvaluationError, match="'hot' has no training image"):
        read_probe(tmp_path)


def test_a_probe_of_masks_is_found_in_every_segmentation_layout(tmp_path):
    for split in ("train", "test"):
        pair(tmp_path / "msrs" / split, f"{split}1", images="ir", masks="Segmentation_labels")
        write(tmp_path / "msrs" / split / "vi" / f"{split}1.png", picture(1))
    soda(tmp_path / "soda")
    for root, layout in ((tmp_path / "msrs", "MSRS"), (tmp_path / "soda", "SODA")):
        assert make_task("probe", "t", root).read().layout == layout
    assert make_task("probe", "t", tmp_path / "soda/InfraredSemanticLabel").read().layout == "SODA"
    for name in "ab":
        for split in ("train", "val"):
            write(tmp_path / "classes" / split / name / f"{split}{name}.png", picture())
    assert make_task("probe", "t", tmp_path / "classes").read().layout == "folders of classes"


def test_labels_csv_says_its_splits_in_any_case_and_leaves_val_out(tmp_path):
    for name in "abcde":
        write(tmp_path / f"{name}.png", picture())

    def rows(*text):
        lines(tmp_path / "labels.csv", "file,class,split", *text)
        return read_probe(tmp_path)

    both = ("a.png,x,Train", "b.png,y,training")
    data = rows(*both, "c.png,x,Val", "d.png,x,TEST", "e.png,y,test")
    assert [item.name for item in data.train] == ["a", "b"] and [item.name for item in data.test] == ["d", "e"]
    assert any("train and test; 1 images of val are not used" in note for note in data.notes)
    assert [item.name for item in rows(*both, "c.png,x,val").test] == ["c"]
    for row, message in (
        ("c.png,x,holdout", "line 4: the split is 'holdout'; expected train, val or test"),
        ("c.png,x,", "line 4: the split is ''"),
        ("c.png", "line 4: no file or no class"),
    ):
        with pytest.raises(EvaluationError, match=message):
            rows(*both, row)
    (tmp_path / "labels.csv").write_bytes("file,class\na.png,é\n".encode("latin-1"))
    with pytest.raises(EvaluationError, match="write it as CSV in UTF-8"):
        read_probe(tmp_path)


def test_an_image_of_both_splits_is_refused(tmp_path):
    for name in "abcd":
        pair(tmp_path / "seg", name)
        write(tmp_path / "probe" / f"{name}.png", picture())
    lines(tmp_path / "seg/train.txt", "a", "b", "c")
    lines(tmp_path / "seg/test.txt", "d", "c")
    lines(tmp_path / "probe/labels.csv", "file,class,split", "a.png,x,train", "b.png,y,train", "a.png,x,test")
    for read, folder in ((read_segmentation, "seg"), (read_probe, "probe")):
        with pytest.raises(EvaluationError, match=r"1 of . test images are training images, too, e\.g\. .*\.png"):
            read(tmp_path / folder)


def test_a_changed_pixel_or_label_is_another_set(tmp_path):
    root = plain(tmp_path)
    first, again = (read_segmentation(root).sha256 for _ in range(2))
    assert first == again
    write(root / "train/images/b.png", picture(91))
    second = read_segmentation(root).sha256
    mask = picture(0)
    mask[:11] = 1
    write(root / "test/masks/bb.png", mask)
    assert len({first, second, read_segmentation(root).sha256}) == 3


def test_labels_and_masks_without_an_image_are_named(tmp_path):
    root = plain(tmp_path / "seg")
    (root / "train/images/b.png").unlink()
    assert any(
        "1 masks of train/masks have no image and are left out, e.g. b.png" in n for n in read_segmentation(root).notes
    )
    root = yolo(tmp_path / "yolo")
    (root / "images/val/bval.png").unlink()
    notes = read_detection(root).notes
    assert any("1 label files have no image in images/val and are left out, e.g. bval.txt" in note for note in notes)
