"""render.py against slow oracles: PyTorch's interpolation, and loops written from the definitions."""

import math

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from gradcam import render
from gradcam.errors import InputError
from gradcam.images import Framing

INFERNO_TOP = (252, 255, 164)


def whole(width: int, height: int) -> Framing:
    return Framing((width, height), (0, 0, width, height))


def random_map(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


def photograph(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def pixels(picture: Image.Image) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def interpolated(saliency: np.ndarray, height: int, width: int) -> np.ndarray:
    batch = torch.from_numpy(saliency)[None, None]
    return torch.nn.functional.interpolate(batch, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()


def slow_enlarge(saliency: np.ndarray, framing: Framing) -> np.ndarray:
    """Pixel by pixel: the value at the pixel's centre between the centres of the four cells around it."""
    (width, height), (left, top, right, bottom) = framing.size, framing.box
    rows, columns = saliency.shape
    out = np.full((height, width), np.nan)
    for y in range(height):
        for x in range(width):
            if not (left <= x + 0.5 < right and top <= y + 0.5 < bottom):
                continue
            u = min(max((x + 0.5 - left) / (right - left) * columns - 0.5, 0), columns - 1)
            v = min(max((y + 0.5 - top) / (bottom - top) * rows - 0.5, 0), rows - 1)
            a, b = math.floor(u), math.floor(v)
            c, d = min(a + 1, columns - 1), min(b + 1, rows - 1)
            upper = saliency[b, a] * (1 - (u - a)) + saliency[b, c] * (u - a)
            lower = saliency[d, a] * (1 - (u - a)) + saliency[d, c] * (u - a)
            out[y, x] = upper * (1 - (v - b)) + lower * (v - b)
    return out


def slow_overlay(picture: Image.Image, share: np.ndarray, opacity: float, colormap: int) -> np.ndarray:
    """Pixel by pixel from `share`, the evidence as a fraction of the full scale."""
    out = pixels(picture).astype(float)
    for y, x in np.ndindex(share.shape):
        colour = cv2.applyColorMap(np.uint8([[round(255 * share[y, x])]]), colormap)[0, 0, ::-1]
        alpha = opacity * min(1, 3 * share[y, x])
        out[y, x] = (1 - alpha) * out[y, x] + alpha * colour
    return out


@pytest.mark.parametrize("grid", [(7, 7), (8, 8), (14, 5), (1, 1), (1, 6), (56, 56)])
@pytest.mark.parametrize("size", [(224, 224), (331, 97), (32, 32), (1, 1), (5, 300)])
def test_enlarge_over_the_whole_picture_is_pytorchs_interpolation(grid, size):
    saliency = random_map(*grid)
    enlarged = render.enlarge(saliency, whole(*size))
    assert enlarged.dtype == np.float32
    np.testing.assert_allclose(enlarged, interpolated(saliency, size[1], size[0]), atol=1e-5, rtol=0)


def test_enlarge_stays_exact_when_a_cell_covers_hundreds_of_pixels():
    saliency = np.array([[0, 1]], np.float32)
    enlarged = render.enlarge(saliency, whole(4000, 1))[0]
    steps = np.diff(enlarged[1000:3000])
    np.testing.assert_allclose(steps, 1 / 2000, atol=1e-6)


@pytest.mark.parametrize(
    "box",
    [
        (4.3, 2.6, 29.1, 20.9),
        (0.5, 0.5, 31.5, 22.5),
        (-3.7, 1.2, 35.7, 21.8),  # padded at the sides, cropped above and below
        (-8, -5, 40, 28),
        (10.49, 5.49, 11.51, 6.51),
    ],
)
@pytest.mark.parametrize("grid", [(7, 7), (3, 9), (1, 1)])
def test_enlarge_into_a_fractional_box_is_the_definition(box, grid):
    saliency, framing = random_map(*grid) - 0.5, Framing((32, 23), box)
    np.testing.assert_allclose(
        render.enlarge(saliency, framing), slow_enlarge(saliency, framing), atol=1e-5, rtol=0, equal_nan=True
    )


def test_enlarge_leaves_what_was_cropped_away_undefined():
    saliency = random_map(7, 7)
    enlarged = render.enlarge(saliency, Framing((40, 30), (5, 0, 35, 30)))
    np.testing.assert_allclose(enlarged[:, 5:35], interpolated(saliency, 30, 30), atol=1e-5)
    assert np.isnan(enlarged[:, :5]).all()
    assert np.isnan(enlarged[:, 35:]).all()


def test_a_box_between_two_pixel_centres_still_has_one_pixel():
    enlarged = render.enlarge([[2.0]], Framing((100, 1), (49.6, 0.1, 50.4, 0.9)))
    assert np.flatnonzero(np.isfinite(enlarged[0])).tolist() == [50]


def test_enlarge_accepts_tensors_halves_and_lists():
    framing = whole(9, 9)
    expected = render.enlarge([[0.0, 1.0], [2.0, 4.0]], framing)
    for given in (torch.tensor([[0.0, 1.0], [2.0, 4.0]]), np.array([[0, 1], [2, 4]], np.float16)):
        np.testing.assert_array_equal(render.enlarge(given, framing), expected)


@pytest.mark.parametrize("colormap", render.COLORMAPS)
def test_overlay_is_the_documented_blend(colormap):
    picture, saliency = photograph(37, 26), random_map(5, 4)
    framing = whole(37, 26)
    share = slow_enlarge(saliency, framing) / saliency.max()
    shown = pixels(render.overlay(picture, saliency, framing, opacity=0.8, colormap=colormap))
    expected = slow_overlay(picture, share, 0.8, render.COLORMAPS[colormap])
    assert np.abs(shown - expected).max() <= 4  # evidence and opacity have 256 steps each


def test_colours_are_red_green_blue_from_nothing_to_full():
    saliency, framing = [[0.0, 1.0]], whole(300, 200)
    inferno, jet = (pixels(render.heatmap(saliency, framing, colormap=name)) for name in ("inferno", "jet"))
    assert tuple(inferno[100, 0]) == (0, 0, 4)
    assert tuple(inferno[100, -1]) == INFERNO_TOP
    assert tuple(jet[100, 0]) == (0, 0, 128)
    assert tuple(jet[100, -1]) == (128, 0, 0)


def test_opacity_runs_from_invisible_to_opaque():
    picture, saliency, framing = photograph(60, 40), random_map(7, 7) + 1, whole(60, 40)
    np.testing.assert_array_equal(pixels(render.overlay(picture, saliency, framing, opacity=0)), pixels(picture))
    opaque = render.overlay(picture, saliency, framing, opacity=1)  # everywhere above a third of the full scale
    np.testing.assert_array_equal(pixels(opaque), pixels(render.heatmap(saliency, framing)))


def test_pixels_without_evidence_keep_their_own_look():
    picture, saliency = photograph(80, 60), np.zeros((6, 8), np.float32)
    saliency[3, 5] = 1
    shown = pixels(render.overlay(picture, saliency, whole(80, 60)))
    np.testing.assert_array_equal(shown[:, :40], pixels(picture)[:, :40])
    assert (shown[30:40, 50:60] != pixels(picture)[30:40, 50:60]).any()


def test_the_scale_does_not_depend_on_the_unit():
    picture, saliency, framing = photograph(50, 50), random_map(7, 7), whole(50, 50)
    expected = pixels(render.overlay(picture, saliency, framing))
    for unit in (2.0**-100, 2.0**20, 2.0**100):
        np.testing.assert_array_equal(pixels(render.overlay(picture, saliency * np.float32(unit), framing)), expected)


def test_full_sets_the_scale_and_what_is_above_saturates():
    framing = whole(20, 20)
    for value, full, index in ((1.0, 2.0, 128), (0.25, 1.0, 64), (3.0, 1.0, 255)):
        colour = cv2.applyColorMap(np.uint8([[index]]), cv2.COLORMAP_INFERNO)[0, 0, ::-1]
        assert (pixels(render.heatmap([[value]], framing, full=full)) == colour).all()


def test_negative_values_count_as_no_evidence():
    picture, framing = photograph(64, 48), whole(64, 48)
    signed = random_map(7, 7) - 0.5
    np.testing.assert_array_equal(
        pixels(render.overlay(picture, signed, framing)), pixels(render.overlay(picture, signed.clip(min=0), framing))
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, -0.0, -1.0])
@pytest.mark.parametrize("full", [None, 5.0, 0.0])
def test_a_map_without_evidence_is_the_picture_with_a_caption(value, full):
    picture, framing = photograph(320, 240), whole(320, 240)
    saliency = np.full((7, 7), value, np.float32)
    shown = pixels(render.overlay(picture, saliency, framing, full=full, contour=0.5))
    np.testing.assert_array_equal(shown[:200], pixels(picture)[:200])
    assert (shown[200:] != pixels(picture)[200:]).any(-1).sum() > 2000
    assert (pixels(render.heatmap(saliency, framing, full=full))[:200] == (0, 0, 4)).all()


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (1, 4000), (4000, 8)])
def test_a_picture_without_room_has_no_caption(size):
    picture = photograph(*size)
    shown = render.overlay(picture, np.zeros((7, 7)), whole(*size))
    np.testing.assert_array_equal(pixels(shown), pixels(picture))


