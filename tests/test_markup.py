"""The fragments of the page: numbers as they are told, what is pressed, and how long a bar is."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from gradcam import Classifier
from gradcam.pipeline import Prediction
from gradcam.ui import markup
from gradcam.ui.markup import Answer, Column

GREY = Image.new("RGB", (30, 20), (90, 120, 150))
HOSTILE, HARMLESS = "<b>'\"&", "&lt;b&gt;&#x27;&quot;&amp;"


@pytest.mark.parametrize(
    ("probability", "told"),
    [
        (1.0, "100.0 %"),
        (0.99999, "> 99.9 %"),
        (0.9995, "> 99.9 %"),
        (0.9994, "99.9 %"),
        (0.8974, "89.7 %"),
        (0.0126, "1.3 %"),
        (0.00096, "0.1 %"),
        (0.00094, "0.09 %"),
        (0.00011, "0.01 %"),
        (0.0001, "0.01 %"),
        (0.00009, "< 0.01 %"),
        (0.0, "< 0.01 %"),
    ],
)
def test_a_probability_has_the_digits_that_tell_something(probability: float, told: str) -> None:
    assert markup.percent(probability) == told


def pictures(html: str) -> list[np.ndarray]:
    """Those that lie within a fragment."""
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))), int) for one in found]


def test_the_chosen_answer_is_pressed_and_the_bars_are_as_long_as_the_chances() -> None:
    html = markup.answers([Answer(3, HOSTILE, 0.8974, GREY), Answer(7, "lion", 0.01, GREY)], 7)
    assert re.findall(r'data-value="(\d+)" aria-pressed="(\w+)" title="([^"]*)"', html) == [
        ("3", "false", HARMLESS),
        ("7", "true", "lion"),
    ]
    assert re.findall(r'<span class="label">(.*?)</span><span class="probability">(.*?)</span>', html) == [
        (HARMLESS, "89.7 %"),
        ("lion", "1.0 %"),
    ]
    assert re.findall(r"width: ([\d.]+)%", html) == ["89.74", "1.00"]
    for shown in pictures(html):
        assert np.abs(shown - np.asarray(GREY)).max() <= 2
    assert len(pictures(html)) == 2


def test_the_columns_of_two_models() -> None:
    best = [Prediction(1, HOSTILE, 0.75), Prediction(2, "lion", 0.25)]
    html = markup.columns([Column("one", "where", [(GREY, "lion", HOSTILE)], best), Column("two", "there", [], best)])
    assert re.findall(r'<h3 title="(.*?)">(.*?)</h3><p class="small">(.*?)</p>', html) == [
        ("one", "one", "where"),
        ("two", "two", "there"),
    ]
    assert re.findall(r"<b title=\"(.*?)\">(.*?)</b><span>(.*?)</span>", html) == [("lion", "lion", HARMLESS)]
    assert re.findall(r"width: ([\d.]+)%", html) == ["75.00", "25.00"] * 2


def test_the_picture_lies_below_its_evidence_in_its_own_proportions() -> None:
    html = markup.comparison("the-picture.jpg", GREY, HOSTILE)
    assert "--ratio: 1.5000" in html
    assert re.findall(r'<img (?:class="(\w+)" )?src="([^"]{15})[^"]*" alt="([^"]*)"', html) == [
        ("", "the-picture.jpg", "The picture"),
        ("evidence", "data:image/jpeg", HARMLESS),
    ]


@pytest.mark.parametrize("cropped", [True, False])
def test_the_legend_tells_of_grey_where_there_is_some(cropped: bool) -> None:
    bar = Image.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, 2))
    html = markup.legend(bar, "strongest shown", cropped)
    assert ("Grey: not seen by the network" in html) == cropped
    assert re.findall("<span>(.*?)</span>", html) == ["none", "strongest shown"]
    (shown,) = pictures(html)
    assert shown.shape == (16, 256, 3)
    assert np.abs(shown[8, ::16, 0] - np.arange(256)[::16]).max() <= 4


def test_the_names_of_classes_are_told_where_they_are_few() -> None:
    classifier = Classifier.__new__(Classifier)
    classifier.input_size = (3, 240, 320)
    for last, told in (("y" * 78, True), ("y" * 79, False)):
        classifier.labels = ("x" * 80, last)
        html = markup.about(classifier)
        assert "resized to 320 × 240 pixels and knows 2 classes." in html
        assert (f"one of these: {'x' * 80}, {last}." in html) == told


def test_a_sentence_a_link_and_what_is_copied() -> None:
    assert markup.notice() == markup.notice("", "hint") == ""
    assert markup.notice(HOSTILE, "hint") == f'<p class="notice hint" role="alert">{HARMLESS}</p>'
    assert markup.notice("No.") == '<p class="notice problem" role="alert">No.</p>'
    html = markup.link("?class=a&b", "?a&b")
    assert re.findall(r'data-(query|copy|title)="(.*?)"', html) == [
        ("query", "?a&amp;b"),
        ("copy", "?class=a&amp;b"),
        ("title", "Copy link"),
    ]
    assert html.endswith(">Copy link</button></div>")
    assert markup.code(HOSTILE).startswith(f'<pre class="code"><code>{HARMLESS}</code></pre><button')
    assert f'data-copy="{HARMLESS}" data-title="Copy">Copy<' in markup.code(HOSTILE)
    assert markup.facts([("layer", HOSTILE)]) == f'<dl class="facts"><div><dt>layer</dt><dd>{HARMLESS}</dd></div></dl>'


def test_examples_of_one_kind_stand_together() -> None:
    several = [(0, HOSTILE, "", GREY), (1, "cat", "Right", GREY), (2, "dog", "Right", GREY), (3, "cat", "Wrong", GREY)]
    html = markup.examples(several)
    assert re.findall(r'data-value="(\d)" title="(.*?)" aria-label="Example: (.*?)"', html) == [
        ("0", HARMLESS, HARMLESS),
        ("1", "cat", "cat"),
        ("2", "dog", "dog"),
        ("3", "cat", "cat"),
    ]
    assert re.findall(r'<p class="small">(\w+)</p>|<span>(\w+)</span>', html) == [
        ("Right", ""),
        ("", "cat"),
        ("", "dog"),
        ("Wrong", ""),
        ("", "cat"),
    ]
