"""Raw frames: every container and mode read right, every damage noticed, radiometric data never mistaken."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from msip import radiometry
from msip.errors import BrokenFrame, FrameError, TooLargeFrame, UnsupportedFrame
from msip.radiometry import decode, is_colour_mapped, is_constant, to_8bit

H, W = 96, 128
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def scene(seed: int = 0) -> np.ndarray:
    """A textured grey image with an edge, uint8."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(H), np.arange(W)) * 0.8
    ramp[30:60, 40:90] += 50
    return (ramp + rng.integers(0, 20, (H, W))).astype(np.uint8)


GREY = scene()
COUNTS = GREY.astype(np.uint16) * 3 + 7000
COLOUR = np.dstack([scene(1), 255 - scene(2), scene(3)])  # BGR


def save(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    """Bytes of an image by Pillow; colour arrays are BGR."""
    if isinstance(pixels, np.ndarray):
        pixels = Image.fromarray(pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1]))
    file = io.BytesIO()
    pixels.save(file, kind, **options)
    return file.getvalue()


def tiff(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def raw_record(counts: np.ndarray, content: bytes | None = None) -> bytes:
    height, width = counts.shape
    head = struct.pack("<HHH", 2, width, height).ljust(32, b"\0")
    return head + (counts.astype("<u2").tobytes() if content is None else content)


def fff(record: bytes | None, order: str = ">") -> bytes:
    """A FLIR record file with one raw record, or with an unrelated record alone."""
    kind, content = (32, b"camera info") if record is None else (1, record)
    head = b"FFF\0" + b"TEST".ljust(16, b"\0") + struct.pack(order + "III", 100, 64, 2)
    entry = struct.pack(order + "HHIIIIIII", kind, 2, 100, 1, 128, len(content), 0, 0, 0)
    return head.ljust(64, b"\0") + entry + bytes(32) + content


def with_segments(jpeg: bytes, marker: int, contents: list[bytes]) -> bytes:
    body = b"".join(struct.pack(">BBH", 0xFF, marker, len(c) + 2) + c for c in contents)
    return jpeg[:2] + body + jpeg[2:]


def flir_jpeg(records: bytes, parts: int = 2) -> bytes:
    size = -(-len(records) // parts)
    pieces = [records[i * size : (i + 1) * size] for i in range(parts)]
    numbered = [b"FLIR\0\x01" + bytes([i, parts - 1]) + piece for i, piece in enumerate(pieces)]
    return with_segments(save(COLOUR, "JPEG"), 0xE1, numbered)


def dji_jpeg(raw: bytes) -> bytes:
    pieces = [raw[i : i + 65532] for i in range(0, len(raw), 65532)]
    return with_segments(with_segments(save(GREY_BIG, "JPEG"), 0xE3, pieces), 0xE1, [b"Exif\0\0 DJI\0"])


GREY_BIG = np.tile(GREY, (2, 2))


# --- every container and mode, pixel for pixel -----------------------------------------------------------------------

LA = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(255 - GREY)))
RGBA = Image.merge("RGBA", (*Image.fromarray(COLOUR[..., ::-1].copy()).split(), Image.fromarray(GREY)))
PALETTE = Image.fromarray(COLOUR[..., ::-1].copy()).quantize(11)
PALETTE_BGR = np.asarray(PALETTE.convert("RGB"))[..., ::-1]
BILEVEL = Image.fromarray(GREY).point(lambda v: 255 * (v > 90), "1")
BILEVEL_PIXELS = np.asarray(BILEVEL).astype(np.uint8) * 255

