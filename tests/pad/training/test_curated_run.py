"""The way from frames to weights, by the commands: build, curate, shard a lean subset, train on exactly its images."""

import json

import cv2
import pyarrow as pa
import yaml
from curation_scenes import at_rest, scene, write
from msip_cli.main import app
from typer.testing import CliRunner

from msip import Manifest
from msip.shards import Shards
from pad.data.index import ImageIndex

SMALL = [*("--model", "test_vit", "--init", "random", "--image-size", "32", "--batch-size", "4", "--workers", "0")]
SMALL += ["--decoder-embed-dim", "32", "--decoder-depth", "1", "--decoder-num-heads", "2", "--device", "cpu"]


def msip(*arguments):
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done


def test_training_sees_exactly_the_images_of_the_lean_subset(tmp_path):
    raw, out, shards, run = (tmp_path / name for name in ("raw", "out", "shards", "run"))
    for frame in range(6):
        write(raw, f"camera/{frame}.png", at_rest(1, frame))
    for seed in range(10, 16):
        write(raw, f"other/{seed}.png", scene(seed))
    write(raw, "other/again.png", scene(10))
    write(raw, "other/small.png", cv2.resize(scene(11), None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA))
    msip("build", "--folder", raw, "--out", out, "--name", "own", "--no-rois", "--workers", 1)
    msip("curate", out, "--subset", "msip-lean", "--max-similar", 0.8, "--workers", 1)
    msip("shard", out, "--to", shards, "--subset", "msip-lean", "--exclude-flag", "duplicate", "--workers", 1)
    msip("pretrain", "--method", "mae", "--data", shards, "--out", run, "--max-steps", 2, *SMALL)

    expected = {"own/camera_0", *(f"own/other_{seed}" for seed in range(10, 16))}
    sharded, built = Shards.read(shards), Manifest.read(out).frame.set_index("image_id")
    assert set(sharded.table.column("image_id").to_pylist()) == expected
    assert sharded.summary["subset"] == "msip-lean" and sharded.summary["exclude_flags"] == ["duplicate"]
    for row in sharded.table.to_pylist():  # flags and provenance travelled
        image = built.loc[row["image_id"]]
        assert row["sha256"] == image.sha256 and row["flags"] == list(image["flags"])
        assert (row["source"], row["transform"], row["licence"]) == ("own", image["transform"], None)
    trained = ImageIndex(run / "data.arrow")
    assert len(trained) == len(expected)
    assert set(pa.ipc.open_file(str(run / "data.arrow")).read_all().column("image_id").to_pylist()) == expected
    assert yaml.safe_load((run / "run.yaml").read_text())["data"]["images"] == len(expected)


def test_what_a_flag_name_leaves_out_of_the_shards(tmp_path):
    """``--exclude-flag duplicate`` leaves near-duplicates in; ``near_duplicate`` takes them out."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    for frame in range(3):
        write(raw, f"camera/{frame}.png", at_rest(1, frame))
    for name in ("a", "b"):
        write(raw, f"{name}.png", scene(5))
    write(raw, "c.png", scene(6))
    msip("build", "--folder", raw, "--out", out, "--name", "own", "--no-rois", "--workers", 1)
    msip("curate", out, "--workers", 1)
    counts = {}
    for flag in ("duplicate", "near_duplicate", "duplicate_of:own/a", "duplicate_of:own/c"):
        to = tmp_path / flag.replace("/", "_").replace(":", "_")
        msip("shard", out, "--to", to, "--exclude-flag", flag, "--workers", 1)
        counts[flag] = json.loads((to / "shards.json").read_text())["images"]
    assert counts == {"duplicate": 5, "near_duplicate": 4, "duplicate_of:own/a": 5, "duplicate_of:own/c": 6}


def test_a_flag_that_no_image_has_is_said(tmp_path):
    raw, out, shards, run = (tmp_path / name for name in ("raw", "out", "shards", "run"))
    for number, seed in enumerate((1, 2, 3, 4, 1)):
        write(raw, f"{number}.png", scene(seed))
    msip("build", "--folder", raw, "--out", out, "--workers", 1)
    msip("curate", out, "--workers", 1)
    said = "warning: no image has the flag dupliacte, so leaving it out changes nothing (flags here: {}).\n"
    flags = ("--exclude-flag", "dupliacte", "--exclude-flag", "duplicate", "--workers")
    assert said.format("duplicate_of") in msip("export-crops", out, "--to", tmp_path / "crops", *flags, 1).stderr
    done = msip("shard", out, "--to", shards, *flags, 1, "--json")
    assert done.stderr == said.format("duplicate_of") and json.loads(done.stdout)["images"] == 4
    trained = msip("pretrain", "--method", "mae", "--data", shards, "--out", run, "--max-steps", 1, *SMALL, *flags, 0)
    assert all(said.format("none").replace("dupliacte", flag) in trained.stderr for flag in flags[1::2])