@pytest.mark.parametrize("size", [(160, 160), (300, 2000), (3000, 2000)])
def test_the_caption_grows_with_the_picture_and_stays_inside(size):
    shown = pixels(render.overlay(Image.new("RGB", size, "green"), np.zeros((7, 7)), whole(*size)))
    rows, columns = np.nonzero((shown > 180).all(-1))
    assert 0.2 * size[0] < np.ptp(columns) < 0.8 * size[0]
    assert abs(columns.min() + columns.max() - size[0]) < 0.05 * size[0]
    assert rows.max() < size[1] - 2


def test_the_caption_stands_in_what_the_network_saw():
    framing = Framing((300, 500), (20, 100, 280, 360))
    shown = pixels(render.overlay(Image.new("RGB", (300, 500), "green"), np.zeros((7, 7)), framing))[100:360, 20:280]
    rows, _ = np.nonzero((shown > 180).all(-1))
    assert rows.min() > 200


def test_what_the_network_did_not_see_is_grey_and_dark_beyond_a_line():
    picture, saliency = photograph(120, 80), random_map(7, 7)
    framing = Framing((120, 80), (20, 0, 100, 80))
    shown, before = pixels(render.overlay(picture, saliency, framing)), pixels(picture)
    inside = render.overlay(picture.crop((20, 0, 100, 80)), saliency, whole(80, 80))
    np.testing.assert_array_equal(shown[:, 20:100], pixels(inside))
    assert (shown[:, [19, 100]] == 255).all()
    grey = before @ (0.299, 0.587, 0.114) / 2
    for unseen in (np.s_[:, :19], np.s_[:, 101:]):
        np.testing.assert_allclose(shown[unseen], np.repeat(grey[unseen][..., None], 3, -1), atol=1.5)


