"""The tab "Why this and not that" in a real browser, and the network for small pictures."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Served
from PIL import Image

import gradcam
from gradcam import render
from gradcam.images import Framing
from gradcam.methods import METHODS
from gradcam.pipeline import Inspection
from gradcam.ui.rail import EXAMPLES

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Page, expect
from test_page import choose, forward_passes, upload

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:gradio\.queueing")
LION = EXAMPLES[1]


def compare(page: Page) -> None:
    page.get_by_role("tab", name="Why this and not that").click()


def panel(page: Page, index: int) -> np.ndarray:
    """A panel's pixels."""
    source = page.locator("#compare .panels img").nth(index).get_attribute("src")
    assert source is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))), int)


def test_two_classes_and_their_difference_from_one_pass(page: Page, served: Served) -> None:
    upload(page, LION)
    expect(page.locator(".answer")).to_have_count(5)
    best, second = page.locator(".answer .label").all_inner_texts()[:2]
    titles = page.locator("#compare figcaption b")
    with forward_passes(served) as passes:
        compare(page)
        expect(titles).to_have_text([best, second, f"{best} rather than {second}", f"Against {best}"])
        choose(page, "and not that", "tiger")
        choose(page, "Why this", "chow")
        expect(titles).to_have_text(["chow", "tiger", "chow rather than tiger", "Against chow"])
        page.get_by_role("button", name="All methods").click()
        expect(page.locator("#methods img")).to_have_count(len(METHODS))
    assert passes == []

    classifier = gradcam.load("efficientnet_lite0")
    result = gradcam.explain(LION, classifier, ["chow", "tiger", ("chow", "tiger")])
    against = gradcam.explain(LION, classifier, "chow", "counterfactual")
    shown = [panel(page, index) for index in range(4)]
    expected = [result.overlay(question) for question in ("chow", "tiger", ("chow", "tiger"))]
    expected.append(against.overlay("chow", full=float(result.map("chow").max())))
    errors = np.array([[np.abs(one - np.asarray(other, int)).mean() for other in expected] for one in shown])
    assert (np.diag(errors) < 1.5).all()
    assert (errors.argmin(axis=1) == range(4)).all()
    chances = [f"{result.inspection.prediction(name).probability:.1%}".replace("%", " %") for name in ("chow", "tiger")]
    strength = f"at most {against.map('chow').max() / result.map('chow').max():.0%}".replace("%", " %")
    details = page.locator("#compare figcaption span")
    expect(details).to_have_text([*chances, " to ".join(chances), f"{strength} as strong as for it"])


def test_a_class_is_not_compared_with_itself(visit: Callable[..., Page]) -> None:
    page = visit("?picture=lion")
    compare(page)
    expect(page.locator("#compare img")).to_have_count(4)
    choose(page, "and not that", "lion")
    expect(page.get_by_text("Choose two different classes.")).to_be_visible()
    expect(page.locator("#compare img")).to_have_count(0)


def test_cifar10_and_small_pictures(page: Page, tmp_path: Path) -> None:
    compare(page)
    expect(page.locator("#compare")).to_contain_text("Choose a picture first")
    small = Image.effect_mandelbrot((32, 32), (-2, -1.5, 1, 1.5), 40).convert("RGB")
    small.save(tmp_path / "small.png")
    upload(page, tmp_path / "small.png")
    expect(page.locator("#compare img")).to_have_count(4)
    choose(page, "Model", "cifar10")
    expect(page.locator("#what .small")).to_contain_text(
        "32 × 32 pixels and knows 10 classes. Whatever the picture shows"
    )
    classifier = gradcam.load("cifar10")
    inspection = Inspection(small, classifier)
    best, second = inspection.top(2)
    titles = page.locator("#compare figcaption b")
    expect(titles).to_have_text(
        [best.label, second.label, f"{best.label} rather than {second.label}", f"Against {best.label}"]
    )
    page.get_by_role("combobox", name="Why this").click()
    expect(page.get_by_role("option")).to_have_count(10)
    result = inspection.explain([best.index, second.index, (best.index, second.index)])
    large, framing = small.resize((256, 256), Image.Resampling.NEAREST), Framing((256, 256), (0, 0, 256, 256))
    expected = render.overlay(large, result.map(best.index), framing, full=result.full)
    assert np.abs(panel(page, 0) - np.asarray(expected, int)).mean() < 2
