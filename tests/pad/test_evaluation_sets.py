"""Each reader on real samples, or on samples rebuilt in its published layout with its quirks."""

import json
import shutil

import cv2
import numpy as np
import pytest

from msip.errors import EvaluationError
from pad.evaluation.cells import Task
from pad.evaluation.data import IGNORED, share
from pad.evaluation.detection_sets import read_detection
from pad.evaluation.probe_sets import read_probe
from pad.evaluation.segmentation_sets import MFNET, SCUT_SEG, SODA, read_segmentation

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


def plain(root):
    for name in "abc":
        pair(root / "train", name)
        pair(root / "test", f"{name}{name}")
    return root


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


def test_flir_keeps_three_categories_and_any_image_ids(tmp_path):
    categories = [{"id": n, "name": name} for n, name in ((1, "person"), (2, "bicycle"), (3, "car"), (17, "dog"))]
    for split in ("train", "val"):
        boxes = [
            {"id": 1, "image_id": 9, "category_id": 3, "bbox": [2, 3, 10, 8]},
            {"id": 2, "image_id": 4, "category_id": 17, "bbox": [2, 3, 10, 8]},
        ]
        content = coco(tmp_path / split, split, ids=[9, 4], folder="thermal_8_bit", boxes=boxes, categories=categories)
        for image in content["images"]:
            image["file_name"] = f"thermal_8_bit/{image['file_name']}"
        (tmp_path / split / "thermal_annotations.json").write_text(json.dumps(content))
    data = read_detection(tmp_path)
    assert (data.layout, data.classes) == ("FLIR ADAS v1", ("person", "bicycle", "car"))
    assert data.train[0].labels.tolist() == [2] and data.train[0].boxes.tolist() == [[2, 3, 12, 11]]
    assert len(data.train[1].boxes) == 0  # its only box is a dog's
    assert any("1 boxes of other categories left out: dog (1)" in note for note in data.notes)


@pytest.mark.realdata
def test_hit_uav_is_split_by_date_and_its_dont_care_boxes_count_for_nothing(realdata, tmp_path):
    shutil.copytree(realdata / "downstream/det_hituav", tmp_path / "set")
    data = read_detection(tmp_path / "set")
    assert (data.layout, data.classes) == ("HIT-UAV", ("Person", "Car", "Bicycle", "OtherVehicle"))
    days = {
        image["file_name"]: image["date_captured"]
        for image in json.loads((tmp_path / "set/annotations_coco.json").read_text())["images"]
    }
    assert {days[f"{item.name}.jpg"] for item in data.test} == {"20210120"}
    assert "20210120" not in {days[f"{item.name}.jpg"] for item in data.train}
    everything = (*data.train, *data.test)
    assert sum(int((~item.crowd).sum()) for item in everything) == 2391 - 4
    assert sum(int(item.crowd.sum()) for item in everything) == 4 * 4
    shipped = tmp_path / "shipped"
    shutil.copytree(realdata / "downstream/det_hituav/images", shipped / "images")
    text = (realdata / "downstream/det_hituav/annotations_as_shipped_excerpt.json").read_text()
    content = json.loads(text)
    content["images"] = [i for i in content["images"] if (shipped / "images" / i["filename"]).is_file()]
    ids = {image["id"] for image in content["images"]}
    content["annotation"] = [a for a in content["annotation"] if a["image_id"] in ids]
    (shipped / "train.json").write_text(json.dumps(content))
    if len({image["date_captured"] for image in content["images"]}) > 1:
        assert read_detection(shipped).layout == "HIT-UAV"
    else:
        with pytest.raises(EvaluationError, match="all its images are of"):
            read_detection(shipped)


def test_llvip_reads_voc(tmp_path):
    corners = "<xmin>3</xmin><ymin>4</ymin><xmax>12</xmax><ymax>11</ymax>"
    box = f"<object><name>person</name><bndbox>{corners}</bndbox></object>"
    for split, name, inner in (("train", "010001", box), ("train", "010002", ""), ("test", "190001", box)):
        write(tmp_path / "infrared" / split / f"{name}.jpg", picture())
        lines(tmp_path / "Annotations" / f"{name}.xml", f"<annotation>{inner}</annotation>")
    data = read_detection(tmp_path)
    assert data.layout == "LLVIP" and data.train[0].boxes.tolist() == [[2, 3, 12, 11]]
    assert len(data.train[1].boxes) == 0
    assert any("1 training and 0 test images without boxes are kept" in note for note in data.notes)
    (tmp_path / "Annotations/010002.xml").unlink()
    with pytest.raises(EvaluationError, match=r"010002\.jpg has no annotation file"):
        read_detection(tmp_path)


