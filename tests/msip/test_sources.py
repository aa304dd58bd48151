from __future__ import annotations

from fnmatch import fnmatchcase
from math import ceil
from pathlib import Path

import pydantic
import pytest
import yaml

from msip import sources
from msip.errors import MsipError, SourceError
from msip.sources import Imaging, Layout, Source, Transform, all_sources, corpus_names, load_corpus, load_source

# The published composition, written here a second time.
MSIP = {
    "dronevehicle": 17990,
    "scut_fir_pedestrian": 21049,
    "llvip": 12025,
    "infrared_aerial": 5523,
    "infrared_ship": 8402,
    "infrared_security": 8999,
    "lsotb_tir": 52925,
    "lasher": 51843,
}
PLUS = {
    "hit_uav": 2029,
    "m3fd": 4200,
    "msrs": 1083,
    "kaist": "unknown",
    "cvc14": "unknown",
    "flir_v2": 10742,
    "birdsai": "unknown",
    "roadscene": 221,
    "caltech_aerial": 3076,
    "sirst_v2": 1024,
}
EVALUATION = {"soda": 2168, "mfnet": 1569, "flir_v1": 14452, "scut_seg": 2010}
NAMES = sorted(MSIP)
ALL_NAMES = sorted(MSIP | PLUS | EVALUATION)


def corpus_file(folder: Path, **changes) -> Path:
    data = {"name": "mine", "title": "Mine", "images": 30, "sources": {"lasher": 20, "llvip": 10}} | changes
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}, sort_keys=False))
    return path


def raw_facts(name: str) -> dict:
    return yaml.safe_load((Path(sources.__file__).parents[1] / "data_manifests" / f"{name}.yaml").read_text("utf-8"))


def test_msip_is_the_published_composition_in_its_order():
    corpus = load_corpus("msip")
    assert list(corpus.sources.items()) == list(MSIP.items())
    assert corpus.images == sum(MSIP.values()) == 178_756


def test_every_source_loads_and_agrees_with_the_corpus():
    assert {source.name: source.expected_images for source in all_sources()} == MSIP | PLUS | EVALUATION
    assert corpus_names() == ["evaluation", "msip", "msip-plus"]
    assert load_corpus("msip-plus").sources == MSIP | PLUS
    assert list(load_corpus("msip-plus").sources)[:8] == list(MSIP)
    assert load_corpus("evaluation").sources == EVALUATION
    assert load_corpus("evaluation").images == sum(EVALUATION.values())


def test_a_sum_with_an_unknown_part_is_unknown(tmp_path):
    plus = load_corpus("msip-plus")
    assert plus.images == "unknown" and sum(plus.known_counts.values()) == 201_131
    with pytest.raises(SourceError, match="images is 30, but the sources' counts sum to unknown"):
        load_corpus(corpus_file(tmp_path, sources={"kaist": "unknown", "llvip": 30}))
    with pytest.raises(SourceError, match="images is unknown, but the sources' counts sum to 30"):
        load_corpus(corpus_file(tmp_path, images="unknown"))


@pytest.mark.parametrize("name", sorted(PLUS | EVALUATION))
def test_every_new_source_says_how_sure_it_is(name):
    source = load_source(name)
    assert source.provenance.status == (
        "verified" if name in ("hit_uav", "msrs", "roadscene", "sirst_v2") else "documentation"
    )
    assert source.licence.commercial == {"hit_uav": "yes", "birdsai": "yes", "kaist": "no", "caltech_aerial": "no"}.get(
        name, "unknown"
    )
    assert (source.licence.name == "unknown") <= (source.licence.commercial == "unknown")
    assert source.transform.channel == (4 if name == "mfnet" else None)


