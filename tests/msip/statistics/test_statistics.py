"""``msip stats``: every number that is shown, counted again from the manifest and the files by other means."""

import html
import json
import re
from collections import Counter
from pathlib import Path

import cv2
import mlcroissant
import numpy as np
import pandas as pd
import pytest
import yaml
from curation_scenes import at_rest, scene, write
from msip_cli.main import app
from scipy.stats import entropy

from msip import Manifest, build
from msip.curation.curate import curate
from msip.errors import ManifestError
from msip.manifest import SCHEMA, flag_name
from msip.statistics import stats

FACTS = Path(__file__).parents[3] / "data_manifests"
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Frames under the names of two public sources and of one's own, one image flagged, one broken afterwards."""
    folder = tmp_path_factory.mktemp("stats")
    out = folder / "out"
    for frame in range(5):
        write(folder, f"llvip/seq_{frame}.png", at_rest(1, frame))
    write(folder, "llvip/wide.png", scene(5, (90, 160)))
    for seed in (10, 11, 12):
        write(folder, f"hit_uav/{seed}.jpg", scene(seed))
    write(folder, "hit_uav/12_again.png", scene(12))
    write(folder, "own/16_bit.png", scene(13).astype(np.uint16) * 64 + 7000)
    write(folder, "own/broken.png", scene(14))
    for name in ("llvip", "hit_uav", "own"):
        build(None, out, folder=folder / name, name=name, keep_blank=True, with_rois=name != "own")
    rows = Manifest.read(out).table.to_pylist()
    for row in rows:
        row["sequence"] = "seq" if "/seq_" in row["image_id"] else None
    Manifest.from_rows(rows, out).write()
    (out / "own/thermal/broken.png").write_bytes(b"\x89PNG")
    return out


def spread(values):
    """A distribution, by pandas."""
    series = pd.Series(list(values), dtype=float)
    if series.empty:
        return {"count": 0}
    names = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
    quantiles = {name: series.quantile(share) for name, share in names.items()}
    return {"count": len(series), "mean": series.mean(), "min": series.min(), "max": series.max(), **quantiles}


def recount(out, rows):
    """The numbers of some rows of the manifest, from the files: nothing here is the program's."""
    greys = [cv2.imread(str(out / path), cv2.IMREAD_GRAYSCALE) for path in rows.path]
    seen = [grey for grey in greys if grey is not None]
    pixels = np.concatenate([grey.ravel() for grey in seen]).astype(float) / 255 if seen else np.zeros(0)
    counts = [np.bincount(grey.ravel(), minlength=256) for grey in seen]
    percent = [[int(np.searchsorted(np.cumsum(c) / c.sum(), q)) for q in (0.01, 0.99)] for c in counts]
    boxes = [(box, row) for row in rows.itertuples() if row.rois is not None for box in row.rois]
    sequences = [(row.source, row.sequence) for row in rows.itertuples() if not pd.isna(row.sequence)]
    flags = Counter(flag_name(flag) for values in rows["flags"] for flag in values)
    known = [row.rois for row in rows.itertuples() if row.rois is not None]
    curation = pd.read_parquet(out / "curation.parquet").set_index("image_id").loc[rows.image_id]
    relations = {"same sequence": "sequence", "same source": "source", "other source": "other_source"}
    return {
        "images": len(rows),
        "unreadable": len(greys) - len(seen),
        "bytes": sum((out / path).stat().st_size for path in rows.path),
        "sizes": {"distinct": len(set(zip(rows.width, rows.height, strict=True)))}
        | {"common": Counter(f"{w}x{h}" for w, h in zip(rows.width, rows.height, strict=True))},
        "bit_depths": Counter(str(bits) for bits in rows.bit_depth),
        "channels": Counter(str(channels) for channels in rows.channels),
        "formats": Counter(path.split(".")[-1] for path in rows.path),
        "splits": Counter("unknown" if pd.isna(split) else split for split in rows.split),
        "brightness": spread(grey.mean() / 255 for grey in seen),
        "contrast": spread((high - low) / 255 for low, high in percent),
        "entropy": spread(entropy(c, base=2) for c in counts),
        "grey_levels": np.histogram(pixels * 255, 32, (0, 256))[0].tolist(),
        "rois": {
            "total": len(boxes),
            "images_without": sum(len(rois) == 0 for rois in known),
            "images_not_computed": len(rows) - len(known),
        },
        "rois_per_image": spread(len(rois) for rois in known),
        "roi_side": spread((b["width"] * b["height"] / row.width / row.height) ** 0.5 for b, row in boxes),
        "sequences": {"count": len(set(sequences)), "images_outside": len(rows) - len(sequences)},
        "sequence_length": spread(Counter(sequences).values()),
        "flags": dict(flags),
        "duplicates": {
            "known": True,
            "exact": flags["duplicate_of"],
            "near": flags["near_duplicate_of"],
            "exact_share": flags["duplicate_of"] / len(rows),
            "near_share": flags["near_duplicate_of"] / len(rows),
            "images_with_one_in": {
                key: int(curation[f"{name}_match"].notna().sum()) for key, name in relations.items()
            },
        },
    }


