"""Untrusted pictures to RGB, and the box of a picture that a network saw."""

import io
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from .errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_BYTES = 256 * 2**20
MAX_PIXELS = 65_000_000
MAX_ASPECT = 100  # longer by shorter side: resized to 256 at its shorter side, 1 x 10,000 would be 655 million pixels
TILE_WIDTH, TILE_LENGTH = 322, 323  # TIFF tags; pillow makes room for a tile, however small the picture

Image.init()  # fills Image.OPEN, before any thread reads it
# Pillow remarks on odd metadata. catch_warnings is not safe across threads; appended, this yields to other filters.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.", append=True)


class PictureError(InputError):
    """A picture cannot be read; the message is one sentence that can be shown to anybody."""


@dataclass(frozen=True)
class Framing:
    """Which part of a picture a network saw.

    size: (width, height) of the picture, in pixels.
    box: (left, top, right, bottom) in the picture's pixels, half-open, x to the right and y down, not rounded.
        It reaches beyond the picture where the preprocessing pads.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]

    @property
    def cropped(self) -> bool:
        """Whether more than half a pixel of the picture lies outside the box, on any side."""
        left, top, right, bottom = self.box
        width, height = self.size
        return max(left, top, width - right, height - bottom) > 0.5


def read(source: str | Path | bytes | Image.Image | np.ndarray) -> Image.Image:
    """Read a picture from anywhere as 8-bit RGB, upright.

    source: a path or the bytes of a JPEG, PNG, WebP, BMP, TIFF or GIF (its first picture), known by content and not
        by name; a PIL picture in any mode; or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of bool, of integers
        in 0..255, of uint16 in 0..65535 or of floats in 0..1.

    The EXIF orientation is applied, and what is transparent shows white. 16-bit grey and uint16 are divided by 257,
    16-bit colour files by 256, 12-bit TIFFs by 4095 / 255. A 32-bit integer file in 0..255 and a float file in 0..1
    keep their range; beyond it, the finite minimum becomes black and the maximum white. NaN is black there.

    Size is checked before anything is decoded: at most MAX_BYTES, MAX_PIXELS, one side MAX_ASPECT times the other.
    Raises PictureError. The message names a file without its folder.
    """
    subject = _subject(source)
    try:
        return _upright_rgb(_opened(source, subject))
    except PictureError:
        raise
    except Exception as error:  # on hostile bytes pillow raises nearly anything
        raise PictureError(
            f"{subject} cannot be decoded (damaged, cut short or of an unusual kind): "
            "save or download it again, as JPEG or PNG."
        ) from error


def framing_of(
    size: tuple[int, int], input_size: tuple[int, int, int], crop_pct: float = 0.875, crop_mode: str = "center"
) -> Framing:
    """Find the box that timm's evaluation transform shows to the network, to the rounding of every step.

    size: (width, height) of the picture. input_size, crop_pct, crop_mode: as in timm's data configuration, with
        input_size (3, H, W) and crop_mode "center", "squash" or "border".

    Raises PictureError when the transform would shrink a side of the picture to nothing, ValueError for another mode.
    Source: timm.data.transforms_factory.transforms_imagenet_eval.
    """
    width, height = size
    crop_height, crop_width = input_size[1:]
    target_height, target_width = math.floor(crop_height / crop_pct), math.floor(crop_width / crop_pct)
    ratios = width / target_width, height / target_height
    if crop_mode == "squash":
        resized = target_width, target_height
    elif crop_mode == "border":
        resized = round(width / max(ratios)), round(height / max(ratios))
    elif crop_mode != "center":
        raise ValueError(f"crop_mode is {crop_mode!r}: expected 'center', 'squash' or 'border'.")
    elif target_width != target_height:
        resized = round(width / min(ratios)), round(height / min(ratios))
    else:  # torchvision's Resize truncates the longer side where timm's own rounds it
        resized = int(target_width * width / min(size)), int(target_width * height / min(size))
    if min(resized) < 1:
        raise PictureError(
            f"The picture is {width} x {height} pixels, too thin for a network that sees {crop_width} x {crop_height}: "
            "crop it and try again."
        )
    left, right = _crop(width, resized[0], crop_width)
    top, bottom = _crop(height, resized[1], crop_height)
    return Framing(size, (left, top, right, bottom))


def _crop(length: int, resized: int, crop: int) -> tuple[float, float]:
    """Ends, in pixels of the picture, of a centre crop along a side of `length` pixels that was resized first."""
    start = round((resized - crop) / 2) if crop <= resized else -((crop - resized) // 2)
    return start * length / resized, (start + crop) * length / resized


def _subject(source: object) -> str:
    """How a message names the source; of a path only the last part, and not too much of that."""
    if isinstance(source, str | Path):
        return f"The file {Path(source).name[:100]!r}"
    return "The array" if isinstance(source, np.ndarray) else "The picture"


def _opened(source: str | Path | bytes | Image.Image | np.ndarray, subject: str) -> Image.Image:
    """Picture of any mode and of an accepted size; a file is not decoded yet."""
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        _check_size(source.size, subject)
        return source
    if isinstance(source, bytes):
        return _from_bytes(source, subject)
    if isinstance(source, str | Path):
        return _from_bytes(_content(Path(source), subject), subject)
    raise PictureError(
        f"A picture cannot be read from {type(source).__name__}: give a path, bytes, a PIL picture or a NumPy array."
    )


def _content(path: Path, subject: str) -> bytes:
    try:
        if path.is_dir():
            raise PictureError(f"{subject} is a folder: give the path of one picture.")
        if not path.is_file():  # also keeps away from pipes and devices, which never end
            raise PictureError(f"{subject} does not exist or is not a plain file: check the path.")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PictureError(f"{subject} cannot be opened ({error.strerror}): check its path and permissions.") from error


def _from_bytes(data: bytes, subject: str) -> Image.Image:
    if not data:
        raise PictureError(f"{subject} is empty: save or upload it again.")
    if len(data) > MAX_BYTES:
        raise PictureError(
            f"{subject} is larger than the {MAX_BYTES // 2**20} MiB that are accepted: save it smaller, as JPEG or PNG."
        )
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts and accepts(data[:16]) is True:
            break
    else:
        raise PictureError(
            f"{subject} is not a picture of a known format, whatever its name says: "
            "save it as JPEG, PNG, WebP, BMP, TIFF or GIF."
        )
    image = factory(io.BytesIO(data), "")  # Image.open would warn of a large one through process-wide filters
    _check_size(image.size, subject)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tile = image.tag_v2.get(TILE_WIDTH, 0) * image.tag_v2.get(TILE_LENGTH, 0)
        if tile > MAX_PIXELS:
            raise PictureError(f"{subject} has tiles of {tile} pixels, more than are accepted: save it as JPEG or PNG.")
    return image


def _from_array(array: np.ndarray) -> Image.Image:
    """Array as in `read` to a picture of mode L, RGB or RGBA."""
    given = f"The array of shape {array.shape} and type {array.dtype}"
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise PictureError(
            f"{given} is not one picture: give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), channels last."
        )
    _check_size((array.shape[1], array.shape[0]), "The array")
    if array.dtype.kind not in "buif":
        raise PictureError(f"{given} is not a picture: give bool, integers in 0..255, uint16 or floats in 0..1.")
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    white = 1 if array.dtype.kind in "bf" else 65535 if np.issubdtype(array.dtype, np.uint16) else 255
    if not (array.min() >= 0 and array.max() <= white):  # false for NaN too
        raise PictureError(
            f"{given} has values from {array.min():.6g} to {array.max():.6g}: "
            f"scale them to 0..{white}, before any normalisation for a network."
        )
    return Image.fromarray(_eight_bits(array, 0, white))


def _check_size(size: tuple[int, int], subject: str) -> None:
    given = f"{subject} is {size[0]} x {size[1]} pixels"
    if min(size) < 1:
        raise PictureError(f"{given}: give one of at least 1 x 1.")
    if size[0] * size[1] > MAX_PIXELS:
        raise PictureError(f"{given} and at most {MAX_PIXELS // 10**6} million are accepted: scale it down first.")
    if max(size) > MAX_ASPECT * min(size):
        raise PictureError(f"{given}, one side more than {MAX_ASPECT} times the other: crop it first.")


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Decode a picture of any mode to a new one: RGB, white where transparent, the EXIF orientation applied."""
    image.load()
    orientation = _orientation(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _grey(image)
    elif image.mode == "La":  # pillow converts it to nothing else
        image = image.convert("LA")
    picture = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if picture.mode == "RGBA":
        layer, picture = picture, Image.new("RGB", image.size, "white")
        picture.paste(layer, mask=layer)
    picture.info.clear()  # nor where it was taken, nor EXIF data too damaged for exif_transpose, goes on from here
    if orientation in range(2, 9):
        picture.getexif()[ExifTags.Base.Orientation] = orientation
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata does not make a bad picture
        return 1


def _grey(image: Image.Image) -> Image.Image:
    """Loaded picture of mode I;16, I or F to mode L, in the ranges that `read` names."""
    values = np.asarray(image)
    black, white = (0, 65535) if image.mode.startswith("I;16") else (0, 255) if image.mode == "I" else (0, 1)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode == "I;16":
        white = 2 ** image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0] - 1
        if image.tag_v2[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] == 0:  # white is zero, which pillow leaves to us
            values = white - values
    finite = (band[np.isfinite(band)] for band in _bands(values))
    ends = [end for band in finite if band.size for end in (band.min(), band.max())]
    if ends and (min(ends) < black or max(ends) > white):
        black, white = min(ends), max(ends)
    grey = _eight_bits(values, black, white)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def _eight_bits(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Scale black..white to 0..255 (uint8), NaN to 0 and infinities to the ends."""
    grey = np.empty(values.shape, np.uint8)
    for shown, band in zip(_bands(grey), _bands(values), strict=True):
        shown[:] = np.rint(np.nan_to_num(np.interp(band, (black, white), (0, 255))))
    return grey


def _bands(values: np.ndarray) -> Iterator[np.ndarray]:
    """A picture's values, a few rows at a time: what is computed of them all takes gigabytes of large pictures."""
    return (values[top : top + 16] for top in range(0, len(values), 16))