def test_the_heatmap_is_plain_grey_where_the_network_saw_nothing():
    saliency, framing = random_map(7, 7), Framing((120, 80), (20, 0, 100, 80))
    shown = pixels(render.heatmap(saliency, framing))
    np.testing.assert_array_equal(shown[:, 20:100], pixels(render.heatmap(saliency, whole(80, 80))))
    assert (shown[:, [19, 100]] == 255).all()
    assert (shown[:, :19] == 72).all()
    assert (shown[:, 101:] == 72).all()


@pytest.mark.parametrize("box", [(0, 0, 120, 80), (0.4, -0.3, 119.6, 80.5), (-20, -10, 140, 90)])
def test_nothing_is_marked_when_the_network_saw_the_whole_picture(box):
    picture, framing = Image.new("RGB", (120, 80), (10, 20, 30)), Framing((120, 80), box)
    assert (pixels(render.overlay(picture, [[1.0]], framing, opacity=0)) == (10, 20, 30)).all()


def test_the_contour_runs_where_the_map_crosses_the_fraction():
    framing, saliency = whole(200, 100), np.tile(np.linspace(0, 1, 11, dtype=np.float32), (5, 1))
    plain, lined = (pixels(render.heatmap(saliency, framing, contour=contour)) for contour in (None, 0.25))
    changed = (plain != lined).any(-1)
    rows, columns = np.nonzero(changed[10:90, 10:190])
    crossing = int(np.argmax(render.enlarge(saliency, framing)[50] >= 0.25))
    assert set(rows) == set(range(80))  # a line from top to bottom
    assert np.abs(columns + 10 - crossing).max() <= 3
    assert (lined[50, crossing - 1 : crossing + 2] > 200).all(-1).any()


