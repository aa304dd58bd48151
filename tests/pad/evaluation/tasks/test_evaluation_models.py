"""Views, sliding windows, probes and modes, each against a simple way to say the same."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torchvision.models.detection.image_list import ImageList

from msip.errors import EvaluationError
from pad.evaluation.sets.base import IGNORED, DetectionItem, SegmentationItem
from pad.evaluation.tasks.augment import detection_view, fitted_scale, segmentation_view, window_starts
from pad.evaluation.tasks.detection import DetectionModel, draw_detections, find
from pad.evaluation.tasks.drawing import palette
from pad.evaluation.tasks.encoder import MODES, prepare_encoder
from pad.evaluation.tasks.fitting import fit
from pad.evaluation.tasks.probe import NEIGHBOURS, TEMPERATURE, _fitted, nearest, patch_shares
from pad.evaluation.tasks.segmentation import Segmentation, SegmentationModel, predict, slide


def square(left, top, width, height, shape=(60, 80)):
    """A bright rectangle on a dark ground, and its mask."""
    mask = np.zeros(shape, np.uint8)
    mask[top : top + height, left : left + width] = 1
    return np.where(mask > 0, 200, 60).astype(np.uint8), mask


def test_a_training_crop_and_its_mask_stay_on_top_of_each_other():
    image, mask = square(20, 15, 30, 25)
    classes, padded, mirrored = set(), 0, set()
    for seed in range(40):
        view, labels = segmentation_view(SegmentationItem("a", image, mask), 48, np.random.default_rng(seed))
        assert view.shape == labels.shape == (48, 48)
        inside = cv2.erode((labels == 1).astype(np.uint8), np.ones((9, 9))) > 0
        outside = cv2.erode((labels == 0).astype(np.uint8), np.ones((9, 9))) > 0
        classes |= set(np.unique(labels).tolist())
        padded += bool((labels == IGNORED).any())
        if inside.any():
            assert len(np.unique(view[inside])) == 1  # one grey level, whatever brightness and contrast
            mirrored.add(bool(np.argwhere(labels == 1)[:, 1].mean() > 24))
        if inside.any() and outside.any():
            assert view[inside].min() > view[outside].max()
    assert classes == {0, 1, IGNORED} and 0 < padded < 40 and mirrored == {True, False}


def test_boxes_follow_what_they_enclose():
    image, _ = square(20, 15, 30, 25)
    boxes = np.array([[20, 15, 50, 40], [0, 0, 80, 60]], np.float32)
    item = DetectionItem("a", image, boxes, np.array([2, 1]), np.array([False, True]))
    seen = 0
    for seed in range(40):
        view, found, labels = detection_view(item, 64, np.random.default_rng(seed))
        bright = np.argwhere(view > 130)[:, ::-1]
        assert labels.tolist() in ([], [2])  # a crowd is no target
        if len(labels) and len(bright):
            seen += 1
            assert found[0] == pytest.approx([*bright.min(0), *(bright.max(0) + 1)], abs=1.6)
    assert seen > 20


class Gradient(torch.nn.Module):
    """Scores that depend on where a pixel lies in its window, so that overlaps matter."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        rows = torch.arange(images.shape[-1], dtype=torch.float32)
        return torch.stack([images[:, 0] * rows, rows[:, None] - images[:, 0]], 1)


def test_sliding_windows_average_what_each_of_them_says():
    rng = np.random.default_rng(0)
    canvas, size = rng.integers(0, 255, (70, 100), dtype=np.uint8), 32
    scores = slide(Gradient(), canvas, size, 3).detach().numpy()
    grey = (canvas / 255 - 0.3801) / 0.1871
    total, counts = np.zeros((2, 70, 100)), np.zeros((70, 100))
    stride = int(size * 341 / 512)
    for top in [*range(0, 70 - size, stride), 70 - size]:
        for left in [*range(0, 100 - size, stride), 100 - size]:
            window, rows = grey[top : top + size, left : left + size], np.arange(size)
            total[:, top : top + size, left : left + size] += np.stack([window * rows, rows[:, None] - window])
            counts[top : top + size, left : left + size] += 1
    assert counts.min() >= 1 and scores == pytest.approx(total / counts, abs=1e-3)
    assert window_starts(512, 512, 341) == [0] and window_starts(600, 512, 341) == [0, 88]


@pytest.mark.parametrize("shape", [(24, 40), (33, 61), (10, 300)])
def test_a_prediction_has_the_size_of_its_image(shape):
    encoder = prepare_encoder("random:test_vit", "frozen", image_size=32, drop_path=0.0, seed=0)
    model = SegmentationModel(encoder, 3).eval()
    image = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    prediction = predict(model, image, 32, 3)
    assert prediction.shape == shape and prediction.max() < 3
    assert max(shape) * fitted_scale(shape, 32) <= 4 * 32 + 1e-6


