"""SCUT's .seq movies: payloads untouched, numbers kept, a broken index survived."""

import csv
import struct

import pytest
from seq_movies import frames, movie

from msip.archives import extract
from msip.archives.movies import movie_name
from msip.errors import ArchiveError, UnsafeArchive
from msip.sources import load_source


def taken(folder):
    return [(folder / f"{number}.jpg").read_bytes() for number in range(len(list(folder.iterdir())))]


@pytest.mark.parametrize("stamp", [8, 16])
@pytest.mark.parametrize("announced", [None, 0])
def test_payloads_are_untouched(stamp, announced, tmp_path):
    jpegs = frames(155)
    (tmp_path / "V000.seq").write_bytes(movie(jpegs, stamp, announced))
    assert extract(tmp_path / "V000.seq", tmp_path / "V000").written == 155
    assert taken(tmp_path / "V000") == jpegs
    assert extract(tmp_path / "V000.seq", tmp_path / "V000").present == 155


def test_a_broken_index_falls_back_to_markers(tmp_path):
    jpegs = frames(30)
    data = bytearray(movie(jpegs))
    at = 1024 + sum(len(jpeg) + 12 for jpeg in jpegs[:7])
    struct.pack_into("<I", data, at, 0xFFFFFFF0)
    (tmp_path / "V000.seq").write_bytes(data)
    extract(tmp_path / "V000.seq", tmp_path / "to")
    assert taken(tmp_path / "to") == jpegs


def test_a_damaged_frame_keeps_its_number(tmp_path):
    jpegs = frames(20)
    data = movie(jpegs).replace(jpegs[4], jpegs[4][: len(jpegs[4]) // 2])
    (tmp_path / "V000.seq").write_bytes(data)
    extract(tmp_path / "V000.seq", tmp_path / "to")
    found = taken(tmp_path / "to")
    assert found[:4] == jpegs[:4] and found[5:] == jpegs[5:] and found[4] != jpegs[4]


def test_names_and_lengths_of_the_set(realdata):
    """The authors' count of each video, frame by frame, beside the real data."""
    with (realdata.parent / "facts/scut_frames.csv").open() as file:
        counted = {f"{row['set']}/{row['video']}": int(row["nFrame"]) for row in csv.DictReader(file)}
    assert load_source("scut_fir_pedestrian").videos == counted and len(counted) == 100


@pytest.mark.parametrize("path", ["x/set03/V002.seq", "set03_V002.seq", "Set03/v002.SEQ"])
def test_movie_names(path, tmp_path):
    assert movie_name(tmp_path / path) == "set03/V002"


def test_what_is_no_movie_is_refused(tmp_path):
    (tmp_path / "V000.seq").write_bytes(movie(frames(6))[:500])
    with pytest.raises(ArchiveError, match="header"):
        extract(tmp_path / "V000.seq", tmp_path / "to")
    (tmp_path / "V000.seq").write_bytes(movie([b"no picture"] * 6))
    with pytest.raises(ArchiveError, match="no JPEG"):
        extract(tmp_path / "V000.seq", tmp_path / "to")


@pytest.mark.parametrize("step", [b"\x0b\x00\x00\x00\xff\xd8\xff0123", b"\xff\xd8\xff\xe0\x00\x06"])
def test_more_frames_than_a_movie_can_have(step, tmp_path, monkeypatch):
    """By the index, and by markers: memory grows with the number of frames, so it is bounded."""
    monkeypatch.setattr("msip.archives.movies.MOST_FRAMES", 5000)
    (tmp_path / "V000.seq").write_bytes(movie([]) + step * 6000)
    with pytest.raises(UnsafeArchive, match=r"V000\.seq is refused: .* 4,999 frames"):
        extract(tmp_path / "V000.seq", tmp_path / "to")
