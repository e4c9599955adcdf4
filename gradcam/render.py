"""Maps -> overlays, heatmaps and strips: the only place that scales a map for display.

Pure functions of NumPy arrays and pillow pictures. A map ("saliency") is a raw (h, w) array of evidence as the
explainer returns it; its `Framing` says which box of the picture it covers.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from .errors import InputError
from .images import Framing

COLORMAPS = {
    "inferno": cv2.COLORMAP_INFERNO,
    "magma": cv2.COLORMAP_MAGMA,
    "plasma": cv2.COLORMAP_PLASMA,
    "viridis": cv2.COLORMAP_VIRIDIS,
    "cividis": cv2.COLORMAP_CIVIDIS,
    "turbo": cv2.COLORMAP_TURBO,
    "jet": cv2.COLORMAP_JET,  # not perceptually uniform: it draws edges where the map has none; papers show it
}
NO_EVIDENCE = "no positive evidence"
ROW = 6  # panels of a strip beside each other

_UNSEEN = (72, 72, 72)  # a grey that is in none of the colour maps
INK, PALE = "#1a1a1a", "#6b6b6b"  # of text on white


def enlarge(saliency: ArrayLike, framing: Framing) -> NDArray[np.float32]:
    """Bring a map to the picture's own pixels.

    Bilinear with half-pixel centres (`align_corners=False`), the map stretched over exactly `framing.box`, whose edges
    may lie between pixels or beyond the picture. From the centres of the outer cells outwards their value holds.

    Args:
        saliency: (h, w), any finite values, any unit; neither scaled nor clipped here.
        framing: the picture's size (W, H) and the box of it that the map covers.

    Returns:
        (H, W) float32, in the unit of `saliency`; NaN where a pixel's centre lies outside the box.

    Raises:
        ValueError: the map is not two-dimensional, is empty, or holds NaN or infinity.
    """
    width, height = framing.size
    left, top, right, bottom = _seen(framing)
    enlarged = np.full((height, width), np.nan, np.float32)
    enlarged[top:bottom, left:right] = _enlarge_seen(_checked(saliency), framing)
    return enlarged


def overlay(
    picture: Image.Image,
    saliency: ArrayLike,
    framing: Framing,
    *,
    full: float | None = None,
    opacity: float = 0.65,
    colormap: str = "inferno",
    contour: float | None = None,
) -> Image.Image:
    """Lay a map over its picture.

    The colour's opacity grows with the evidence, from none at 0 to `opacity` at a third of the full scale and above:
    strong evidence is unmistakable, and what does not matter to the network keeps its own look. What the network did
    not see is grey and dark beyond a white line. A map without a positive value leaves the picture as it is, with the
    caption `NO_EVIDENCE` where there is room for one (about 150 x 40 pixels; `crisp` makes room in small pictures).

    Args:
        picture: the picture, of size `framing.size`.
        saliency: (h, w), finite; negative values count as 0.
        framing: the box of the picture that the map covers.
        full: the value shown at full strength, the same for maps to be compared; default: the map's own maximum.
        opacity: of the strongest evidence, 0 (invisible) to 1 (hides the picture).
        colormap: a name in `COLORMAPS`.
        contour: draw the line at this fraction of the full scale, between 0 and 1.

    Returns:
        A new RGB picture of the same size.

    Raises:
        ValueError: a bad map (see `enlarge`), a picture of another size, or an argument out of its range.
    """
    _check_size(picture, framing)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}; expected a number from 0 to 1.")
    alpha = 255 * opacity * np.linspace(0, 3, 256).clip(max=1)
    canvas = picture.convert("RGB")
    if framing.cropped:
        box = _seen(framing)
        unseen = canvas.convert("L").point(lambda grey: grey * 0.5).convert("RGB")
        unseen.paste(canvas.crop(box), box)
        canvas = unseen
    return _painted(canvas, _checked(saliency), framing, full, colormap, alpha, contour)


def heatmap(
    saliency: ArrayLike,
    framing: Framing,
    *,
    full: float | None = None,
    colormap: str = "inferno",
    contour: float | None = None,
) -> Image.Image:
    """The map alone, in full colour, at the picture's size; plain grey where the network saw nothing.

    Arguments and errors as for `overlay`.
    """
    canvas = Image.new("RGB", framing.size, _UNSEEN)
    return _painted(canvas, _checked(saliency), framing, full, colormap, np.full(256, 255), contour)


def colour_bar(colormap: str = "inferno") -> Image.Image:
    """The colours of the evidence from none to the full scale, 256 x 1 pixels. Raises ValueError."""
    return _coloured(np.arange(256, dtype=np.uint8)[None], colormap)


def draw_legend(
    canvas: Image.Image,
    end: tuple[int, int],
    size: tuple[int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    colormap: str = "inferno",
) -> None:
    """Draw a colour bar of `size` and what its ends mean on the canvas; the right end, half-way down, is at `end`."""
    draw, (right, middle), gap = ImageDraw.Draw(canvas), end, size[1]
    right -= round(draw.textlength("strongest evidence", font))
    draw.text((right, middle), "strongest evidence", PALE, font, anchor="lm")
    right -= gap + size[0]
    canvas.paste(colour_bar(colormap).resize(size), (right, middle - size[1] // 2))
    draw.text((right - gap, middle), "none", PALE, font, anchor="rm")


def crisp(picture: Image.Image, framing: Framing, least: int = 256) -> tuple[Image.Image, Framing]:
    """Enlarge a small picture by a whole factor, its pixels kept as squares, so that a map above it is smooth.

    Pass what it returns to `overlay`, `heatmap` or `enlarge`. The factor is the smallest with which the longer side
    has at least `least` pixels; a picture that has them comes back as it is.
    """
    _check_size(picture, framing)
    factor = math.ceil(least / max(picture.size))
    if factor <= 1:
        return picture, framing
    return _resized(picture, framing, (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def shrunk(picture: Image.Image, framing: Framing, side: int) -> tuple[Image.Image, Framing]:
    """A picture with its longer side at `side` pixels, if it is longer, and its framing."""
    scale = side / max(picture.size)
    if scale >= 1:
        return picture, framing
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return _resized(picture, framing, size, Image.Resampling.LANCZOS)


def strip(
    picture: Image.Image,
    saliencies: Sequence[ArrayLike],
    titles: Sequence[str],
    framing: Framing,
    *,
    side: int = 320,
    full: float | None = None,
    opacity: float = 0.65,
    colormap: str = "inferno",
    contour: float | None = None,
) -> Image.Image:
    r"""A figure: the picture, then one titled overlay a map, all on one scale, which a colour bar shows.

    After ROW panels it goes on below them.

    Args:
        picture: the picture, of size `framing.size`; shown with its longer side at `side` pixels, or, when it is
            smaller than that, enlarged as by `crisp`.
        saliencies: one (h, w) map a panel.
        titles: one a map, for example "tabby\n83.1 %": the first line is dark, further ones pale. A line that is wider
            than its panel ends in an ellipsis.
        full: the value shown at full strength; default: the maximum over all maps.

    Other arguments and errors as for `overlay`.
    """
    if not saliencies or len(saliencies) != len(titles):
        raise ValueError(
            f"{len(saliencies)} maps and {len(titles)} titles given; expected at least one map, a title each."
        )
    _check_size(picture, framing)
    maps = [_checked(saliency) for saliency in saliencies]
    full = full if full is not None else max(float(grid.max()) for grid in maps)
    picture, framing = crisp(*shrunk(picture, framing, side), side)
    overlays = [
        overlay(picture, grid, framing, full=full, opacity=opacity, colormap=colormap, contour=contour) for grid in maps
    ]
    return _figure([picture, *overlays], ["original", *titles], side, colormap)


def _checked(saliency: ArrayLike) -> NDArray[np.float32]:
    grid = np.asarray(saliency, dtype=np.float32)
    if grid.ndim != 2 or not grid.size:
        raise ValueError(
            f"The map has the shape {grid.shape}; expected (h, w): pass the map of one picture and one class."
        )
    if not np.isfinite(grid).all():
        raise InputError(
            "The map holds NaN or infinite values, which cannot be shown; check the network's weights and its input."
        )
    return grid


def _check_size(picture: Image.Image, framing: Framing) -> None:
    if picture.size != framing.size:
        raise ValueError(
            "The picture has {}x{} pixels and its framing {}x{}; ".format(*picture.size, *framing.size)
            + "pass the picture that the framing was made for."
        )


def _seen(framing: Framing) -> tuple[int, int, int, int]:
    """The pixels that the network saw: left, top, right, bottom, half-open."""
    (width, height), (low_x, low_y, high_x, high_y) = framing.size, framing.box
    (left, right), (top, bottom) = _span(low_x, high_x, width), _span(low_y, high_y, height)
    return left, top, right, bottom


def _span(low: float, high: float, count: int) -> tuple[int, int]:
    """The pixels of an axis, of `count`, whose centres lie between two edges; at least one."""
    first = min(max(math.ceil(low - 0.5), 0), count - 1)
    return first, max(min(math.ceil(high - 0.5), count), first + 1)


def _enlarge_seen(grid: NDArray[np.floating], framing: Framing) -> NDArray[np.floating]:
    # Linear interpolation is a product with tent weights, one matrix an axis. OpenCV resizes into whole pixels only,
    # and before version 5 its warps round to 1/32 of a cell: steps that show when seven cells span a photograph.
    left, top, right, bottom = _seen(framing)
    rows = _tents(np.arange(top, bottom), framing.box[1], framing.box[3], grid.shape[0])
    columns = _tents(np.arange(left, right), framing.box[0], framing.box[2], grid.shape[1])
    return rows @ grid @ columns.T


def _tents(pixels: NDArray[np.int64], low: float, high: float, cells: int) -> NDArray[np.float32]:
    """(pixels, cells): what each cell of an axis that spans `low` to `high` adds to each pixel."""
    position = (pixels + 0.5 - low) * (cells / (high - low)) - 0.5
    distance = np.abs(position.clip(0, cells - 1)[:, None] - np.arange(cells))
    return np.maximum(0, 1 - distance).astype(np.float32)


def _painted(
    canvas: Image.Image,
    grid: NDArray[np.float32],
    framing: Framing,
    full: float | None,
    colormap: str,
    alpha: NDArray[np.floating],
    contour: float | None,
) -> Image.Image:
    """Paint the map on `canvas` in place: colours, contour, the edge of what was seen, caption."""
    if contour is not None and not 0 < contour < 1:
        raise ValueError(f"contour is {contour}; expected a fraction of the full scale, between 0 and 1.")
    evidence = grid.max() > 0
    full = full if full is not None else float(grid.max())
    if evidence and not (full > 0 and math.isfinite(full)):
        raise ValueError(f"full is {full}; expected the positive map value to show at full strength.")
    left, top, right, bottom = _seen(framing)
    scaled = grid.clip(min=0) / full * 255 if evidence else np.zeros_like(grid)
    shades = cv2.convertScaleAbs(_enlarge_seen(scaled, framing))  # rounds, and saturates at 255
    mask = Image.fromarray(cv2.LUT(shades, alpha.round().astype(np.uint8)))
    canvas.paste(_coloured(shades, colormap), (left, top), mask)
    stroke = max(1, round(max(canvas.size) / 400))
    if contour is not None:
        pixels = np.asarray(canvas.crop((left, top, right, bottom))).copy()
        lines, _ = cv2.findContours((shades >= 255 * contour).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(pixels, lines, -1, (0, 0, 0), 2 * stroke, cv2.LINE_AA)
        cv2.drawContours(pixels, lines, -1, (255, 255, 255), stroke, cv2.LINE_AA)
        canvas.paste(Image.fromarray(pixels), (left, top))
    # Just outside of what was seen the line hides no evidence, and it shows only where something was cut away.
    edge = (left - stroke, top - stroke, right + stroke - 1, bottom + stroke - 1)
    ImageDraw.Draw(canvas).rectangle(edge, outline="white", width=stroke)
    if not evidence:
        _caption(canvas, NO_EVIDENCE, (left + right) / 2, bottom)
    return canvas


def _coloured(shades: MatLike, colormap: str) -> Image.Image:
    if colormap not in COLORMAPS:
        raise ValueError(f"There is no colour map {colormap!r}; choose one of {', '.join(COLORMAPS)}.")
    return Image.fromarray(cv2.cvtColor(cv2.applyColorMap(shades, COLORMAPS[colormap]), cv2.COLOR_BGR2RGB))


def _resized(
    picture: Image.Image, framing: Framing, size: tuple[int, int], resampling: Image.Resampling
) -> tuple[Image.Image, Framing]:
    x, y = size[0] / picture.width, size[1] / picture.height
    left, top, right, bottom = framing.box
    # With a gap of 2, pillow's advice, the 4032 pixels of a phone are all filtered, which takes five times as long.
    resized = picture.resize(size, resampling, reducing_gap=1.3)
    return resized, replace(framing, size=size, box=(left * x, top * y, right * x, bottom * y))


@cache
def _font(size: int, ascii_only: bool = True) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if not ascii_only:  # pillow's own font has no letters beyond ASCII
        for name in ("DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf"):
            with suppress(OSError):
                return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


def _caption(canvas: Image.Image, text: str, centre: float, bottom: float) -> None:
    """Write one line on a dark label that ends just above `bottom`; nothing where it would not fit or be legible."""
    size = max(11, round(min(canvas.width / 28, canvas.height / 12)))
    y = bottom - 1.5 * size
    half = 0.5 * _font(size).getlength(text) + 0.7 * size
    label = (centre - half, y - 0.9 * size, centre + half, y + 0.9 * size)
    if label[0] < 0 or label[1] < 0 or label[2] > canvas.width:
        return
    draw = ImageDraw.Draw(canvas, "RGBA")  # in this mode colours with an alpha are blended into the picture
    draw.rounded_rectangle(label, radius=0.9 * size, fill=(0, 0, 0, 160))
    draw.text((centre, y), text, "white", _font(size), anchor="mm")


def _figure(panels: Sequence[Image.Image], titles: Sequence[str], side: int, colormap: str) -> Image.Image:
    """Panels in rows of ROW on white, titles above, the colour bar below."""
    size = max(11, side // 18)
    gap, line = size, round(1.35 * size)
    lines = [title.splitlines() for title in titles]
    head = line * max(map(len, lines)) + gap // 3
    width = max(panels[0].width, side // 2)  # room for the titles of tall pictures
    across, down = width + gap, head + panels[0].height + gap  # from one panel to the next
    foot = gap + down * math.ceil(len(panels) / ROW)
    figure = Image.new("RGB", (gap + across * min(len(panels), ROW), foot + size + gap), "white")
    draw = ImageDraw.Draw(figure)
    for number, (panel, title) in enumerate(zip(panels, lines, strict=True)):
        left, top = gap + number % ROW * across, gap + number // ROW * down
        figure.paste(panel, (left, top + head))
        for row, text in enumerate(title):
            font = _font(size, text.isascii())
            draw.text((left, top + row * line), _shortened(text, font, width), PALE if row else INK, font)
    draw_legend(
        figure, (figure.width - gap, foot + size // 2), (side // 2, size // 2), _font(round(0.8 * size)), colormap
    )
    return figure


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text`, or as much of it as fits into `width` pixels together with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"