EXACT = {
    "png grey": (save(GREY, "PNG"), GREY, 8, 1, "png"),
    "png 16": (save(COUNTS, "PNG"), COUNTS, 16, 1, "png"),
    "png rgb": (save(COLOUR, "PNG"), COLOUR, 8, 3, "png"),
    "png rgba": (save(RGBA, "PNG"), np.dstack([COLOUR, GREY]), 8, 4, "png"),
    "png grey alpha": (save(LA, "PNG"), GREY, 8, 2, "png"),
    "png palette": (save(PALETTE, "PNG"), PALETTE_BGR, 4, 1, "png"),
    "png palette transparent": (save(PALETTE, "PNG", transparency=3), PALETTE_BGR, 4, 1, "png"),
    "png bilevel": (save(BILEVEL, "PNG"), BILEVEL_PIXELS, 1, 1, "png"),
    "tiff grey": (save(GREY, "TIFF"), GREY, 8, 1, "tiff"),
    "tiff 16 little": (tiff(COUNTS), COUNTS, 16, 1, "tiff"),
    "tiff 16 big": (tiff(COUNTS, byteorder=">"), COUNTS, 16, 1, "tiff"),
    "tiff 16 lzw": (save(COUNTS, "TIFF", compression="tiff_lzw"), COUNTS, 16, 1, "tiff"),
    "tiff 16 deflate": (save(COUNTS, "TIFF", compression="tiff_adobe_deflate"), COUNTS, 16, 1, "tiff"),
    "tiff 16 tiled": (tiff(COUNTS, tile=(32, 32)), COUNTS, 16, 1, "tiff"),
    "bigtiff": (tiff(COUNTS, bigtiff=True), COUNTS, 16, 1, "tiff"),
    "tiff rgb": (tiff(COLOUR[..., ::-1], photometric="rgb"), COLOUR, 8, 3, "tiff"),
    "tiff rgb 16": (tiff(np.dstack([COUNTS] * 3), photometric="rgb"), np.dstack([COUNTS] * 3), 16, 3, "tiff"),
    "tiff bilevel": (save(BILEVEL, "TIFF"), BILEVEL_PIXELS, 1, 1, "tiff"),
    "bmp grey": (save(GREY, "BMP"), GREY, 8, 1, "bmp"),
    "bmp rgb": (save(COLOUR, "BMP"), COLOUR, 8, 3, "bmp"),
    "bmp palette": (save(PALETTE, "BMP"), PALETTE_BGR, 8, 1, "bmp"),
}