def test_the_contour_is_a_fraction_of_the_full_scale_and_not_of_the_map():
    framing, saliency = whole(100, 100), random_map(7, 7)
    np.testing.assert_array_equal(
        pixels(render.heatmap(saliency, framing, full=4, contour=0.5)),
        pixels(render.heatmap(saliency, framing, full=4)),
    )


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "RGB"])
def test_the_callers_picture_and_map_stay_as_they_are(mode):
    picture, saliency = photograph(200, 100).convert(mode), random_map(7, 7) - 0.5
    before, grid = picture.copy(), saliency.copy()
    shown = render.overlay(picture, saliency, Framing((200, 100), (50, 0, 150, 100)), contour=0.3)
    assert (shown.size, shown.mode) == ((200, 100), "RGB")
    assert picture == before
    np.testing.assert_array_equal(saliency, grid)


@pytest.mark.parametrize("draw", [lambda m, f: render.enlarge(m, f), lambda m, f: render.heatmap(m, f)])
@pytest.mark.parametrize(
    ("saliency", "says"),
    [
        (np.full((7, 7), np.nan), "NaN or infinite"),
        (np.array([[0, np.inf]]), "NaN or infinite"),
        (np.zeros((1, 7, 7)), r"shape \(1, 7, 7\); expected \(h, w\)"),
        (np.zeros((0, 7)), r"shape \(0, 7\)"),
        (np.float32(1), r"shape \(\)"),
    ],
)
def test_bad_maps_are_refused(draw, saliency, says):
    with pytest.raises(ValueError, match=says) as raised:
        draw(saliency, whole(20, 20))
    assert isinstance(raised.value, InputError) == ("NaN" in says)  # which the page tells its visitor


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"opacity": 1.1}, "opacity is 1.1; expected a number from 0 to 1"),
        ({"opacity": math.nan}, "opacity is nan"),
        ({"colormap": "rainbow"}, "no colour map 'rainbow'; choose one of inferno, "),
        ({"contour": 0}, "contour is 0; expected a fraction"),
        ({"contour": 1.0}, "contour is 1.0"),
        ({"full": 0}, "full is 0; expected the positive map value"),
        ({"full": math.inf}, "full is inf"),
        ({"full": math.nan}, "full is nan"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        render.overlay(photograph(20, 20), [[1.0]], whole(20, 20), **arguments)


@pytest.mark.parametrize(
    "draw",
    [
        lambda p, f: render.overlay(p, [[1.0]], f),
        lambda p, f: render.crisp(p, f),
        lambda p, f: render.strip(p, [[[1.0]]], ["a"], f),
    ],
)
def test_a_picture_with_anothers_framing_is_refused(draw):
    with pytest.raises(ValueError, match="picture has 20x10 pixels and its framing 10x20"):
        draw(photograph(20, 10), whole(10, 20))


def test_crisp_repeats_pixels_and_moves_the_framing_along():
    picture = photograph(32, 24)
    enlarged, framing = render.crisp(picture, Framing((32, 24), (4, 0, 28.5, 24)), least=256)
    np.testing.assert_array_equal(pixels(enlarged), pixels(picture).repeat(8, 0).repeat(8, 1))
    assert framing == Framing((256, 192), (32, 0, 228, 192))


def test_the_map_above_a_crisp_picture_is_smooth():
    saliency = random_map(8, 8)
    _, framing = render.crisp(photograph(32, 32), whole(32, 32))
    np.testing.assert_allclose(render.enlarge(saliency, framing), interpolated(saliency, 256, 256), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 3), (300, 9)), ((256, 10), (256, 10)), ((7, 180), (14, 360)), ((1, 1), (256, 256))]
)
def test_crisp_makes_the_longer_side_large_enough_and_no_larger_than_needed(size, expected):
    picture, framing = render.crisp(photograph(*size), whole(*size))
    assert picture.size == framing.size == expected


