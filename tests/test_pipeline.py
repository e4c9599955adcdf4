"""pipeline.py: a photograph explained end to end, and a network simple enough to know every value of its maps."""

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import gradio
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from gradcam import Classifier, Explainer, Explanation, Inspection, Result, explain, load, pipeline, render
from gradcam.errors import InputError, ModelError
from gradcam.explainer import ForwardPass
from gradcam.images import Framing, PictureError
from gradcam.logits import NO_RIVAL
from gradcam.methods import METHODS
from gradcam.targets import TargetError, find_target

CHEETAH = Path(gradio.__file__).parent / "media_assets" / "images" / "cheetah1.jpg"
RED, GREEN, BLUE = 0, 1, 2


@pytest.fixture(scope="module")
def photograph_classifier() -> Classifier:
    return load("efficientnet_lite0", device="cpu")


@pytest.fixture(scope="module")
def result(photograph_classifier: Classifier) -> Result:
    return explain(CHEETAH, photograph_classifier, "top5")


class Colours(nn.Module):
    """Scores red, green and blue by their mean over a 4x4 grid, so that a class's map is its colour over 16."""

    def __init__(self) -> None:
        super().__init__()
        self.grid = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(inplace=True), nn.AvgPool2d(8))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False))
        nn.init.eye_(self.grid[0].weight.data[:, :, 0, 0])
        nn.init.eye_(self.head[2].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.grid(x))


def squashed(picture: Image.Image) -> tuple[torch.Tensor, Framing]:
    pixels = np.array(picture.resize((32, 32), Image.Resampling.NEAREST))
    return torch.from_numpy(pixels).permute(2, 0, 1) / 255, Framing(picture.size, (0, 0, *picture.size))


@pytest.fixture
def colours() -> Classifier:
    return Classifier(Colours().eval(), labels=["red", "green", "blue"], preprocess=squashed, name="colours")


@pytest.fixture
def flag() -> np.ndarray:
    """64 pixels wide, 32 high: red on the left, blue on the right, and twice as much red."""
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :32, RED] = 204
    picture[:, 32:, BLUE] = 102
    return picture


RED_MAP = np.tile([0.8, 0.8, 0, 0], (4, 1)) / 16
BLUE_MAP = np.tile([0, 0, 0.4, 0.4], (4, 1)) / 16


def test_the_photograph_is_recognised(result: Result):
    inspection = result.inspection
    best = inspection.top()
    assert best[0].label == "cheetah"
    assert best[0].probability > 0.5
    assert [p.index for p in best] == np.argsort(-inspection.probabilities)[:5].tolist()
    assert [p.probability for p in best] == [inspection.probabilities[p.index] for p in best]
    assert inspection.probabilities.shape == (1000,)
    assert inspection.probabilities.sum() == pytest.approx(1)
    assert inspection.prediction("cheetah") == best[0] == inspection.prediction(best[0].index)
    assert len(inspection.top(3)) == 3


def test_the_maps_are_the_engines(result: Result, photograph_classifier: Classifier):
    inspection = result.inspection
    tensor, framing = photograph_classifier.preprocess(Image.open(CHEETAH).convert("RGB"))
    explanation = Explainer(photograph_classifier.model)(tensor[None], "top5")
    assert inspection.framing == framing
    assert inspection.target == explanation.target
    assert [asked for asked, _ in result.asked] == explanation.classes[0].tolist()
    np.testing.assert_array_equal(result.signed, explanation.signed[0])
    np.testing.assert_array_equal(result.map("cheetah"), explanation.maps[0, 0])


def test_pictures_come_at_the_photographs_own_size(photograph_classifier: Classifier):
    picture = Image.open(CHEETAH).convert("RGB").resize((300, 200))
    result = explain(picture, photograph_classifier, ["cheetah", ("cheetah", "lion")])
    for question in ("cheetah", 293, ("cheetah", "lion"), (293, 291)):
        assert result.overlay(question).size == result.heatmap(question).size == (300, 200)