@pytest.mark.parametrize("case", EXACT)
def test_lossless_modes_come_out_as_they_went_in(case):
    data, pixels, bit_depth, channels, container = EXACT[case]
    frame = decode(data, name="frame.jpg")  # the name says nothing
    np.testing.assert_array_equal(frame.pixels, pixels)
    assert frame.pixels.dtype == pixels.dtype
    assert (frame.bit_depth, frame.channels, frame.container, frame.radiometric) == (
        bit_depth,
        channels,
        container,
        False,
    )


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}, {"keep_rgb": True}], ids=str)
def test_jpeg_pixels_are_those_of_opencv_and_pillow(options):
    for pixels in (GREY, COLOUR):
        data = save(pixels, "JPEG", quality=90, **options)
        frame = decode(data, name="x")
        pillow = np.asarray(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(frame.pixels, pillow if pillow.ndim == 2 else pillow[..., ::-1])
        np.testing.assert_array_equal(frame.pixels, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))
        assert (frame.bit_depth, frame.channels, frame.container) == (8, pillow.ndim == 2 or 3, "jpeg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_not_applied(kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    turned, plain = (decode(save(GREY, kind, **o), name="x").pixels for o in ({"exif": exif}, {}))
    np.testing.assert_array_equal(turned, plain)


def test_appended_bytes_are_kept_out_and_noted():
    for kind in ("JPEG", "PNG", "BMP"):
        assert "5 bytes after the end" in decode(save(GREY, kind) + b"extra", name="x").note
        assert decode(save(GREY, kind), name="x").note == ""


def test_odd_jpeg_headers_are_harmless():
    data = bytearray(save(GREY, "JPEG"))
    data[11] = 9  # JFIF revision 9.01
    np.testing.assert_array_equal(decode(bytes(data), name="x").pixels, decode(save(GREY, "JPEG"), name="x").pixels)


# --- damage ----------------------------------------------------------------------------------------------------------


def zeroed(data: bytes, at: int) -> bytes:
    return data[:at] + bytes(30) + data[at + 30 :]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


JPEG, FINE_JPEG, PNG16 = save(GREY, "JPEG", quality=90), save(GREY, "JPEG", quality=99), save(COUNTS, "PNG")


def zeros_inside(data: bytes) -> bytes:
    page = tifffile.TiffFile(io.BytesIO(data)).pages[0]
    at = page.dataoffsets[0] + page.databytecounts[0] * 3 // 4
    return data[:at] + bytes(30) + data[at + 30 :]


def two_widths(data: bytes) -> bytes:
    at = tifffile.TiffFile(io.BytesIO(data)).pages[0].tags["ImageWidth"].offset
    return data[: at + 2] + struct.pack("<HI", 3, 2) + data[at + 8 :]


def behind_a_thumbnail() -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(COUNTS[::4, ::4], subfiletype=1, photometric="minisblack")
        writer.write(COUNTS, photometric="minisblack")
    return file.getvalue()


DAMAGED = {
    "jpeg cut at 60 %": JPEG[: len(JPEG) * 6 // 10],
    "jpeg without end marker": JPEG[:-2],
    "progressive jpeg cut": save(GREY, "JPEG", progressive=True)[:-100],
    "jpeg cut in its header": JPEG[:100],
    "png16 cut at 60 %": PNG16[: len(PNG16) * 6 // 10],
    "png16 without IEND": PNG16[:-12],
    "png16 one flipped byte": flipped(PNG16, len(PNG16) // 2),
    "png16 flipped header": flipped(PNG16, 20),
    "png with too little data": PNG_MAGIC
    + PNG16[8:33]
    + chunk(b"IDAT", zlib.compress(bytes(99)))
    + chunk(b"IEND", b""),
    "tiff cut": tiff(COUNTS)[: H * W],
    "tiff lzw cut": save(COUNTS, "TIFF", compression="tiff_lzw")[:3000],
    "tiff header alone": b"II*\0",
    "tiff deflate with a hole": zeros_inside(tiff(COUNTS, compression="zlib")),
    "tiff with two widths": two_widths(tiff(COUNTS)),
    "bmp cut": save(GREY, "BMP")[:-1],
    "bmp header alone": b"BM",
    "fff cut": fff(raw_record(COUNTS))[:-1],
    "fff header alone": b"FFF\0",
    "flir raw png cut": flir_jpeg(fff(raw_record(COUNTS, save(COUNTS.byteswap(), "PNG")[:-40]))),
    "empty": b"",
    "one byte": b"\xff",
    "text": b"this is no image\n",
    "web page": b"<!DOCTYPE html><p>quota exceeded",
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
    "noise": bytes(range(1, 200)),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_noticed(case):
    with pytest.raises(BrokenFrame, match=r"^frame\.jpg: "):
        decode(DAMAGED[case], name="frame.jpg")


@pytest.mark.parametrize("data", [JPEG, FINE_JPEG, flir_jpeg(fff(raw_record(COUNTS)))], ids=["90", "99", "flir"])
def test_thirty_zeroed_bytes_anywhere_in_a_scan_are_noticed(data):
    scan = data.rindex(b"\xff\xda") + 20
    for at in range(scan, len(data) - 40, max((len(data) - scan) // 60, 1)):
        with pytest.raises(BrokenFrame):
            decode(zeroed(data, at), name="x")


def test_flat_jpegs_whose_scans_are_zeros_are_whole():
    black = np.zeros((512, 640), np.uint8)
    for options in ({}, {"optimize": True}, {"progressive": True}):
        assert is_constant(decode(save(black, "JPEG", **options), name="x").pixels)


def test_a_short_truncation_never_gets_through():
    for data in (JPEG, PNG16, save(GREY, "BMP"), save(COUNTS, "TIFF"), fff(raw_record(COUNTS))):
        for keep in np.linspace(1, len(data) - 1, 40).astype(int):
            with pytest.raises(BrokenFrame):
                decode(data[:keep], name="x")


def test_random_damage_never_escapes_as_another_exception():
    rng = np.random.default_rng(0)
    for data in (JPEG, PNG16, save(GREY, "BMP"), tiff(COUNTS), fff(raw_record(COUNTS)), flir_jpeg(fff(None))):
        for _ in range(60):
            damaged = bytearray(data)
            for at in rng.integers(2, min(len(data), 600), 3):
                damaged[at] = rng.integers(0, 256)
            try:
                assert decode(bytes(damaged), name="x").pixels.dtype in (np.uint8, np.uint16)
            except FrameError as error:
                assert str(error).startswith("x")


def test_native_codecs_stay_quiet(capfd):
    for case in ("jpeg cut at 60 %", "png16 one flipped byte", "tiff lzw cut", "tiff cut", "bmp cut"):
        with pytest.raises(BrokenFrame):
            decode(DAMAGED[case], name="x")
    assert capfd.readouterr().err == ""


# --- refused by name -------------------------------------------------------------------------------------------------

CMYK = Image.fromarray(COLOUR).convert("CMYK")
REFUSED = {
    "GIF": save(GREY, "GIF"),
    "WebP": save(GREY, "WEBP"),
    "PNM": save(GREY, "PPM"),
    "CMYK JPEG": save(CMYK, "JPEG"),
    "animated PNG": save(GREY, "PNG", save_all=True, append_images=[Image.fromarray(255 - GREY)]),
    "2 frames": tiff(np.stack([COUNTS, COUNTS]), photometric="minisblack"),
    "behind a thumbnail": behind_a_thumbnail(),
    "32-bit float": tiff(GREY.astype(np.float32)),
    "16-bit signed": tiff(GREY.astype(np.int16)),
    "WhiteIsZero": tiff(COUNTS, photometric="miniswhite"),
    "one after the other": tiff(np.stack([COUNTS] * 3), photometric="rgb", planarconfig="separate"),
    "without alpha": save(RGBA, "TIFF"),
    "compression 4": save(BILEVEL, "TIFF", compression="group4"),
    "compression 7": save(GREY, "TIFF", compression="jpeg"),
    "NumPy": b"\x93NUMPY\x01\0",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "NorPix": b"\xed\xfe\0\0N\0o\0r\0p\0i\0x\0",
    "several frames": fff(raw_record(COUNTS)) + fff(raw_record(COUNTS)),
    "no raw frame": fff(None),
    "packed as JPEG": flir_jpeg(fff(raw_record(COUNTS, b"\xff\xd8\xff\xf7" + bytes(99)))),
    "unknown way": flir_jpeg(fff(raw_record(COUNTS, bytes(99)))),
    "unknown layout": flir_jpeg(b"XXX\0" + bytes(999)),
    "DJI R-JPEG": dji_jpeg(bytes(np.random.default_rng(0).integers(0, 256, 2 * GREY_BIG.size, np.uint8))),
    "Thermal SDK": dji_jpeg(bytes(50_000)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_read_is_refused_by_name(what):
    with pytest.raises(UnsupportedFrame, match=what):
        decode(REFUSED[what], name="frame.png")


@pytest.mark.parametrize("imagej", [True, False], ids=["ImageJ", "shaped"])
def test_a_stack_behind_one_page_is_a_stack(imagej):
    whole = tiff(np.stack([COUNTS] * 5), imagej=imagej, truncate=True)
    with pytest.raises(UnsupportedFrame, match="a TIFF of 5 frames"):
        decode(whole, name="x")
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        page = file.pages[0]
    frame = decode(whole[: page.dataoffsets[0] + page.nbytes], name="x")  # one taken out, its description left
    np.testing.assert_array_equal(frame.pixels, COUNTS)
    assert imagej or "one of the 5 frames" in frame.note


def test_the_cases_of_stacks(cases):
    files = sorted((cases / "formats/stacks").iterdir())
    outcomes = {file.name: outcome(file.read_bytes())[0] for file in files}
    assert outcomes.pop("rows_as_one_page_3d.tif") == "tiff"
    assert len(outcomes) == 5 and set(outcomes.values()) == {"unsupported"}


def bombs() -> dict[str, bytes]:
    jpeg, bmp = bytearray(JPEG), bytearray(save(GREY, "BMP"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = b"\xff" * 4
    bmp[18:26] = struct.pack("<ii", 70000, -70000)
    big = bytearray(tiff(COUNTS))
    tags = tifffile.TiffFile(io.BytesIO(bytes(big))).pages[0].tags
    for tag in ("ImageWidth", "ImageLength"):
        big[tags[tag].valueoffset : tags[tag].valueoffset + 4] = struct.pack("<I", 65535)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 70000, 70000, 16, 0, 0, 0, 0))
    return {"jpeg": bytes(jpeg), "bmp": bytes(bmp), "tiff": bytes(big), "png": PNG_MAGIC + header}


@pytest.mark.parametrize("kind", ["jpeg", "bmp", "tiff", "png"])
def test_huge_frames_are_refused_before_decoding(kind):
    with pytest.raises(TooLargeFrame, match=r"6\d{4} x 6\d{4}|70000 x 70000"):
        decode(bombs()[kind], name="x")


# --- radiometric data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
def test_fff_gives_counts_in_either_byte_order(order):
    frame = decode(fff(raw_record(COUNTS), order), name="x")
    np.testing.assert_array_equal(frame.pixels, COUNTS)
    assert (frame.container, frame.bit_depth, frame.channels, frame.radiometric) == ("fff", 16, 1, True)


@pytest.mark.parametrize("stored", [None, COUNTS.byteswap(), COUNTS], ids=["plain", "png as FLIR", "png as specified"])
def test_flir_jpeg_gives_counts_never_the_preview(stored):
    content = None if stored is None else save(stored, "PNG")
    frame = decode(flir_jpeg(fff(raw_record(COUNTS, content))), name="x")
    np.testing.assert_array_equal(frame.pixels, COUNTS)
    assert (frame.container, frame.bit_depth, frame.radiometric) == ("flir", 16, True)


def test_flir_jpeg_with_a_missing_segment_is_broken():
    whole = flir_jpeg(fff(raw_record(COUNTS)), parts=3)
    first = whole.index(b"FLIR\0") - 4
    second = whole.index(b"FLIR\0", first + 9) - 4
    with pytest.raises(BrokenFrame, match="2 of the 3 segments"):
        decode(whole[:first] + whole[second:], name="x")


def test_flir_jpeg_without_raw_record_is_an_ordinary_jpeg():
    frame = decode(flir_jpeg(fff(None)), name="x")
    assert (frame.container, frame.bit_depth, frame.radiometric) == ("jpeg", 8, False)


def test_dji_counts_are_read_where_they_fill_the_preview():
    counts = GREY_BIG.astype(np.uint16) * 4 + 17000
    frame = decode(dji_jpeg(counts.astype("<u2").tobytes()), name="x")
    np.testing.assert_array_equal(frame.pixels, counts)
    assert (frame.container, frame.bit_depth, frame.radiometric) == ("dji", 16, True)


def test_stored_suffix():
    stored = {c: radiometry.kept_suffix(c) or ".png" for c in ("jpeg", "png", "bmp", "tiff", "flir", "fff", "dji")}
    kept = {"jpeg": ".jpg", "bmp": ".bmp"}
    assert stored == dict.fromkeys(stored, ".png") | kept


# --- the real hard inputs --------------------------------------------------------------------------------------------


def outcome(data: bytes) -> tuple:
    try:
        frame = decode(data, name="x")
    except FrameError as error:
        return (error.kind,)
    return frame.container, frame.pixels.shape, frame.pixels.dtype.name, is_colour_mapped(frame.pixels)


FLIR_SIZES = {
    "02": (480, 640), "03": (120, 120), "05": (180, 180), "06": (180, 180), "08": (120, 160), "09": (180, 180),
    "11": (240, 320), "12": (240, 320), "14": (240, 320), "15": (120, 120), "17": (240, 320), "18": (480, 640),
    "20": (240, 320), "21": (240, 320), "23": (120, 160), "24": (120, 160), "26": (240, 320),
}  # fmt: skip
RAW16 = {
    "baboons.jpg": ("jpeg", (512, 640), "uint8", False),
    "example_radiometric.tiff": ("tiff", (512, 640), "uint16", False),
    "frame_000000.fff": ("fff", (512, 640), "uint16", False),
    "frame_000000_le.fff": ("fff", (240, 320), "uint16", False),
    "v2-latlon.cptv": ("unsupported",),
}


@pytest.mark.realdata
def test_every_hard_input_has_its_outcome(realdata):
    def outcomes(folder: str) -> dict[str, tuple]:
        files = sorted((realdata / "hard_inputs" / folder).iterdir())
        assert files
        return {file.name: outcome(file.read_bytes()) for file in files}

    flir = outcomes("flir_rjpeg")
    assert {name[:2]: found for name, found in flir.items()} == {
        number: ("flir", size, "uint16", False) for number, size in FLIR_SIZES.items()
    }
    assert outcomes("raw16") == RAW16
    assert set(outcomes("broken").values()) == {("broken",)}
    assert set(outcomes("rgba_png").values()) == {("png", (512, 640, 4), "uint8", False)}
    assert set(outcomes("cheetah/images").values()) == {("jpeg", (640, 640, 3), "uint8", False)}
    assert set(outcomes("colourmapped").values()) == {("jpeg", (288, 384, 3), "uint8", True)}
    dji = outcomes("dji_rjpeg")
    assert {found[0] for found in dji.values()} == {"dji"}
    assert dji["H30T_DJI_0001_R.JPG"][1] == (1024, 1280)


@pytest.mark.realdata
def test_real_counts_are_images_not_swapped_noise(realdata):
    files = [*(realdata / "hard_inputs/flir_rjpeg").iterdir(), *(realdata / "hard_inputs/dji_rjpeg").iterdir()]
    for file in files:
        counts = decode(file.read_bytes(), name=file.name).pixels
        mapped, _ = to_8bit(counts, "percentile")
        neighbours = np.corrcoef(mapped[:, :-1].ravel(), mapped[:, 1:].ravel())[0, 1]
        assert neighbours > 0.8, file.name


@pytest.mark.realdata
def test_real_false_colour_previews_are_flagged(realdata):
    for file in (realdata / "hard_inputs/flir_rjpeg").iterdir():
        preview = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert is_colour_mapped(preview), file.name
    for name, mapped in {"M2EA": True, "M4T": True, "H20N": False, "H30T": False}.items():
        data = (realdata / f"hard_inputs/dji_rjpeg/{name}_DJI_0001_R.JPG").read_bytes()
        assert is_colour_mapped(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)) is mapped


@pytest.mark.slow
@pytest.mark.realdata
def test_no_whole_real_image_is_refused(realdata):
    suffixes = (".jpg", ".png", ".bmp", ".tif", ".tiff")
    files = [file for file in realdata.rglob("*") if file.suffix.lower() in suffixes]
    refused = [file for file in files if outcome(file.read_bytes())[0] in ("broken", "unsupported")]
    assert len(files) > 3800
    assert {file.parent.name for file in refused} == {"broken"}
    assert len(refused) == 2