def recount_normalisation(out, rows):
    """From pixels: of a broken file what the manifest kept of it when it was whole."""
    means, stds, sizes = [], [], []
    for row in rows.itertuples():
        grey = cv2.imread(str(out / row.path), cv2.IMREAD_GRAYSCALE)
        means.append(row.pixel_mean if grey is None else grey.mean() / 255)
        stds.append(row.pixel_std if grey is None else grey.std() / 255)
        sizes.append(row.width * row.height)
    return {name: pooled(means, stds, w) for name, w in (("per_image", None), ("per_pixel", sizes))} | {
        "mean_of_stds": float(np.mean(stds))
    }


def pooled(means, stds, weights):
    second = np.average(np.square(stds) + np.square(means), weights=weights)
    mean = np.average(means, weights=weights)
    return {"mean": mean, "std": (second - mean**2) ** 0.5}


def expected(out):
    """All of ``stats.json`` that is counted, again."""
    frame = Manifest.read(out).table.to_pandas()
    parts = {"overall": frame} | {f"sources/{name}": frame[frame.source == name] for name in frame.source.unique()}
    result = {"build/sources": frame.source.nunique(), "reference/mean": 0.3801, "reference/std": 0.1871}
    for part, rows in parts.items():
        counted = recount(out, rows) | {"normalisation": recount_normalisation(out, rows)}
        result |= flat(counted, part)
    answers = {}
    for name in frame.source.unique():
        file = FACTS / f"{name}.yaml"
        answers[name] = str(yaml.safe_load(file.read_text())["licence"]["commercial"]) if file.is_file() else "unknown"
    for answer in ("yes", "no", "unknown"):
        images = int(frame.source.map(answers).eq(answer).sum())
        result |= {f"commercial/{answer}/images": images, f"commercial/{answer}/share": images / len(frame)}
    return result


def flat(value, prefix):
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: leaf for name, item in value.items() for key, leaf in flat(item, f"{prefix}/{name}").items()}


@pytest.fixture(scope="module")
def made(built):
    curate(built, workers=1)
    before = Manifest.read(built).digest()
    report = stats(built, workers=1)
    assert Manifest.read(built).digest() == before
    return report


def test_every_number_of_the_json_is_counted_again(built, made):
    stored = json.loads((built / "stats/stats.json").read_text())
    assert stored == made.numbers
    told = {
        k: v for part in ("overall", "sources", "commercial", "reference") for k, v in flat(stored[part], part).items()
    }
    told["build/sources"] = stored["build"]["sources"]
    again = expected(built)
    assert set(told) == set(again)
    for key, value in told.items():
        assert value == pytest.approx(again[key], rel=2e-5), key
    assert told["overall/duplicates/exact"] == 0 and told["overall/duplicates/near"] == 5  # 4 of the camera, the copy
    assert told["sources/own/unreadable"] == 1 and told["sources/own/bit_depths/16"] == 1


def displayed(text):
    """A number as people read it, and half a unit of its last digit."""
    number = re.match(r"-?[\d,]*\.?\d+(e-?\d+)?", text)[0].replace(",", "")
    unit = text.split(" ")[-1]
    factor = UNITS.get(unit, 0.01 if unit == "%" else 1)
    mantissa, _, exponent = number.partition("e")
    digits = len(mantissa.partition(".")[2])
    return float(number) * factor, 0.5001 * 10.0 ** (int(exponent or 0) - digits) * factor


def test_every_number_of_the_page_is_one_of_them(built, made):
    page = (built / "stats/index.html").read_text()
    again = expected(built)
    cells = re.findall(r'data-key="([^"]+)"[^>]*>([^<]*)<', page)
    assert len(cells) > 200
    for key, text in cells:
        if inner := {k[len(key) + 1 :]: v for k, v in again.items() if k.startswith(key + "/")}:
            named = re.findall(r"(\w+) \(([\d,]+)\)", html.unescape(text))  # "jpg (3), png (8)", or the first of them
            assert named and all(inner[name] == int(count.replace(",", "")) for name, count in named), key
        elif text == "-":
            assert again.get(key) is None, key
        else:
            value, margin = displayed(html.unescape(text))
            assert value == pytest.approx(again[key], abs=margin, rel=2e-5), key
    body = page[page.index("<table") :]
    loose = re.findall(r"<td>([^<]*\d[^<]*)</td>", body)
    assert loose == []  # no number without its key