def test_pictures_share_one_scale(result: Result):
    inspection = result.inspection
    assert result.full == result.signed.max() > result.map("lion").max() > 0
    picture, framing = inspection.picture, inspection.framing
    lion = result.map("lion")
    assert result.overlay("lion") == render.overlay(picture, lion, framing, full=result.full)
    assert result.heatmap("lion") == render.heatmap(lion, framing, full=result.full)
    style: dict[str, Any] = {"full": 2 * result.full, "colormap": "jet", "contour": 0.5}
    assert result.overlay("lion", opacity=0.3, **style) == render.overlay(picture, lion, framing, opacity=0.3, **style)
    assert result.heatmap("lion", **style) == render.heatmap(lion, framing, **style)
    titles = [f"{p.label}\n{p.probability:.1%}" for p in inspection.top()]
    assert titles[0].startswith("cheetah\n")
    strip = render.strip(picture, list(result.signed), titles, framing, side=200)
    assert result.strip(side=200) == strip


@pytest.mark.parametrize("corner", [(0, 0), (112, 0), (0, 112), (112, 112)])
def test_the_evidence_is_where_the_animal_is(photograph_classifier: Classifier, corner: tuple[int, int]):
    canvas = Image.new("RGB", (224, 224), "grey")
    canvas.paste(Image.open(CHEETAH).convert("RGB").resize((112, 112)), corner)
    result = explain(canvas, photograph_classifier, "cheetah")
    shown = np.nan_to_num(render.enlarge(result.map("cheetah"), result.inspection.framing))
    x, y = corner
    assert shown[y : y + 112, x : x + 112].sum() > 0.7 * shown.sum()  # a quarter of the area


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_evidence_is_on_the_animals_side_of_a_wide_picture(photograph_classifier: Classifier, side: str):
    canvas = Image.new("RGB", (448, 224), "grey")
    canvas.paste(Image.open(CHEETAH).convert("RGB").resize((224, 224)), (0 if side == "left" else 224, 0))
    result = explain(canvas, photograph_classifier)
    assert result.inspection.top(1)[0].label == "cheetah"
    shown = np.nan_to_num(render.enlarge(result.map("cheetah"), result.inspection.framing))
    left, right = shown[:, :224].sum(), shown[:, 224:].sum()
    assert (left if side == "left" else right) > 0.9 * (left + right)


def test_a_network_of_ones_own(colours: Classifier, flag: np.ndarray):
    result = explain(flag, colours, ["green", "blue", "red"])
    assert result.full == pytest.approx(0.8 / 16)
    assert result.inspection.target.layer == "grid"
    assert [p.label for p in result.inspection.top()] == ["red", "blue", "green"]
    np.testing.assert_allclose(result.map("red"), RED_MAP, atol=1e-6)
    np.testing.assert_allclose(result.map("blue"), BLUE_MAP, atol=1e-6)
    assert not result.map("green").any()
    red = np.asarray(result.overlay("red", opacity=1.0))
    assert red.shape == (32, 64, 3)
    assert (red[:, :24] == (252, 255, 164)).all()  # the brightest of the colour map, where the cells are full
    np.testing.assert_array_equal(red[:, 40:], flag[:, 40:])


def test_maps_that_are_all_negative_have_no_scale(colours: Classifier):
    picture = Image.new("RGB", (300, 300), "red")
    result = explain(picture, colours, [("blue", "red"), ("green", "red")])
    assert (result.signed < 0).all()
    assert result.full == 0
    untouched = render.overlay(picture, np.zeros((4, 4)), result.inspection.framing)  # with the caption
    assert result.overlay(("blue", "red")) == untouched != picture
    empty = render.heatmap(np.zeros((4, 4)), result.inspection.framing)
    assert result.heatmap(("blue", "red")) == empty
    assert result.strip() == replace(result, signed=np.zeros_like(result.signed)).strip()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_that_is_not_finite_cannot_be_shown_but_the_others_can(
    colours: Classifier, flag: np.ndarray, value: float
):
    result = explain(flag, colours, ["red", "blue"])
    expected = result.overlay("red")
    result.signed[1, 2, 3] = value
    assert result.overlay("red") == expected
    for show in (result.overlay, result.heatmap):
        with pytest.raises(InputError, match="The map holds NaN or infinite values"):
            show("blue")
    with pytest.raises(InputError, match="The map holds NaN or infinite values"):
        result.strip()


def test_why_this_class_rather_than_that(colours: Classifier, flag: np.ndarray):
    result = explain(flag, colours, [("red", "blue"), ("blue", "red"), "blue"])
    assert result.asked == ((RED, BLUE), (BLUE, RED), (BLUE, NO_RIVAL))
    np.testing.assert_allclose(result.signed, [RED_MAP - BLUE_MAP, BLUE_MAP - RED_MAP, BLUE_MAP], atol=1e-6)
    np.testing.assert_allclose(result.map((BLUE, "red")), BLUE_MAP, atol=1e-6)
    assert [result.title(asked) for asked in result.asked] == ["red, not blue", "blue, not red", "blue"]