def panels(figure: Image.Image, size: tuple[int, int], count: int, pitch: int) -> list[np.ndarray]:
    """The panels of a strip with one line of titles at the default side: margin 17, line 23."""
    top, shown = 17 + 23 + 17 // 3, pixels(figure)
    return [shown[top : top + size[1], 17 + n * pitch : 17 + n * pitch + size[0]] for n in range(count)]


def test_a_strip_is_the_picture_and_its_overlays_on_one_scale():
    picture, framing = photograph(640, 480), Framing((640, 480), (80, 0, 560, 480))
    maps = [random_map(7, 7), random_map(7, 7, seed=1) * 0.4, np.zeros((7, 7), np.float32)]
    figure = render.strip(picture, maps, ["one", "two", "three"], framing, contour=0.5)
    small, small_framing = picture.resize((320, 240), Image.Resampling.LANCZOS), Framing((320, 240), (40, 0, 280, 240))
    original, *shown = panels(figure, (320, 240), 4, pitch=337)
    np.testing.assert_array_equal(original, pixels(small))
    for panel, saliency in zip(shown, maps, strict=True):
        full = float(maps[0].max())
        expected = render.overlay(small, saliency, small_framing, full=full, contour=0.5)
        np.testing.assert_array_equal(panel, pixels(expected))


def test_a_strip_of_many_maps_goes_on_below():
    maps = [random_map(7, 7, seed) for seed in range(13)]
    picture, framing, full = photograph(320, 240), whole(320, 240), float(np.max(maps))
    figure = render.strip(picture, maps, [f"{i}\n{i} %" for i in range(13)], framing)
    down = 2 * 23 + 17 // 3 + 240 + 17
    assert figure.size == (17 + 6 * 337, 17 + 3 * down + 17 + 17)
    for i, saliency in enumerate(maps, 1):
        left, top = 17 + i % 6 * 337, 17 + i // 6 * down
        panel = figure.crop((left, top + 51, left + 320, top + 51 + 240))
        assert panel == render.overlay(picture, saliency, framing, full=full)
        title = render.strip(picture, [saliency], [f"{i - 1}\n{i - 1} %"], framing).crop((354, 17, 674, 63))
        assert figure.crop((left, top, left + 320, top + 46)) == title
    assert (pixels(figure)[17 + 2 * down : 17 + 3 * down, 17 + 2 * 337 :] == 255).all()  # two panels in the last row
    one_row = render.strip(picture, maps[:5], list("abcde"), framing)
    legend = (17, one_row.height - 34, one_row.width, one_row.height)
    assert figure.crop((17, figure.height - 34, figure.width, figure.height)) == one_row.crop(legend)


def test_a_strip_of_a_flat_picture_keeps_the_box_in_place_though_its_sides_are_rounded():
    picture, saliency = photograph(1000, 46), random_map(7, 7)  # 14.72 pixels become 15
    figure = render.strip(picture, [saliency], ["a"], Framing((1000, 46), (100, 6, 900, 39.5)))
    small, framing = (
        picture.resize((320, 15), Image.Resampling.LANCZOS, reducing_gap=1.3),
        Framing((320, 15), (32, 1.95652, 288, 12.8804)),
    )
    expected = pixels(render.overlay(small, saliency, framing))
    np.testing.assert_allclose(panels(figure, (320, 15), 2, pitch=337)[1], expected, atol=3)