@pytest.mark.parametrize("name", NAMES)
def test_file_name_selection_and_naming(name):
    source = load_source(name)
    assert source.name == name
    strides = {"scut_fir_pedestrian": 10, "infrared_aerial": 2, "lsotb_tir": 10, "lasher": 10}
    assert source.selection.stride == strides.get(name, 1)
    assert source.naming == ("numbered" if name in strides else "stem")
    assert source.selection.min_peak_grey == (21 if name == "scut_fir_pedestrian" else None)
    assert source.transform.model_dump() == (
        {"crop_px": 100, "grey": True, "channel": None, "jpeg_quality": 95}
        if name == "dronevehicle"
        else {"crop_px": 0, "grey": False, "channel": None, "jpeg_quality": None}
    )


def test_scut_arithmetic_follows_from_the_video_lengths():
    lengths = [n for videos in load_source("scut_fir_pedestrian").sequence_lengths.values() for n in videos]
    assert len(lengths) == 100
    assert sum(lengths) == 211_011
    assert sum(ceil(n / 10) for n in lengths) == 21_145 == MSIP["scut_fir_pedestrian"] + 96


@pytest.mark.parametrize("name", ["lsotb_tir", "lasher", "infrared_aerial", "infrared_security", "infrared_ship"])
def test_what_nobody_published_stays_unknown(name):
    source = load_source(name)
    assert source.imaging.width == source.imaging.channels == source.imaging.bit_depth == "unknown"
    if name.startswith("infrared_"):
        assert source.licence.name == source.licence.commercial == "unknown"
        assert source.archives == ()
        assert source.access_class == "manual"


def test_unknown_is_the_only_word_a_number_may_be():
    facts = load_source("lasher").imaging.model_dump()
    with pytest.raises(pydantic.ValidationError, match="width"):
        Imaging(**facts | {"width": "about 600"})
    assert Imaging(**facts | {"width": 640}).width == 640


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_accepted_path_says_who_saw_it(name):
    source = load_source(name)
    told = {seen.path for seen in source.provenance.paths}
    assert told == set(source.layout.roots + source.layout.frame_folders)


def test_a_path_without_evidence_is_refused():
    facts = raw_facts("lasher")
    facts["layout"]["roots"].append("Elsewhere")
    with pytest.raises(pydantic.ValidationError, match=r"provenance\.paths lacks Elsewhere"):
        Source.model_validate(facts)
    facts = raw_facts("lasher")
    del facts["provenance"]["facts"]["licence"]
    with pytest.raises(pydantic.ValidationError, match=r"provenance\.facts lacks licence"):
        Source.model_validate(facts)


def test_a_host_needs_its_address():
    facts = raw_facts("llvip")
    del facts["access"]["hosts"][0]["id"]
    with pytest.raises(pydantic.ValidationError, match="google_drive_file needs the key 'id'"):
        Source.model_validate(facts)


def test_a_sequence_template_cannot_use_more_than_the_pattern_matches():
    with pytest.raises(pydantic.ValidationError, match="more parts"):
        Layout(roots=("A",), frame_folders=("videos/*",), sequence="{0}/{1}", order="natural")
    with pytest.raises(pydantic.ValidationError, match="more parts"):
        Layout(roots=("A",), frame_folders=("**/*",), sequence="{0}/{1}", order="natural")
    Layout(roots=("A",), frame_folders=("set0[0-5]/*",), sequence="{0}/{1}", order="natural")


def test_one_way_to_grey():
    with pytest.raises(pydantic.ValidationError, match="give one of the two"):
        Transform(grey=True, channel=4)


def test_source_lines_for_people():
    assert load_source("lasher").size_text == "224.1 GB"
    assert load_source("dronevehicle").size_text == "8.88 GB"
    assert load_source("infrared_ship").size_text == "unknown"
    assert "commercial use: no" in load_source("llvip").terms_text
    assert load_source("scut_fir_pedestrian").access_class == "semi-automatic"


def test_facts_do_not_change():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        load_source("llvip").layout.order = "integer"  # type: ignore[misc]


