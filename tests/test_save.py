"""What a visitor takes along: the files, the record, the link and the Python, against the package itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import gradio as gr
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import gradcam
from gradcam import Classifier, Inspection
from gradcam.ui import page, save
from gradcam.ui.look import Look
from gradcam.ui.models import Models
from gradcam.ui.rail import EXAMPLES, Subject

LABELS = [*"abcdefgh", 'd\'or & "crâne"/1', "j"]
ODD = LABELS[8]
EVERYTHING = {"opacity": 0.4, "colormap": "viridis", "contour": 0.25}
LOOKS: dict[str, tuple[Look, dict[str, Any]]] = {
    "as it is": (Look(), {}),
    "all that it has": (Look(**EVERYTHING), EVERYTHING),
    "the map alone": (Look(0.4, "viridis", 0.25, map_only=True), {"colormap": "viridis", "contour": 0.25}),
    "its own scale": (Look(own_scale=True), {"full": None}),
    "both": (Look(contour=0.5, map_only=True, own_scale=True), {"contour": 0.5, "full": None}),
}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Small, and untrained; what it says depends on the picture all the same."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    network[-1].weight.data *= 30
    return Classifier(network.eval(), LABELS, name="mine", input_size=(3, 32, 32))


@pytest.fixture(scope="module")
def models(classifier: Classifier) -> Models:
    return Models(classifier, own_code="classifier")


@pytest.fixture(scope="module")
def blocks(models: Models) -> gr.Blocks:
    return page.build(models)


@pytest.fixture
def picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A visitor's, where uploads are kept; it is wider than it is high, so that the network sees its middle."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    path = tmp_path / "my lion (1).png"
    Image.open(EXAMPLES[1]).resize((144, 96)).save(path)
    return path


@pytest.fixture
def subject(request: pytest.FixtureRequest, picture: Path, classifier: Classifier) -> Subject:
    """The best class; one that is not among the best five, asked in another way; or that of the odd name."""
    ranked = Inspection(picture, classifier).top(10)
    if request.param == "best":
        return Subject(picture, "mine", None, "gradcam", ranked[0].index)
    return Subject(picture, "mine", "3", "layercam", ranked[-1].index if request.param == "last" else 8)


def found(subject: Subject, classifier: Classifier) -> gradcam.Result:
    """What the package itself says of a subject, on the scale of what the page shows beside it."""
    top = [one.index for one in Inspection(subject.picture, classifier).top(5)]
    return gradcam.explain(subject.picture, classifier, [*top, subject.class_], subject.method, subject.layer)


def press(blocks: gr.Blocks, name: str, *values: Any) -> Path:
    """The file that a button gives for a subject and a look, which the page hands on in the order of Look."""
    (event,) = [event for event in blocks.fns.values() if event.name == name]
    assert event.fn is not None
    assert [widget.label for widget in event.inputs[1:]] == ["Opacity", "Colours", "Contour", "Map only", "Own scale"]
    (path,) = event.fn(*values).values()
    return Path(path)


@pytest.mark.parametrize("subject", ["best", "last"], indirect=True)
@pytest.mark.parametrize(("look", "style"), LOOKS.values(), ids=LOOKS)
def test_the_overlay_and_the_python_that_gives_it(
    blocks: gr.Blocks,
    models: Models,
    classifier: Classifier,
    subject: Subject,
    look: Look,
    style: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = found(subject, classifier)
    draw: Callable[..., Image.Image] = result.heatmap if look.map_only else result.overlay
    expected = np.asarray(draw(subject.class_, **style))
    with Image.open(press(blocks, "save_overlay", subject, *look)) as written:
        assert written.format == "PNG"
        assert np.array_equal(np.asarray(written), expected)

    lines = save._python(models, subject.seen(models), subject, look)
    assert lines.count("\n") == 2
    monkeypatch.chdir(subject.picture.parent)
    exec(lines, {"classifier": classifier})
    with Image.open("evidence.png") as written:
        assert np.array_equal(np.asarray(written), expected)


def test_the_python_says_no_more_than_it_must(models: Models, picture: Path) -> None:
    (best, *_) = Inspection(picture, models.get("mine").classifier).top(1)
    subject = Subject(picture, "mine", None, "gradcam", best.index)
    assert save._python(models, subject.seen(models), subject, Look()) == (
        "from gradcam import Classifier, explain, load\n"
        "result = explain('my lion (1).png', classifier, classes='top5')\n"
        f'result.overlay({best.label!r}).save("evidence.png")'
    )


@pytest.mark.parametrize("subject", ["best", "last"], indirect=True)
def test_the_map_and_the_record(blocks: gr.Blocks, classifier: Classifier, subject: Subject) -> None:
    result = found(subject, classifier)
    saliency = np.load(press(blocks, "save_map", subject, *Look(own_scale=True)))
    assert saliency.dtype == np.float32
    np.testing.assert_array_equal(saliency, result.map(subject.class_))

    record = json.loads(press(blocks, "save_record", subject, *Look()).read_text("utf-8"))
    chances = result.inspection.probabilities.tolist()
    told = [{"index": i, "label": LABELS[i], "probability": chances[i]} for i in range(10)]
    assert record == {
        "picture": {"name": "my lion (1).png", "size": [144, 96], "seen": list(result.inspection.framing.box)},
        "model": "mine",
        "class": told[subject.class_],
        "top5": sorted(told, key=lambda one: -chances[one["index"]])[:5],
        "method": subject.method,
        "layer": subject.layer or result.inspection.target.layer,
        "layout": "NCHW",
        "map": result.map(subject.class_).tolist(),
        "full_scale": result.full,
        "versions": {"gradcam": gradcam.__version__, "torch": torch.__version__, "timm": timm.__version__},
    }


@pytest.mark.parametrize("subject", ["odd"], indirect=True)
def test_names_of_files_and_what_the_record_says_of_odd_ones(
    blocks: gr.Blocks, subject: Subject, tmp_path: Path
) -> None:
    written = [press(blocks, f"save_{what}", subject, *Look()) for what in ("overlay", "map", "record")]
    begin = "my-lion-1-d-or-crâne-1"
    assert [path.name for path in written] == [f"{begin}-{end}" for end in ("overlay.png", "map.npy", "record.json")]
    assert all(path.resolve().is_relative_to(tmp_path) for path in written)
    assert "crâne" in written[-1].read_text("utf-8")


class Found:
    """Stands in for the examples: whichever picture is asked about, it is this one, or none."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def find(self, _: Path) -> Any:
        return self if self.path else None


@pytest.mark.parametrize("subject", ["best", "odd"], indirect=True)
@pytest.mark.parametrize("example", [None, "groot is here.jpeg"])
@pytest.mark.parametrize("more", [{}, {"tab": "compare", "rival": ODD}])
def test_a_link_says_all_that_was_chosen(
    models: Models, subject: Subject, example: str | None, more: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture only if it is an example; the address bar keeps no class of a visitor's own."""
    links: list[tuple[str, str]] = []
    monkeypatch.setattr("gradcam.ui.markup.link", lambda *link: links.append(link) or "the link")
    rail: Any = type("Rail", (), {"examples": Found(Path("somewhere", example) if example else None)})
    assert save.link(rail, subject.seen(models), subject, **more) == "the link"
    ((query, kept),) = links
    assert query.startswith("?")
    expected = {"picture": "groot is here"} if example else {}
    expected |= {"model": "mine", "class": LABELS[subject.class_], "method": subject.method}
    expected |= {"layer": "3"} if subject.layer else {}
    expected |= more
    assert parse_qsl(query[1:], strict_parsing=True) == list(expected.items())
    if not example:
        expected = {name: value for name, value in expected.items() if name not in ("class", "rival")}
    assert kept == f"?{urlencode(expected)}"