def test_a_strip_of_a_small_picture_is_crisp():
    picture, saliency = photograph(32, 32), random_map(8, 8)
    original, shown = panels(render.strip(picture, [saliency], ["deer"], whole(32, 32)), (320, 320), 2, pitch=337)
    np.testing.assert_array_equal(original, pixels(picture).repeat(10, 0).repeat(10, 1))
    np.testing.assert_array_equal(shown, pixels(render.overlay(*render_at(picture, saliency, 320))))


def render_at(picture: Image.Image, saliency: np.ndarray, side: int) -> tuple[Image.Image, np.ndarray, Framing]:
    enlarged, framing = render.crisp(picture, whole(*picture.size), side)
    return enlarged, saliency, framing


def test_a_strip_without_any_evidence_says_so_in_each_panel():
    picture = photograph(320, 240)
    figure = render.strip(picture, [np.zeros((7, 7)), -np.ones((7, 7))], ["a", "b"], whole(320, 240))
    expected = pixels(render.overlay(picture, np.zeros((7, 7)), whole(320, 240)))
    for panel in panels(figure, (320, 240), 3, pitch=337)[1:]:
        np.testing.assert_array_equal(panel, expected)


@pytest.mark.parametrize("title", ["W" * 200, "a label of many words, " * 20, "ÄÖÜé" * 100, "lynx\n" + "9" * 300])
def test_long_titles_end_before_the_next_panel(title):
    figure = pixels(render.strip(photograph(100, 320), [[[1.0]]] * 2, [title, "b"], whole(100, 320)))
    head = figure[: 17 + 23 * len(title.splitlines()), :]
    second, gap = head[:, 17 + 177 : 17 + 177 + 160], head[:, 17 + 177 + 161 : 17 + 2 * 177]
    assert (second < 128).any()
    assert (gap == 255).all()


def test_the_lines_of_a_title_stand_above_their_panel_the_first_darkest():
    figure = pixels(render.strip(photograph(320, 240), [[[1.0]]], ["tabby\n83.1 %"], whole(320, 240)))
    name, probability = figure[17:40, 17 + 337 :], figure[40:63, 17 + 337 :]
    assert name.min() == 0x1A
    assert probability.min() == 0x6B


@pytest.mark.parametrize("title", ["", "\n", "猫", "naïve café"])
def test_any_title_can_be_drawn(title):
    assert render.strip(photograph(50, 50), [[[1.0]]], [title], whole(50, 50)).width > 640


def test_the_colour_bar_shows_the_whole_colour_map():
    figure = render.strip(photograph(320, 240), [[[1.0]]], ["a"], whole(320, 240), colormap="viridis")
    foot = {tuple(pixel) for row in pixels(figure)[17 + 23 + 5 + 240 :] for pixel in row}
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_VIRIDIS).reshape(256, 3)[:, ::-1]
    assert len(foot & {tuple(colour) for colour in table.astype(int)}) >= 100


@pytest.mark.parametrize("size", [(1, 1), (1, 10000), (10000, 1)])
def test_extreme_pictures_can_be_shown(size):
    picture, framing = photograph(*size), whole(*size)
    assert render.overlay(picture, random_map(7, 7), framing, contour=0.5).size == size
    assert max(render.strip(picture, [random_map(7, 7)], ["a"], framing).size) < 1000


@pytest.mark.parametrize(("maps", "titles"), [([], []), ([[[1.0]]], []), ([[[1.0]]], ["a", "b"])])
def test_a_strip_needs_a_title_for_each_map(maps, titles):
    with pytest.raises(ValueError, match=f"{len(maps)} maps and {len(titles)} titles given"):
        render.strip(photograph(20, 20), maps, titles, whole(20, 20))