@pytest.mark.realdata
def test_yolo_of_real_images(realdata):
    data = read_detection(realdata / "downstream/det_msrs")
    assert (data.layout, data.classes) == ("YOLO", ("person", "bicycle", "car"))
    assert len(data.train) + len(data.test) == 150
    assert any("images without boxes are kept" in note for note in data.notes)
    item = next(i for i in (*data.train, *data.test) if len(i.boxes))
    text = (realdata / f"downstream/det_msrs/labels/{item.name}.txt").read_text().split()
    assert (item.boxes[0, 0] + item.boxes[0, 2]) / 2 / item.image.shape[1] == pytest.approx(float(text[1]), abs=1e-4)


def test_coco_files_that_cannot_be_used_are_one_sentence(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps(coco(tmp_path, split, ids=[7, 3], folder="images")))
    assert read_detection(tmp_path).layout == "COCO"
    whole = json.loads((tmp_path / "train.json").read_text())

    def refused(message, **changed):
        (tmp_path / "train.json").write_text(json.dumps({**whole, **changed}))
        with pytest.raises(EvaluationError, match=message):
            read_detection(tmp_path)

    refused("has 2 images and not one box", annotations=[])
    refused("image id 7 is given twice", images=[whole["images"][0]] * 2)
    refused("names the image id 99", annotations=[{**whole["annotations"][0], "image_id": 99}])
    refused("has the category 5, which is not listed", annotations=[{**whole["annotations"][0], "category_id": 5}])
    refused("which is in none of its folders", images=[{**whole["images"][0], "file_name": "no.jpg"}])
    for box in (None, [1, 2, 3], "none"):
        refused("no image_id, category_id and bbox of four", annotations=[{**whole["annotations"][0], "bbox": box}])
    refused("is no COCO file with images, annotations and categories", categories=None)
    (tmp_path / "train.json").write_text("")
    with pytest.raises(EvaluationError, match=r"train\.json is no COCO file .*it is empty"):
        read_detection(tmp_path)


def yolo(root, *text):
    for name in "abc":
        for split in ("train", "val"):
            write(root / "images" / split / f"{name}{split}.png", picture())
            lines(root / "labels" / split / f"{name}{split}.txt", "0 0.5 0.5 0.25 0.5" if name == "a" else "")
    lines(root / "classes.txt", "person")
    lines(root / "labels/train/btrain.txt", *text)
    return root


def test_yolo_lines_that_cannot_be_used_are_one_sentence_and_images_without_boxes_are_kept(tmp_path):
    data = read_detection(yolo(tmp_path, "0 1.0004 0.5 0.1 0.1", "0 0.5 0.5 0 0"))
    assert data.train[0].boxes.tolist() == [[12, 6, 20, 18]] and [len(i.boxes) for i in data.train] == [1, 1, 0]
    notes = " ".join(data.notes)
    assert "1 boxes without area" in notes and "1 training and 2 test images without boxes are kept" in notes
    for line in ("0 16 12 8 8", "0 nan 0.5 0.1 0.1", "0 0.5 0.5 0.1", "person 0.5 0.5 0.1 0.1", "0 -0.1 0.5 0.1 0.1"):
        with pytest.raises(EvaluationError, match="expected `class x y width height`, all but the class in 0 to 1"):
            read_detection(yolo(tmp_path, line))
    with pytest.raises(EvaluationError, match="has class 1, but the set names 1, 0 to 0"):
        read_detection(yolo(tmp_path, "1 0.5 0.5 0.1 0.1"))
    for file in tmp_path.rglob("labels/*/*.txt"):
        file.write_text("")
    with pytest.raises(EvaluationError, match="not one training image has a box"):
        read_detection(tmp_path)


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