def test_a_mistyped_name_gets_the_close_one_and_all_alternatives():
    with pytest.raises(SourceError, match="did you mean llvip") as caught:
        load_source("lvip")
    assert all(name in str(caught.value) for name in NAMES)
    with pytest.raises(SourceError, match="did you mean lsotb_tir"):
        load_source("LSOTB-TIR")
    with pytest.raises(SourceError, match=r"did you mean msip.*\.yaml"):
        load_corpus("misp")
    with pytest.raises(SourceError, match="no source 'msip'"):
        load_source("msip")
    assert issubclass(SourceError, MsipError)


def test_own_corpus_file_keeps_its_order(tmp_path):
    corpus = load_corpus(str(corpus_file(tmp_path)))
    assert list(corpus.sources.items()) == [("lasher", 20), ("llvip", 10)]
    assert load_corpus(corpus_file(tmp_path)) == corpus


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"images": 31}, ["images is 31", "sum to 30"]),
        ({"sources": {"lasher": 20, "lvip": 10}}, ["'lvip'", "did you mean llvip"]),
        (
            {"images": "many", "extra": 1, "title": None},
            ["images: found 'many'", "extra: found an unknown key", "title: missing"],
        ),
        ({"sources": {"lasher": 0, "llvip": -3}}, ["sources.lasher: found 0", "sources.llvip: found -3"]),
        ({"sources": ["llvip"]}, ["sources: found ['llvip']", "dictionary"]),
    ],
)
def test_all_mistakes_of_a_corpus_file_are_told_at_once(tmp_path, changes, parts):
    path = corpus_file(tmp_path, **changes)
    with pytest.raises(SourceError) as caught:
        load_corpus(path)
    message = str(caught.value)
    assert str(path) in message
    assert [part for part in parts if part not in message] == []
    assert "pydantic" not in message


def test_a_mistake_deep_in_a_source_names_its_key(tmp_path, monkeypatch):
    facts = raw_facts("dronevehicle")
    facts["archives"][0]["bytes"] = "big"
    facts["selection"]["strides"] = 2
    facts["licence"]["commercial"] = False  # an unquoted `no`
    (tmp_path / "dronevehicle.yaml").write_text(yaml.safe_dump(facts))
    monkeypatch.setattr(sources, "_manifest_folder", lambda: tmp_path)
    with pytest.raises(SourceError) as caught:
        load_source("dronevehicle")
    message = str(caught.value)
    for part in (
        "archives.0.bytes: found 'big'",
        "selection.strides: found an unknown key",
        "licence.commercial: found False",
    ):
        assert part in message
    assert "'unknown'" in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"name: [", "is not YAML"),
        (b"- a\n- b\n", "expected a mapping"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"", "found None"),
    ],
)
def test_files_that_are_no_corpus(tmp_path, content, part):
    path = tmp_path / "x.yml"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=part):
        load_corpus(path)


def test_an_absent_corpus_file(tmp_path):
    with pytest.raises(SourceError, match="No such file"):
        load_corpus(str(tmp_path / "none.yaml"))
    with pytest.raises(SourceError, match="directory"):
        load_corpus(tmp_path)


def test_installed_copy_is_used_where_there_is_no_checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "__file__", str(tmp_path / "msip" / "sources.py"))
    checkout = Path(__file__).resolve().parents[2] / "data_manifests"
    asked = []
    monkeypatch.setattr(sources.importlib.resources, "files", lambda name: asked.append(name) or checkout)
    assert load_source("llvip").expected_images == 12025
    assert set(asked) == {"msip_data_manifests"}


@pytest.mark.realdata
@pytest.mark.parametrize("name", NAMES)
def test_layouts_match_the_trees_people_have(realdata, name):
    layout = load_source(name).layout
    raw = realdata / "msip_sources"
    root = next((raw / root for root in layout.roots if (raw / root).is_dir()), None)
    assert root is not None
    holding = {path.parent.relative_to(root).as_posix() for path in root.rglob("*.jpg")}
    patterns = [pattern for pattern in layout.frame_folders if pattern != "**"]
    if not patterns or name == "infrared_aerial":
        assert "**" in layout.frame_folders
    else:
        assert any(fnmatchcase(folder, pattern) for folder in holding for pattern in patterns)
