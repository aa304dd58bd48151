"""Detection readers on real samples, or on samples rebuilt in their published layout with its quirks."""

import json
import shutil

import pytest
from evaluation_trees import WIDTH, coco, lines, picture, write, yolo

from msip.errors import EvaluationError
from pad.evaluation.sets.detection import read_detection


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


def test_annotations_of_another_size_than_the_image_are_refused(tmp_path):
    for split in ("train", "test"):
        content = coco(tmp_path, split, ids=[7, 3], folder="images")
        content["images"][0]["width"] = WIDTH // 2 if split == "test" else WIDTH
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=r"test7\.jpg is 32 x 24 px, its annotations are for 16 x 24"):
        read_detection(tmp_path)