@pytest.mark.parametrize(
    ("classes", "asked"),
    [
        (None, [RED]),
        ("top2", [RED, BLUE]),
        ("top5", [RED, BLUE, GREEN]),
        ("green", [GREEN]),
        (BLUE, [BLUE]),
        (["Blue", RED, "2", "red"], [BLUE, RED]),
        (torch.tensor(BLUE), [BLUE]),
        (torch.tensor([BLUE, RED]), [BLUE, RED]),
        (np.uint8(BLUE), [BLUE]),
        (np.array("blue"), [BLUE]),
        (np.array(["blue", "red"]), [BLUE, RED]),
        (range(2), [RED, GREEN]),
        ({"blue": 0}.keys(), [BLUE]),
        (" Blue ", [BLUE]),
        ("top999999999", [RED, BLUE, GREEN]),
    ],
    ids=str,
)
def test_questions(colours: Classifier, flag: np.ndarray, classes: Any, asked: list[int]):
    assert explain(flag, colours, classes).asked == tuple((class_, NO_RIVAL) for class_ in asked)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classes": "rad"}, ModelError, "colours has no class 'rad'.*red"),
        ({"classes": ["red", 3]}, ModelError, "colours has no class 3"),
        ({"classes": ("red", "pink")}, ModelError, "colours has no class 'pink'"),
        ({"classes": b"red"}, ModelError, r"b'red'. is no class"),
        ({"classes": {RED: BLUE}}, ModelError, "is no class"),
        ({"classes": True}, ModelError, "'True' is no class"),
        ({"classes": torch.tensor(True)}, ModelError, "'True' is no class"),
        ({"classes": torch.tensor(1.5)}, ModelError, "'1.5' is no class"),
        ({"classes": torch.tensor([[RED, BLUE]])}, ModelError, r"'tensor\(\[0, 2\]\)' is no class"),
        ({"classes": np.array([[RED, BLUE]])}, ModelError, r"'\[0 2\]' is no class"),
        ({"classes": np.array(None)}, ModelError, "'None' is no class"),
        ({"classes": (np.array([RED]), BLUE)}, ModelError, r"'\[0\]' is no class"),
        ({"classes": int}, ModelError, "<class 'int'>\" is no class"),
        ({"classes": [["red", "blue"]]}, ModelError, "is no class"),
        ({"classes": (("red", "blue"), "green")}, ModelError, "is no class"),
        ({"classes": ("red", "blue", "green")}, ValueError, "give several classes as a list"),
        pytest.param({"classes": "top" + "9" * 5000}, ModelError, "colours has no class 'top999", id="5000 digits"),
        ({"classes": "TOP5"}, ModelError, "colours has no class 'TOP5'"),
        ({"classes": "top-1"}, ModelError, "colours has no class 'top-1'"),
        ({"classes": "top0"}, ValueError, "top0"),
        ({"classes": []}, ValueError, "no classes were asked for"),
        ({"method": "grad-cam"}, ValueError, r"no method 'grad-cam'; choose one of gradcam, "),
        ({"layer": "gird"}, TargetError, "no layer 'gird'.*grid"),
        ({"picture": b"no picture"}, PictureError, "not a picture of a known format"),
    ],
    ids=str,
)
def test_errors(colours: Classifier, flag: np.ndarray, arguments: dict[str, Any], error: type, message: str):
    with pytest.raises(error, match=message):
        explain(**({"picture": flag, "classifier": colours} | arguments))


def test_a_class_that_was_not_asked_for_is_an_error(colours: Classifier, flag: np.ndarray):
    result = explain(flag, colours, ["red", ("blue", "green")])
    for show in (result.map, result.overlay, result.heatmap):
        with pytest.raises(ValueError, match=r"blue was not asked for; this result explains red, blue, not green\."):
            show("blue")
        with pytest.raises(ModelError, match="no class 'pink'"):
            show("pink")


def test_method_and_layer_reach_the_engine(colours: Classifier, flag: np.ndarray):
    tensor = colours.preprocess(Image.fromarray(flag))[0][None]
    for method in ("counterfactual", "layercam", "eigencam"):
        result = explain(flag, colours, "red", method, layer="grid.1")
        expected = Explainer(colours.model, "grid.1", method)(tensor, RED)
        assert result.method == method
        assert result.inspection.target == expected.target
        np.testing.assert_array_equal(result.signed, expected.signed[0])