def test_a_probe_of_masks_is_found_in_every_segmentation_layout(tmp_path):
    for split in ("train", "test"):
        pair(tmp_path / "msrs" / split, f"{split}1", images="ir", masks="Segmentation_labels")
        write(tmp_path / "msrs" / split / "vi" / f"{split}1.png", picture(1))
    soda(tmp_path / "soda")
    for root, layout in ((tmp_path / "msrs", "MSRS"), (tmp_path / "soda", "SODA")):
        assert Task("t", "probe", root).read().layout == layout
    assert Task("t", "probe", tmp_path / "soda/InfraredSemanticLabel").read().layout == "SODA"
    for name in "ab":
        for split in ("train", "val"):
            write(tmp_path / "classes" / split / name / f"{split}{name}.png", picture())
    assert Task("t", "probe", tmp_path / "classes").read().layout == "folders of classes"


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


def test_coco_as_roboflow_and_as_coco_itself_lay_it_out(tmp_path):
    for split in ("train", "valid"):
        home = tmp_path / "roboflow" / split
        content = coco(home, split, ids=[1, 2], folder=".")
        (home / "_annotations.coco.json").write_text(json.dumps(content))
    data = read_detection(tmp_path / "roboflow")
    assert [item.name for item in data.test] == ["valid1", "valid2"] and len(data.train) == 2
    home = tmp_path / "coco"
    for split in ("train2017", "val2017"):
        content = coco(home, split, ids=[1, 2], folder=split)
        (home / "annotations").mkdir(exist_ok=True)
        (home / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    data = read_detection(home)
    assert [item.name for item in data.test] == ["val20171", "val20172"] and len(data.train) == 2


def test_yolo_outlines_become_the_boxes_around_them_and_valid_is_a_split(tmp_path):
    root = yolo(tmp_path, "0 .125 .25 .875 .25 .875 .5 .125 .75", "0 0.5 0.5 0.25 0.5 0.9")
    data = read_detection(root)
    assert data.train[1].boxes.tolist() == [[4, 6, 28, 18], [12, 6, 20, 18]]
    assert any("1 outlines of images/train are taken as the boxes around them" in note for note in data.notes)
    for kind in ("images", "labels"):
        for split, name in (("train", "train"), ("valid", "val")):
            shutil.copytree(root / kind / name, root / "other" / split / kind)
    shutil.copy(root / "classes.txt", root / "other")
    assert len(read_detection(root / "other").test) == 3
    for line in ("0 .1 .1 .9 .1 .9 .5 .1", "0 .1 .1 .9 .1 .9 5"):
        with pytest.raises(EvaluationError, match="expected `class x y width height`"):
            read_detection(yolo(tmp_path, line))


@pytest.mark.parametrize("text", ["names: [a", "[1, 2]", "names: 3", "nc: 1"])
def test_a_yolo_file_that_names_no_classes_is_one_sentence(tmp_path, text):
    root = yolo(tmp_path)
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text(text)
    with pytest.raises(EvaluationError, match=r"is not YAML|holds a list|does not name its classes"):
        read_detection(root)


def test_coco_files_of_odd_ids_or_bytes_are_one_sentence(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps(coco(tmp_path, split, ids=[7, 3], folder="images")))
    whole = json.loads((tmp_path / "train.json").read_text())
    without = [{k: v for k, v in whole["images"][0].items() if k != "id"}]
    for changed in ({"images": without}, {"images": [{**whole["images"][0], "id": [7]}]}):
        (tmp_path / "train.json").write_text(json.dumps({**whole, **changed}))
        with pytest.raises(EvaluationError, match=r"is no COCO file|has the image id \[7\]"):
            read_detection(tmp_path)
    (tmp_path / "train.json").write_text(
        json.dumps({**whole, "annotations": [{**whole["annotations"][0], "image_id": [7]}]})
    )
    with pytest.raises(EvaluationError, match="no image_id, category_id and bbox"):
        read_detection(tmp_path)
    (tmp_path / "train.json").write_bytes(json.dumps(whole, ensure_ascii=False).encode("utf-16"))
    with pytest.raises(EvaluationError):
        read_detection(tmp_path)


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


def test_annotations_of_another_size_than_the_image_are_refused(tmp_path):
    for split in ("train", "test"):
        content = coco(tmp_path, split, ids=[7, 3], folder="images")
        content["images"][0]["width"] = WIDTH // 2 if split == "test" else WIDTH
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=r"test7\.jpg is 32 x 24 px, its annotations are for 16 x 24"):
        read_detection(tmp_path)