def test_the_plots_tell_the_same_numbers(built, made):
    again = expected(built)
    bars = (built / "stats/images.svg").read_text()
    assert re.findall(r'class="name"[^>]*>([^<]+)<', bars) == ["llvip", "hit_uav", "own"]
    assert re.findall(r"<text x=[^>]*>(\d+)<", bars) == ["6", "4", "2"]
    strips = (built / "stats/brightness.svg").read_text()
    for name in ("llvip", "hit_uav", "own"):
        told = dict(re.findall(r"(\d\d) %: ([\d.]+)", re.search(rf"<title>{name}: ([^<]*)<", strips)[1]))
        for quantile, text in told.items():
            assert float(text) == pytest.approx(again[f"sources/{name}/brightness/q{quantile}"], rel=5e-3)
    levels = re.findall(r": ([\d.]+)%</title>", (built / "stats/grey_levels.svg").read_text())
    counts = np.array(again["overall/grey_levels"])
    assert np.allclose(np.array(levels, float) / 100, counts / counts.sum(), atol=6e-5)


def test_the_page_stands_alone(built, made):
    page = (built / "stats/index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|https?://)[^"]*"', page) and "<script" not in page
    assert cv2.imread(str(built / "stats/samples.jpg")).shape[1] == 8 * 154 + 4


def test_the_card_names_terms_and_numbers(built, made):
    card = (built / "data-card.md").read_text()
    facts = yaml.safe_load(card.split("---")[1])
    assert facts["license"] == "other"
    assert "| [hit_uav](https://github.com/suojiashun/HIT-UAV-Infrared-Thermal-Dataset) | 4 |" in card
    assert "May be used commercially: 4 images (33.3 %). May not: 6 (50.0 %)." in card
    assert "CC-BY-4.0" in card and "LLVIP Term of Use and License" in card
    assert "no commercial use of the data or of what derives from it" in card
    for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", card):
        assert (built / picture).is_file()


@pytest.mark.filterwarnings("ignore")  # of the reader's own libraries
def test_croissant_is_valid_and_reads_the_manifest(built, made):
    data = mlcroissant.Dataset(str(built / "croissant.json"))
    assert not data.metadata.issues.errors
    assert [issue for issue in data.metadata.issues.warnings if "datePublished" not in issue] == []  # not published yet
    records = list(data.records("images"))
    table = Manifest.read(built).table
    assert [record["images/image_id"].decode() for record in records] == table.column("image_id").to_pylist()
    assert [record["images/width"] for record in records] == table.column("width").to_pylist()
    assert {field.name for field in data.metadata.record_sets[0].fields} == set(SCHEMA.names) - {"rois", "flags"}


def test_again_gives_the_same_bytes(built, made):
    before = {path: path.read_bytes() for path in made.files}
    assert len(before) == 13
    stages = []
    stats(built, workers=2, progress=lambda stage, done, total: stages.append(done))
    assert stages == [11, 1]  # only the broken one is tried again
    assert {path: path.read_bytes() for path in made.files} == before


def test_a_build_that_is_not_curated_says_so(tmp_path, capsys):
    write(tmp_path, "raw/a.png", scene(1))
    build(None, tmp_path / "out", folder=tmp_path / "raw", name="own", with_rois=False)
    app(["stats", str(tmp_path / "out"), "--workers", "1"], standalone_mode=False)
    text = capsys.readouterr().out
    assert "msip curate" in text and "0.0% of the images" in text
    assert "run <code>msip curate</code>" in (tmp_path / "out/stats/index.html").read_text()
    app(["stats", str(tmp_path / "out"), "--workers", "1", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["overall"]["duplicates"] == {"known": False}


def test_a_damaged_curation_is_one_sentence(tmp_path):
    write(tmp_path, "raw/a.png", scene(1))
    build(None, tmp_path / "out", folder=tmp_path / "raw", name="own", with_rois=False)
    (tmp_path / "out/curation.parquet").write_bytes(b"PAR1")
    with pytest.raises(ManifestError, match="delete it and run `msip curate` again"):
        stats(tmp_path / "out")