def test_every_form_of_a_picture(colours: Classifier, flag: np.ndarray, tmp_path: Path):
    path = tmp_path / "flag.png"
    Image.fromarray(flag).save(path)
    for picture in (path, str(path), path.read_bytes(), Image.fromarray(flag), flag):
        np.testing.assert_allclose(explain(picture, colours, "red").map("red"), RED_MAP, atol=1e-6)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The arguments of every search for a target."""
    seen: list[Any] = []

    def counting(*args: Any) -> Any:
        seen.append(args)
        return find_target(*args)

    monkeypatch.setattr("gradcam.explainer.find_target", counting)
    return seen


def test_one_pass_a_picture_and_one_search_a_classifier(colours: Classifier, flag: np.ndarray, searches: list[Any]):
    explain(flag, colours)
    runs: list[int] = []
    colours.model.register_forward_hook(lambda *_: runs.append(1))
    inspection = Inspection(flag, colours)
    for method in ("gradcam", "layercam"):
        for question in ("red", "blue", ("red", "green")):
            inspection.explain(question, method)
    assert len(runs) == len(searches) == 1
    explain(flag, colours, layer="grid.1")
    explain(flag, colours, layer="grid.1")
    assert [args[-1] for args in searches] == [None, "grid.1"]


def test_visitors_who_come_together_search_once(colours: Classifier, flag: np.ndarray, searches: list[Any]) -> None:
    together = Barrier(8)

    def visit(_: int) -> Result:
        together.wait(60)
        return explain(flag, colours, "red", layer="grid.1")

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(visit, range(8)))
    assert [args[-1] for args in searches] == ["grid.1"]
    assert all((result.map("red") == results[0].map("red")).all() for result in results)


def test_what_was_asked_before_costs_no_gradient(
    colours: Classifier, flag: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    computed: list[list[int]] = []
    explain_ = ForwardPass.explain

    def counting(forward: ForwardPass, classes: torch.Tensor, *rest: Any) -> Explanation:
        computed.append(classes[0].tolist())
        return explain_(forward, classes, *rest)

    monkeypatch.setattr(ForwardPass, "explain", counting)
    monkeypatch.setattr(pipeline, "MOST_KEPT", 4)
    inspection = Inspection(flag, colours)
    inspection.explain(["red", "blue"])
    result = inspection.explain(["blue", ("red", "blue"), "green", "red"])
    assert computed == [[RED, BLUE], [RED, GREEN]]
    for question, expected in (("red", RED_MAP), ("blue", BLUE_MAP), ("green", 0), (("red", "blue"), RED_MAP)):
        np.testing.assert_allclose(result.map(question), np.broadcast_to(expected, (4, 4)), atol=1e-7)
    result.signed[:] = 0
    np.testing.assert_allclose(inspection.explain("red").map("red"), RED_MAP, atol=1e-7)
    inspection.explain("red", "hirescam")
    inspection.explain(["green", "red"])  # more than MOST_KEPT were there: all are forgotten
    assert computed[2:] == [[RED], [GREEN, RED]]


def test_a_classifier_is_not_kept_alive(flag: np.ndarray):
    classifier = Classifier(Colours().eval(), preprocess=squashed)
    explain(flag, classifier)
    gone = weakref.ref(classifier.model)
    del classifier
    gc.collect()
    assert gone() is None


def test_of_one_picture_64_maps_are_kept(colours: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    inspection, passes = Inspection(Image.new("RGB", (32, 32), "red"), colours), []
    run = ForwardPass.explain
    monkeypatch.setattr(ForwardPass, "explain", lambda *args: passes.append(args) or run(*args))
    questions = [*range(3), *((class_, rival) for class_ in range(3) for rival in range(3) if rival != class_)]
    *seven, last = METHODS
    for method in seven:
        inspection.explain(questions, method)
    inspection.explain(RED, last)
    assert len(passes) == 7 + 1  # 63 maps, and one more
    inspection.explain(RED, seven[0])
    assert len(passes) == 8
    inspection.explain(BLUE, last)
    first = inspection.explain(RED, seven[0])
    assert len(passes) == 10
    assert inspection.explain(RED, seven[0]).signed.tolist() == first.signed.tolist()
    assert len(passes) == 10