def test_detections_are_in_pixels_of_the_image():
    encoder = prepare_encoder("random:test_vit", "frozen", image_size=64, drop_path=0.0, seed=0)
    model = DetectionModel(encoder, 2, 64).eval()
    model.detector.roi_heads.score_thresh = 0.0
    found = find(model, [np.full((30, 200), 90, np.uint8), np.full((90, 45), 90, np.uint8)], 64, 3)
    for guess, (height, width) in zip(found, ((30, 200), (90, 45)), strict=True):
        assert len(guess["boxes"]) and set(guess["labels"]) <= {0, 1}
        assert guess["boxes"].min() >= 0 and (guess["boxes"] <= [width, height, width, height]).all()
        assert guess["boxes"][:, 2].max() > 0.6 * width


@pytest.mark.parametrize(("size", "proposals"), [(1024, 512), (256, 128), (64, 64)])
def test_the_box_head_learns_from_fewer_proposals_in_a_small_input(size, proposals):
    encoder = prepare_encoder("random:test_vit", "frozen", image_size=64, drop_path=0.0, seed=0)
    heads = DetectionModel(encoder, 2, size).detector.roi_heads
    boxes = torch.rand(2000, 2) * size
    targets = [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1])}]
    chosen, *_ = heads.select_training_samples([torch.cat([boxes, boxes + 8], 1)], targets)
    assert len(chosen[0]) == proposals


def test_a_narrow_pyramid_has_fewer_parameters_and_still_finds_boxes():
    encoder = prepare_encoder("random:test_vit", "frozen", image_size=64, drop_path=0.0, seed=0)
    wide, narrow = DetectionModel(encoder, 2, 64), DetectionModel(encoder, 2, 64, decoder_channels=16).eval()
    levels = narrow.detector.backbone(torch.zeros(1, 3, 64, 64))
    assert {level.shape[1] for level in levels.values()} == {16}
    assert sum(p.numel() for p in narrow.parameters()) < 0.2 * sum(p.numel() for p in wide.parameters())
    narrow.detector.roi_heads.score_thresh = 0.0
    assert len(find(narrow, [np.full((48, 64), 90, np.uint8)], 64, 3)[0]["boxes"])


@pytest.mark.parametrize(("name", "size"), [("vit_tiny_patch16_224", 448), ("vit_small_patch14_dinov2", 448)])
def test_anchors_and_pooled_features_lie_where_the_image_has_them(name, size):
    encoder = prepare_encoder(f"random:{name}", "frozen", image_size=size, drop_path=0.0, seed=0, multiple=64)
    detector = DetectionModel(encoder, 1, size, decoder_channels=16).eval().detector
    with torch.no_grad():
        maps = detector.backbone(torch.zeros(1, 3, size, size))
    sides = [level.shape[-1] for level in maps.values()]
    assert sides == [size // stride for stride in (4, 8, 16, 32, 64)]
    images = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
    anchors = detector.rpn.anchor_generator(images, list(maps.values()))[0]
    ends = np.cumsum([3 * side**2 for side in sides])
    for number, (end, side) in enumerate(zip(ends, sides, strict=True)):  # torchvision's lie at the cells' corners
        last = anchors[end - 1]
        assert ((last[:2] + last[2:]) / 2).tolist() == [size - size // side] * 2, number
    ramps = {
        key: ((torch.arange(side) + 0.5) * size / side).expand(1, 16, side, side).contiguous()
        for key, side in zip(maps, sides, strict=True)
    }
    for left, right in ((380.0, 440.0), (10.0, 30.0)):
        box = torch.tensor([[left, left, right, right]])
        pooled = detector.roi_heads.box_roi_pool(ramps, [box], [(size, size)])
        assert float(pooled.mean()) == pytest.approx((left + right) / 2, abs=2)  # RoIAlign reads half a cell beside it


def test_sizes_that_a_task_cannot_have_are_one_sentence_with_ones_that_it_can():
    for name, size, message in (
        ("test_vit", 496, "of the encoder's patches, 16 px and 64 px at once; choose 448 or 512"),
        ("test_vit", 32, "choose 64"),
        ("vit_small_patch14_dinov2", 1024, "14 px and 64 px at once; choose 896 or 1344"),
    ):
        with pytest.raises(EvaluationError, match=message):
            prepare_encoder(f"random:{name}", "frozen", image_size=size, drop_path=0.0, seed=0, multiple=64)
    with pytest.raises(EvaluationError, match="patches, 16 px; choose 96 or 112"):
        prepare_encoder("random:test_vit", "frozen", image_size=100, drop_path=0.0, seed=0)


def test_boxes_are_not_rounded_to_bf16():
    encoder = prepare_encoder("random:test_vit", "frozen", image_size=256, drop_path=0.0, seed=0)
    model = DetectionModel(encoder, 1, 256, decoder_channels=16)
    learnt = []
    model.detector.roi_heads.box_roi_pool.register_forward_hook(lambda module, given, made: learnt.extend(given[1]))
    target = {"boxes": torch.tensor([[201.3, 190.6, 214.2, 207.9]]), "labels": torch.tensor([1])}
    with torch.autocast("cpu", torch.bfloat16):
        assert model.loss(torch.zeros(1, 3, 256, 256), [target]).isfinite()
        assert (learnt[0] == target["boxes"]).all(1).any()  # the true box is one of the proposals
        model.eval().detector.roi_heads.score_thresh = 0.0
        found = find(model, [np.full((256, 256), 90, np.uint8)], 256, 3)[0]["boxes"]
    inside = found[(found > 0) & (found < 256)]
    assert len(inside) and np.mean(torch.from_numpy(inside).bfloat16().float().numpy() == inside) < 0.2


@pytest.mark.parametrize("mode", MODES)
def test_only_what_a_mode_trains_changes(mode):
    encoder = prepare_encoder("random:test_vit", mode, image_size=32, drop_path=0.1, seed=0)
    model = SegmentationModel(encoder, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(2, 3, 32, 32, generator=generator), torch.ones(2, 32, 32)) for _ in range(3)]
    cost = fit(model, iter(batches), lambda b: model.loss(*b), Segmentation.upstream, steps=3, seed=0, label=mode)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    of_encoder = {name for name in changed if name.startswith("encoder.")}
    assert changed - of_encoder  # the head
    wanted = {"frozen": lambda n: False, "adapter": lambda n: "adapt" in n, "lora": lambda n: "lora" in n}
    assert all(wanted.get(mode, lambda n: True)(name) for name in of_encoder)
    assert bool(of_encoder) == (mode != "frozen") == bool(cost.trained_encoder_parameters)
    if mode == "full":
        assert {"encoder.patch_embed.proj.weight", "encoder.pos_embed"} <= of_encoder


def test_nearest_neighbours_vote_as_by_hand():
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(90, 6)), rng.normal(size=(7, 6))
    targets = np.eye(3)[rng.integers(0, 3, 90)]
    votes = nearest(*(torch.tensor(part, dtype=torch.float32) for part in (known, targets, asked))).numpy()
    for row, query in zip(votes, asked, strict=True):
        cosine = known @ query / np.linalg.norm(known, axis=1) / np.linalg.norm(query)
        near = np.argsort(-cosine)[:NEIGHBOURS]
        weight = np.exp(cosine[near] / TEMPERATURE)
        assert row == pytest.approx((weight[:, None] * targets[near]).sum(0) / weight.sum(), abs=1e-4)


