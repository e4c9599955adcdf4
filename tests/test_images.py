import io
import os
import re
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile
from timm.data import create_transform

from gradcam import images
from gradcam.images import Framing, PictureError, framing_of, read

RAMP = np.stack(np.meshgrid(np.arange(0, 256, 32), np.arange(0, 256, 51)), -1).astype(np.uint8)
RGB = np.dstack([RAMP, 255 - RAMP[..., :1]])  # (6, 8, 3), every pixel different
GREY = RGB[..., 0]
ALPHA = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
ORIENTATION = 0x0112


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Oracle: colour over white, in floating point."""
    weight = alpha[..., None] / 255.0
    return colour * weight + 255 * (1 - weight)


def grey_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey)[..., None], 3, -1)


def file_of(picture: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def opencv_file(array: np.ndarray, ending: str) -> bytes:
    return cv2.imencode(ending, array[..., [2, 1, 0, 3][: array.shape[2]]] if array.ndim == 3 else array)[1].tobytes()


def tiff(size: tuple[int, int], bits: int, photometric: int, data: bytes, tile: int | None = None) -> bytes:
    """A grey little-endian TIFF, of kinds that pillow does not write."""
    place, length = (324, 325) if tile else (273, 279)
    tags = {256: size[0], 257: size[1], 258: bits, 259: 1, 262: photometric, 277: 1, length: len(data)}
    tags |= {322: tile, 323: tile} if tile else {278: size[1]}
    tags[place] = 8 + 2 + 12 * (len(tags) + 1) + 4
    rows = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + rows + bytes(4) + data


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    )


def palette_picture() -> Image.Image:
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(RGB.reshape(-1, 3).tobytes())
    return picture


def cmyk_picture() -> Image.Image:
    """Whole inks only: blue, red, green and black in four bands of 4 x 16 pixels."""
    inks = np.array([[255, 255, 0, 0], [0, 255, 255, 0], [255, 0, 255, 0], [0, 0, 0, 255]], np.uint8)
    return Image.frombytes("CMYK", (16, 16), np.repeat(np.repeat(inks, 4, 0), 16, 0).reshape(16, 16, 4).tobytes())


CMYK_RGB = np.repeat(np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0], [0, 0, 0]])[:, None], 16, 1).repeat(4, 0)
WIDE = (np.arange(48, dtype=np.uint16) * 1394).reshape(6, 8)  # up to 65,518
WIDE_RGB = np.dstack([WIDE, WIDE[::-1], WIDE[:, ::-1]])
FLOATS = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
HOLES = np.array([[np.nan, -np.inf, -2.0, 1.0, 4.0, np.inf]], np.float32)
SMOOTH = np.kron(RGB, np.ones((16, 16, 1), np.uint8))

GOOD = {
    "jpeg": (file_of(SMOOTH, "JPEG", quality=100, subsampling=0), SMOOTH, 3),
    "jpeg, grey": (file_of(SMOOTH[..., 0], "JPEG", quality=100), grey_rgb(SMOOTH[..., 0]), 3),
    "jpeg, progressive": (file_of(SMOOTH, "JPEG", quality=100, subsampling=0, progressive=True), SMOOTH, 3),
    "jpeg, CMYK as Adobe writes it": (file_of(cmyk_picture(), "JPEG", quality=100), CMYK_RGB, 3),
    "jpeg, several pictures": (
        file_of(
            Image.fromarray(SMOOTH), "MPO", quality=100, subsampling=0, save_all=True, append_images=[cmyk_picture()]
        ),
        SMOOTH,
        3,
    ),
    "png": (file_of(RGB, "PNG"), RGB, 0),
    "png, grey": (file_of(GREY, "PNG"), grey_rgb(GREY), 0),
    "png, 1-bit": (file_of(GREY > 100, "PNG"), grey_rgb((GREY > 100) * 255), 0),
    "png, palette": (file_of(palette_picture(), "PNG"), RGB, 0),
    "png, palette with one clear colour": (
        file_of(palette_picture(), "PNG", transparency=3),
        on_white(RGB, np.where(np.arange(48) == 3, 0, 255).reshape(6, 8)),
        0,
    ),
    "png, palette with alpha": (
        file_of(palette_picture(), "PNG", transparency=ALPHA.tobytes()),
        on_white(RGB, ALPHA),
        1,
    ),
    "png, alpha": (file_of(np.dstack([RGB, ALPHA]), "PNG"), on_white(RGB, ALPHA), 1),
    "png, grey with alpha": (
        file_of(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]), "PNG"),
        on_white(grey_rgb(GREY), ALPHA),
        1,
    ),
    "png, one clear grey": (file_of(GREY, "PNG", transparency=0), grey_rgb(np.where(GREY == 0, 255, GREY)), 0),
    "png, one clear colour": (
        file_of(RGB, "PNG", transparency=tuple(RGB[2, 3].tolist())),
        np.where((RGB[2, 3] == RGB).all(-1, keepdims=True), 255, RGB),
        0,
    ),
    "png, 16-bit grey": (file_of(WIDE, "PNG"), grey_rgb(WIDE / 257), 0.5),
    "png, 16-bit with one clear grey": (
        file_of(WIDE, "PNG", transparency=int(WIDE[1, 1])),
        grey_rgb(np.where(WIDE[1, 1] == WIDE, 255, WIDE / 257)),
        0.5,
    ),
    "png, 16-bit colour": (opencv_file(WIDE_RGB, ".png"), WIDE_RGB / 257, 1),
    "png, 16-bit colour with alpha": (
        opencv_file(np.dstack([WIDE_RGB, WIDE]), ".png"),
        on_white(WIDE_RGB / 257, WIDE / 257),
        2,
    ),
    "webp": (file_of(RGB, "WEBP", lossless=True), RGB, 0),
    "webp, alpha": (file_of(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True), on_white(RGB, ALPHA), 1),
    "bmp": (file_of(RGB, "BMP"), RGB, 0),
    "bmp, palette": (file_of(palette_picture(), "BMP"), RGB, 0),
    "bmp, 1-bit": (file_of(GREY > 100, "BMP"), grey_rgb((GREY > 100) * 255), 0),
    "gif, first of two": (
        file_of(palette_picture(), "GIF", save_all=True, append_images=[palette_picture().rotate(180)]),
        RGB,
        0,
    ),
    "gif, one clear colour": (
        file_of(palette_picture(), "GIF", transparency=47),
        on_white(RGB, np.where(np.arange(48) == 47, 0, 255).reshape(6, 8)),
        0,
    ),
    "tiff": (file_of(RGB, "TIFF"), RGB, 0),
    "tiff, compressed": (file_of(RGB, "TIFF", compression="tiff_lzw"), RGB, 0),
    "tiff, alpha": (file_of(np.dstack([RGB, ALPHA]), "TIFF"), on_white(RGB, ALPHA), 1),
    "tiff, 1-bit": (file_of(GREY > 100, "TIFF"), grey_rgb((GREY > 100) * 255), 0),
    "tiff, CMYK": (file_of(cmyk_picture(), "TIFF"), CMYK_RGB, 0),
    "tiff, YCbCr": (file_of(SMOOTH, "TIFF", compression="jpeg", quality=100), SMOOTH, 4),
    "tiff, Lab": (
        file_of(Image.frombytes("LAB", (3, 1), bytes([255, 0, 0, 0, 0, 0, 138, 81, 70])), "TIFF"),
        [[[255, 255, 255], [0, 0, 0], [255, 0, 0]]],
        6,
    ),
    "tiff, 12-bit": (tiff((2, 1), 12, 1, bytes([0xFF, 0xF8, 0x00])), grey_rgb([[255, 2048 / 4095 * 255]]), 0.5),
    "tiff, 16-bit grey": (opencv_file(WIDE, ".tiff"), grey_rgb(WIDE / 257), 0.5),
    "tiff, 16-bit big-endian": (file_of(Image.fromarray(WIDE.astype(">u2")), "TIFF"), grey_rgb(WIDE / 257), 0.5),
    "tiff, 16-bit with white as zero": (
        tiff((2, 1), 16, 0, struct.pack("<HH", 0, 50000)),
        grey_rgb([[255, (65535 - 50000) / 257]]),
        0.5,
    ),
    "tiff, 16-bit colour": (opencv_file(WIDE_RGB, ".tiff"), WIDE_RGB / 257, 1),
    "tiff, 16-bit signed": (
        opencv_file((WIDE.astype(np.int32) - 32768).astype(np.int16), ".tiff"),
        grey_rgb(np.arange(48).reshape(6, 8) / 47 * 255),
        0.5,
    ),
    "tiff, 32-bit of small values": (file_of(GREY.astype(np.int32), "TIFF"), grey_rgb(GREY), 0),
    "tiff, 32-bit of large values": (
        file_of(np.array([[-1000, 0, 3000]], np.int32), "TIFF"),
        grey_rgb([[0, 63.75, 255]]),
        0.5,
    ),
    "tiff, float": (file_of(FLOATS, "TIFF"), grey_rgb(FLOATS * 255.0), 0.5),
    "tiff, float of any range": (file_of(FLOATS * 7 - 2, "TIFF"), grey_rgb(FLOATS * 255.0), 0.5),
    "tiff, float above 1": (file_of(FLOATS * 3, "TIFF"), grey_rgb(FLOATS * 255.0), 0.5),
    "tiff, float below 0": (file_of(FLOATS - 1, "TIFF"), grey_rgb(FLOATS * 255.0), 0.5),
    "tiff, float with NaN and infinities": (file_of(HOLES, "TIFF"), grey_rgb([[0, 0, 0, 127.5, 255, 255]]), 0.5),
    "tiff, nothing but NaN": (file_of(np.full((2, 2), np.nan, np.float32), "TIFF"), np.zeros((2, 2, 3)), 0),
    "1 x 1": (file_of(RGB[:1, :1], "PNG"), RGB[:1, :1], 0),
    "1 x 100": (file_of(np.full((100, 1, 3), 7, np.uint8), "PNG"), np.full((100, 1, 3), 7), 0),
}


@pytest.mark.parametrize("name", GOOD)
def test_files(name: str, tmp_path: Path) -> None:
    data, expected, tolerance = GOOD[name]
    picture = read(data)
    assert picture.mode == "RGB"
    np.testing.assert_allclose(np.asarray(picture, float), expected, rtol=0, atol=tolerance + 1e-6)
    path = tmp_path / "without a telling name.txt"
    path.write_bytes(data)
    assert read(path) == read(str(path)) == read(Image.open(io.BytesIO(data))) == picture


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_modes_of_pil_pictures(mode: str) -> None:
    source = Image.new("RGB", (4, 3), "white")
    source = source.convert("LA").convert("La") if mode == "La" else source.convert("RGBA" if mode == "RGBa" else "RGB")
    source = source.convert("P").convert("PA") if mode == "PA" else source.convert(mode)
    before = source.tobytes()
    picture = read(source)
    assert (picture.mode, picture.getcolors()) == ("RGB", [(12, (255, 255, 255))])
    assert (source.mode, source.tobytes()) == (mode, before)


def test_premultiplied_alpha_is_undone_over_white() -> None:
    premultiplied = Image.frombytes("RGBa", (1, 1), bytes([100, 50, 0, 128]))
    np.testing.assert_allclose(np.asarray(read(premultiplied))[0, 0], [227, 177, 127], atol=1)


UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
    ],
)
def test_orientation(kind: str, options: dict[str, Any], orientation: int) -> None:
    stored = SMOOTH if kind == "JPEG" else RGB
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = file_of(stored, kind, exif=exif, **options)
    picture = read(data)
    expected = UPRIGHT[orientation](stored)
    np.testing.assert_allclose(np.asarray(picture, float), expected, atol=3 if kind == "JPEG" else 0)
    assert (picture.info, dict(picture.getexif())) == ({}, {}), "metadata may tell where a picture was taken"
    assert read(picture) == picture, "turned twice"
    assert read(Image.open(io.BytesIO(data))) == picture


@pytest.mark.parametrize(("array", "kind"), [(np.dstack([RGB, ALPHA]), "PNG"), (WIDE, "PNG"), (FLOATS, "TIFF")])
def test_orientation_of_other_modes(array: np.ndarray, kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    turned = read(file_of(array, kind, exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(read(file_of(array, kind)), -1))


def test_damaged_exif_leaves_the_picture_as_stored() -> None:
    data = file_of(RGB, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    np.testing.assert_array_equal(read(data), RGB)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (RGB, RGB),
        (GREY, grey_rgb(GREY)),
        (GREY[..., None], grey_rgb(GREY)),
        (np.dstack([RGB, ALPHA]), on_white(RGB, ALPHA)),
        (RGB[::-1, ::2], RGB[::-1, ::2]),
        (WIDE_RGB, WIDE_RGB / 257),
        (WIDE.astype(">u2"), grey_rgb(WIDE / 257)),
        (RGB.astype(np.int64), RGB),
        (FLOATS, grey_rgb(FLOATS * 255.0)),
        (np.dstack([FLOATS] * 3).astype(np.float16), grey_rgb(FLOATS * 255.0)),
        (RGB / 255, RGB),
        (GREY > 100, grey_rgb((GREY > 100) * 255)),
        (np.ones((1, 1)), np.full((1, 1, 3), 255)),
    ],
)
def test_arrays(array: np.ndarray, expected: np.ndarray) -> None:
    before = array.copy()
    np.testing.assert_allclose(np.asarray(read(array), float), expected, atol=1 if array.ndim == 3 else 0.5)
    np.testing.assert_array_equal(array, before)


TALL = np.random.default_rng(0).integers(0, 65536, (700, 500)).astype(np.uint16)
TALL_FLOATS = TALL.astype(np.float32) / 6553.6 - 2  # from -2 to 8
TALL_FLOATS[650, :2] = np.nan, np.inf


@pytest.mark.parametrize(
    ("source", "grey"),
    [
        (file_of(TALL, "PNG"), TALL / 257),
        (file_of(TALL_FLOATS, "TIFF"), np.nan_to_num((TALL_FLOATS + 2) * 25.5)),
        (TALL, TALL / 257),
        (TALL_FLOATS.clip(0, 1)[:600], TALL_FLOATS.clip(0, 1)[:600] * 255),
    ],
    ids=["file of integers", "file of floats", "array of integers", "array of floats"],
)
def test_wide_values_are_not_all_widened_at_once(source: bytes | np.ndarray, grey: np.ndarray) -> None:
    tracemalloc.start()
    picture = read(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_allclose(picture.getchannel(0), grey.clip(0, 255), atol=0.51)
    assert peak < 12 * grey.size  # bytes; in double precision the values alone, thrice over, are 24


def test_photographs_equal_what_pillow_decodes(shared_data: Path) -> None:
    for path in sorted((shared_data / "imagenet-samples").iterdir())[:10]:
        with Image.open(path) as expected:
            np.testing.assert_array_equal(read(path), expected.convert("RGB"))


PNG = file_of(RGB, "PNG")
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
BAD_BYTES = {
    "empty": (b"", "is empty"),
    "text": (b"I am a picture, honestly.", "not a picture of a known format"),
    "binary": (bytes(range(256)), "not a picture of a known format"),
    "svg": (
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "not a picture of a known format",
    ),
    "html": (b"<!doctype html><title>404</title>", "not a picture of a known format"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "not a picture of a known format"),
    "zip": (b"PK\x03\x04" + bytes(60), "not a picture of a known format"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "not a picture of a known format"),
    "avif": (file_of(RGB, "AVIF"), "not a picture of a known format"),
    "icon": (file_of(RGB, "ICO"), "not a picture of a known format"),
    "ppm": (file_of(RGB, "PPM"), "not a picture of a known format"),
    "postscript": (file_of(RGB, "EPS"), "not a picture of a known format"),
    "text that starts like a BMP": (b"BMW cars are pictured here", "cannot be decoded"),
    "text that starts like a GIF": (b"GIF89a is a format", "cannot be decoded"),
    "signature alone": (PNG[:8], "cannot be decoded"),
    "float colour tiff": (opencv_file(WIDE_RGB.astype(np.float32), ".tiff"), "cannot be decoded"),
    "bomb": (png_header(60_000, 60_000), "60000 x 60000 pixels"),
    "bomb that pillow would only warn of": (png_header(10_000, 9_000), "10000 x 9000 pixels"),
    "beyond any memory": (png_header(2**31 - 1, 2**31 - 1), "2147483647 x 2147483647 pixels"),
    "strip": (png_header(1, 10_000), "1 x 10000 pixels"),
    "huge tile in a small tiff": (tiff((4, 4), 8, 1, bytes(16), tile=20_000), "tiles of 400000000 pixels"),
    "huge tile that pillow would only warn of": (tiff((4, 4), 8, 1, bytes(16), tile=10_000), "tiles of 100000000"),
    "no width": (png_header(0, 5), "cannot be decoded"),
    "wrong checksum": (PNG[:20] + b"\1" + PNG[21:], "cannot be decoded"),
    **{
        f"{kind} cut short": (file_of(NOISE, kind)[:share], "cannot be decoded")
        for kind in images.FORMATS
        for share in [len(file_of(NOISE, kind)) // 2]
    },
    **{f"{kind} header alone": (file_of(NOISE, kind)[:24], "cannot be decoded") for kind in images.FORMATS},
}


def assert_sentence(error: PictureError, *hidden: str) -> None:
    message = str(error)
    assert re.fullmatch(r"[A-Z]((?!\. |: ).)*: ((?!\. |: ).)*\.", message), f"not one sentence: {message}"
    assert message.split(": ")[1].split()[0] in {"give", "save", "check", "scale", "crop"}, f"no advice: {message}"
    assert len(message) < 300
    for text in (*hidden, "Traceback", "PIL.", "0x", "BytesIO", os.getcwd()):
        assert text not in message


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_files(name: str, tmp_path: Path) -> None:
    data, expected = BAD_BYTES[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(PictureError, match=expected) as raised:
            read(data)
    assert str(raised.value).startswith("The picture ")
    assert_sentence(raised.value, "/")
    assert not [w for w in caught if issubclass(w.category, Image.DecompressionBombWarning)]

    path = tmp_path / "holiday.jpg"
    path.write_bytes(data)
    with pytest.raises(PictureError, match=expected) as raised:
        read(path)
    assert str(raised.value).startswith("The file 'holiday.jpg' ")
    assert_sentence(raised.value, str(tmp_path))


@pytest.mark.parametrize("size", [(10_000, 6_501), (60_000, 60_000)])
def test_nothing_is_decoded_before_the_cap(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded.append)
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(PictureError, match="at most 65 million"):
        read(png_header(*size))
    assert not decoded
    assert limit == Image.MAX_IMAGE_PIXELS


def test_too_many_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", len(PNG) - 1)
    (tmp_path / "a.png").write_bytes(PNG)
    for source in (PNG, tmp_path / "a.png"):
        with pytest.raises(PictureError, match="MiB") as raised:
            read(source)
        assert_sentence(raised.value, str(tmp_path))
    monkeypatch.setattr(images, "MAX_BYTES", len(PNG))
    np.testing.assert_array_equal(read(PNG), RGB)


@pytest.mark.parametrize(
    "name", ["missing.jpg", "no/such/folder/a.jpg", "folder", "", ".", "pipe", "x" * 5000, "nul\0byte", "a\nb. c", "~"]
)
def test_bad_paths(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PictureError, match=r"folder|does not exist|cannot be opened") as raised:
        read(name)
    if ". " not in name:
        assert_sentence(raised.value, str(tmp_path), "no/such")
    assert "\n" not in str(raised.value)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(PNG)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "a.png"))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PictureError, match="Permission denied") as raised:
        read(tmp_path / "a.png")
    assert_sentence(raised.value, str(tmp_path))


@pytest.mark.parametrize("source", [None, 7, 1.5, [[0, 1]], io.BytesIO(PNG), object])
def test_bad_types(source: object) -> None:
    with pytest.raises(PictureError, match=type(source).__name__) as raised:
        read(source)  # type: ignore[arg-type]
    assert str(raised.value).endswith("give a path, bytes, a PIL picture or a NumPy array.")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros(5), r"\(H, W\)"),
        (np.array(1.0), r"\(H, W\)"),
        (np.zeros((3, 32, 32)), "channels last"),
        (np.zeros((1, 32, 32, 3)), "channels last"),
        (np.zeros((8, 8, 2)), "channels last"),
        (np.zeros((0, 5, 3)), "at least 1 x 1"),
        (np.zeros((5, 0)), "at least 1 x 1"),
        (np.zeros((1, 10_000), np.uint8), "crop it"),
        (np.broadcast_to(np.uint8(0), (10_000, 10_000)), "at most 65 million"),
        (np.array([[0.0, 1.5]]), "from 0 to 1.5: scale them to 0..1"),
        (np.array([[-0.1, 1.0]]), "from -0.1 to 1: scale them to 0..1"),
        (np.array([[0.0, 255.0]]), "from 0 to 255: scale them to 0..1"),
        (np.array([[0.0, np.nan]]), "nan"),
        (np.array([[0.0, np.inf]]), "inf"),
        (np.array([[0, 256]]), "from 0 to 256: scale them to 0..255"),
        (np.array([[-1, 5]], np.int16), "from -1 to 5: scale them to 0..255"),
        (np.array([["a"]]), "bool, integers"),
        (np.array([[None]]), "bool, integers"),
        (np.ones((2, 2), complex), "bool, integers"),
    ],
)
def test_bad_arrays(array: np.ndarray, expected: str) -> None:
    with pytest.raises(PictureError, match=expected) as raised:
        read(array)
    assert_sentence(raised.value)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("RGB", (0, 4)), "at least 1 x 1"),
        (Image.new("L", (101, 1)), "101 x 1 pixels"),
        (Image.open(io.BytesIO(file_of(NOISE, "JPEG")[:-500])), "cannot be decoded"),
    ],
)
def test_bad_pil_pictures(picture: Image.Image, expected: str) -> None:
    with pytest.raises(PictureError, match=expected) as raised:
        read(picture)
    assert_sentence(raised.value)


def test_any_damage_gives_a_picture_or_a_sentence() -> None:
    random = np.random.default_rng(0)
    for data, _, _ in GOOD.values():
        for _ in range(20):
            damaged = bytearray(data)
            for place in random.integers(0, len(data), 4):
                damaged[place] = random.integers(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    assert read(bytes(damaged)).mode == "RGB"
                except PictureError as error:
                    assert_sentence(error)


def test_standard_error_stays_clean(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description that the cut below takes away"
    (tmp_path / "exif.png").write_bytes(file_of(RGB, "PNG", exif=exif.tobytes()[:-20]))
    (tmp_path / "cut.tiff").write_bytes(file_of(RGB, "TIFF")[:-40])
    (tmp_path / "bomb.png").write_bytes(png_header(10_000, 9_000))
    (tmp_path / "bomb.tiff").write_bytes(tiff((4, 4), 8, 1, bytes(16), tile=10_000))
    code = (
        "import sys; from gradcam.images import PictureError, read\n"
        "for name in sys.argv[1:]:\n    try: read(name)\n    except PictureError: pass"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, tmp_path.iterdir())], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def test_threads_read_what_one_thread_reads() -> None:
    sources = [data for data, _, _ in GOOD.values()] * 4
    expected = [read(data).tobytes() for data in sources]
    with ThreadPoolExecutor(8) as pool:
        assert [picture.tobytes() for picture in pool.map(read, sources)] == expected


# The framing. Oracle: timm's own transform on pictures whose values are the coordinates of the pixels' centres.


def seen_by_timm(length: int, other: int, axis: int, **config: Any) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the network's pixels along one axis, from 0 to 1, and where in the picture each of them looks."""
    ramp = np.broadcast_to(np.arange(length, dtype=np.float32) + 0.5, (other, length))
    ramp = ramp if axis == 0 else ramp.T
    transform = create_transform(is_training=False, interpolation="bilinear", mean=(0.0,), std=(1.0,), **config)
    out = transform(Image.fromarray(np.ascontiguousarray(ramp)))[0].numpy()
    line = out[out.shape[0] // 2] if axis == 0 else out[:, out.shape[1] // 2]
    margin = max(np.diff(line).max(initial=0) if length > 1 else 0, 0.5) + 1e-3
    inside = np.flatnonzero((line > margin) & (line < length - margin))  # elsewhere the filter lacks neighbours
    return (inside + 0.5) / len(line), line[inside]


SIZES = [(320, 240), (240, 320), (500, 500), (224, 224), (225, 223), (32, 32), (3, 2), (31, 47), (1025, 769), (300, 30)]
SIZES += [(30, 300), (2, 150), (150, 2), (401, 601), (257, 1999)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.8, 0.875, 0.9, 0.95, 1.0, 1.15])
@pytest.mark.parametrize("input_size", [(3, 224, 224), (3, 32, 32), (3, 160, 97), (3, 63, 128)], ids=str)
def test_framing_is_what_timm_shows(
    size: tuple[int, int], input_size: tuple[int, int, int], crop_pct: float, mode: str
) -> None:
    config: dict[str, Any] = {"input_size": input_size, "crop_pct": crop_pct, "crop_mode": mode}
    try:
        framing = framing_of(size, input_size, crop_pct, mode)
    except PictureError as error:
        assert_sentence(error)
        with pytest.raises(ValueError, match="must be > 0"):
            seen_by_timm(size[0], size[1], 0, **config)
        return
    assert framing.size == size
    for axis in (0, 1):
        place, seen = seen_by_timm(size[axis], size[1 - axis], axis, **config)
        assert len(seen) > 1 or size[axis] == 2 or mode == "border"  # a ramp of a pixel or two tells nothing
        start, end = framing.box[axis::2]
        np.testing.assert_allclose(start + place * (end - start), seen, rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("size", "config", "box", "cropped"),
    [
        ((1, 1), ((3, 224, 224), 1.0, "center"), (0, 0, 1, 1), False),
        ((320, 240), ((3, 224, 224), 1.0, "squash"), (0, 0, 320, 240), False),
        ((320, 240), ((3, 240, 240), 1.0, "center"), (40, 0, 280, 240), True),
        ((240, 320), ((3, 240, 240), 1.0, "border"), (-40, 0, 280, 320), False),
        ((256, 256), ((3, 224, 224), 0.875, "center"), (16, 16, 240, 240), True),
        ((512, 256), ((3, 224, 224), 0.875, "center"), (144, 16, 368, 240), True),
        ((100, 100), ((3, 100, 100), 2.0, "center"), (-50, -50, 150, 150), False),
        ((101, 100), ((3, 100, 100), 1.0, "center"), (0, 0, 100, 100), True),
    ],
)
def test_framing_by_hand(
    size: tuple[int, int], config: tuple[tuple[int, int, int], float, str], box: tuple[float, ...], cropped: bool
) -> None:
    framing = framing_of(size, *config)
    assert framing.box == pytest.approx(box)
    assert framing.cropped is cropped


@pytest.mark.parametrize("side", range(4))
@pytest.mark.parametrize(("missing", "cropped"), [(0.5, False), (0.51, True), (-3.0, False)])
def test_cropped_on_each_side(side: int, missing: float, cropped: bool) -> None:
    left, top, right, bottom = (missing * np.eye(4)[side]).tolist()
    assert Framing((20, 10), (left, top, 20 - right, 10 - bottom)).cropped is cropped


def test_unknown_crop_mode() -> None:
    with pytest.raises(ValueError, match="'center', 'squash' or 'border'"):
        framing_of((4, 4), (3, 4, 4), 1.0, "random")