def test_the_linear_classifier_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    features, labels, decay = rng.normal(size=(120, 5)), rng.integers(0, 3, 120), 1e-2
    features[:, 0] += labels
    layer = _fitted(torch.tensor(features, dtype=torch.float32), torch.eye(3)[labels], decay)
    other = LogisticRegression(C=1 / (2 * decay * len(labels)), max_iter=1000, tol=1e-8).fit(features, labels)
    mine = layer(torch.tensor(features, dtype=torch.float32)).softmax(1).detach().numpy()
    assert mine == pytest.approx(other.predict_proba(features), abs=2e-3)


def test_a_patch_has_the_share_of_each_class_that_counts():
    mask = np.zeros((20, 30), np.uint8)
    mask[:10, :5], mask[10:, 20:] = 2, IGNORED
    shares = patch_shares(mask, (2, 3), 3).numpy()
    assert shares.tolist() == [[0.5, 0, 0.5], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_drawn_predictions_say_which_colour_is_which_class():
    image, _ = square(20, 15, 30, 25)
    item = DetectionItem("a", image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    nothing = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, int)}
    classes = tuple(f"class {n}" for n in range(7))
    sheet = cv2.imdecode(np.frombuffer(draw_detections([item], [nothing], classes), np.uint8), cv2.IMREAD_COLOR)
    key = sheet[2 * (22 + 240) :].astype(int)  # below two rows of images and their captions
    assert len(key) > 22  # they do not fit on one line
    for colour in palette(len(classes)):
        assert (np.abs(key - colour).sum(2) < 60).sum() > 50


IN_A_NEW_PROCESS = """
import sys
import torch, pad
data, out, kind = sys.argv[1:]
steps = {} if kind == "probe" else {"steps": 2, "batch_size": 2}
options = {"mode": ["frozen"], "seeds": 1, "out": out, "device": "cuda", "image_size": 64, **steps}
report = pad.evaluate("random:test_vit", kind, data, **options)
print("cpu" if report.lines[0].cost["device"] == "cpu" else "cuda")
"""


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["segmentation", "detection", "probe"])
def test_a_gpu_evaluates_in_a_process_that_has_not_used_it_yet(tmp_path, kind):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    image, mask = square(20, 10, 30, 20)
    for split in ("train", "test"):
        for name in ("a", "b"):
            for folder, pixels in (("images", image), ("masks", mask)):
                path = tmp_path / "data" / split / folder / f"{split}{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
            boxes = tmp_path / "yolo" / "labels" / split / f"{split}{name}.txt"
            boxes.parent.mkdir(parents=True, exist_ok=True)
            boxes.write_text("0 0.4375 0.3333 0.375 0.3333\n")
            picture = tmp_path / "yolo" / "images" / split / f"{split}{name}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(picture), image)
    (tmp_path / "yolo" / "classes.txt").write_text("square\n")
    data = tmp_path / ("yolo" if kind == "detection" else "data")
    run = [sys.executable, "-c", IN_A_NEW_PROCESS, str(data), str(tmp_path / "out"), kind]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.split()[-1] == "cuda", done.stderr[-2000:]
