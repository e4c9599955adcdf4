"""The tabs that compare, in a real browser: two classes, two models, and the links to them."""

import base64
import io
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import timm
import torch
from conftest import Served
from PIL import Image, ImageOps

import gradcam
from gradcam import Classifier, render
from gradcam.images import Framing
from gradcam.methods import METHODS
from gradcam.pipeline import Inspection, Result
from gradcam.ui.markup import percent
from gradcam.ui.models import Models
from gradcam.ui.page import _model
from gradcam.ui.rail import EXAMPLES

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Page, expect
from test_page import choose, forward_passes, upload

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:gradio\.queueing")
CHEETAH, LION = EXAMPLES[:2]


def compare(page: Page) -> None:
    page.get_by_role("tab", name="Why this and not that").click()


def panel(page: Page, index: int, tab: str = "#compare") -> np.ndarray:
    """A panel's pixels."""
    source = page.locator(f"{tab} .panels img").nth(index).get_attribute("src")
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


def test_what_says_little_or_nothing_says_so(visit: Callable[..., Page]) -> None:
    for picture, class_, share in (
        ("cheetah", "cheetah", "nothing speaks against it"),
        ("tower", "digital clock", "next to nothing speaks against it"),
    ):
        against = visit(f"?picture={picture}&class={class_}&rival=lion&tab=compare")
        expect(against.locator("#compare figcaption span").last).to_have_text(share)
    page = visit("?picture=cheetah&class=lion&rival=cheetah&tab=compare")
    result = gradcam.explain(CHEETAH, gradcam.load("efficientnet_lite0"), ["lion", "cheetah", ("lion", "cheetah")])
    strength = f"{100 * result.map(('lion', 'cheetah')).max() / result.full:.1f} %"
    sentence = f"Little speaks for “lion” rather than “cheetah”: at most {strength} of the full scale."
    expect(page.locator(".hint:visible")).to_have_text(sentence)


def test_a_class_is_not_compared_with_itself(visit: Callable[..., Page]) -> None:
    page = visit("?picture=lion")
    compare(page)
    expect(page.locator("#compare .panels img")).to_have_count(4)
    choose(page, "and not that", "lion")
    expect(page.get_by_text("Choose two different classes.")).to_be_visible()
    expect(page.locator("#compare .panels img")).to_have_count(0)


def test_cifar10_and_small_pictures(page: Page, tmp_path: Path) -> None:
    compare(page)
    expect(page.locator("#compare")).to_contain_text("Choose a picture first")
    small = Image.effect_mandelbrot((32, 32), (-2, -1.5, 1, 1.5), 40).convert("RGB")
    small.save(tmp_path / "small.png")
    upload(page, tmp_path / "small.png")
    expect(page.locator("#compare .panels img")).to_have_count(4)
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


def compare_models(page: Page) -> None:
    page.get_by_role("tab", name="Two models").click()


def check_column(page: Page, index: int, result: Result, asked: list[tuple[str, str]]) -> None:
    """That a model's column shows what was found for the classes asked for, each with a remark."""
    section, inspection = page.locator("#two-models section").nth(index), result.inspection
    height, width = inspection.target.grid
    expect(section.locator(".small")).to_have_text(f"Grad-CAM at {inspection.target.layer}, {width} × {height}")
    expect(section.locator("li")).to_have_text([f"{one.label}{percent(one.probability)}" for one in inspection.top()])
    expect(section.locator("b")).to_have_text([label for label, _ in asked])
    details = [f"{remark}, {percent(inspection.prediction(label).probability)}" for label, remark in asked]
    expect(section.locator("figcaption span")).to_have_text(details)
    for place, (label, _) in enumerate(asked):
        shown = panel(page, index * len(asked) + place, "#two-models")
        assert np.abs(shown - np.asarray(result.overlay(label), int)).mean() < 1.5


def test_two_models_see_the_same_picture_once(page: Page, served: Served, tmp_path: Path) -> None:
    picture = tmp_path / "mirrored.png"  # no other test shows it to a network
    ImageOps.mirror(Image.open(LION)).save(picture)
    upload(page, picture)
    expect(page.locator(".answer")).to_have_count(5)
    names = page.locator("#two-models h3")
    with forward_passes(served) as passes, forward_passes(served, "cifar10") as others:
        compare_models(page)
        expect(names).to_have_text(["efficientnet_lite0", "cifar10"])
        for index, name in enumerate(("efficientnet_lite0", "cifar10")):
            result = gradcam.explain(picture, gradcam.load(name))
            check_column(page, index, result, [(result.inspection.top(1)[0].label, "its best class")])
        expect(page.get_by_text("compare places, not strengths. “lion” is no class of cifar10.")).to_be_visible()
        choose(page, "Model", "cifar10")
        expect(names).to_have_text(["cifar10", "efficientnet_lite0"])
        assert (passes, others) == ([], [1])


def test_a_class_that_two_models_know_is_asked_of_both(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    untrained = Classifier(timm.create_model("resnet10t", num_classes=1000).eval(), name="resnet10t")
    loads = gradcam.load
    monkeypatch.setattr(
        "gradcam.ui.models.load", lambda name, **how: untrained if name == "resnet10t" else loads(name, **how)
    )
    upload(page, LION)
    compare_models(page)
    expect(page.locator("#two-models h3")).to_have_text(["efficientnet_lite0", "cifar10"])
    second = page.get_by_role("combobox", name="Compared with")
    second.fill("resnet1")
    second.press("Enter")
    expect(page.locator("#main").get_by_role("alert")).to_contain_text("There is no model 'resnet1'; did you mean ")
    second.fill("resnet10t")
    second.press("Enter")
    expect(page.locator("#two-models h3")).to_have_text(["efficientnet_lite0", "resnet10t"])
    expect(page.locator("#main").get_by_role("alert")).to_have_count(0)
    for index, classifier in enumerate((gradcam.load("efficientnet_lite0"), untrained)):
        best = Inspection(LION, classifier).top(1)[0].label
        result = gradcam.explain(LION, classifier, [best, "lion"])
        check_column(page, index, result, [(best, "its best class"), ("lion", "asked of both")])
    expect(page.locator("#two-models")).not_to_contain_text("is no class of")


def copied(page: Page) -> str:
    """The link that the open tab gives."""
    page.context.grant_permissions(["clipboard-read"])
    page.get_by_role("button", name="Copy link").locator("visible=true").click()
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_a_link_brings_back_two_classes(visit: Callable[..., Page], served: Served) -> None:
    page = visit("?picture=lion")
    compare(page)
    expect(page.locator("#compare .panels img")).to_have_count(4)
    choose(page, "Why this", "chow")
    choose(page, "and not that", "tiger")
    titles = ["chow", "tiger", "chow rather than tiger", "Against chow"]
    expect(page.locator("#compare figcaption b")).to_have_text(titles)
    state = "?picture=lion&model=efficientnet_lite0&class=chow&method=gradcam&tab=compare&rival=tiger"
    page.wait_for_url(f"{served.url}{state}")
    link = copied(page)
    assert link == page.url
    page.get_by_role("tab", name="Explain").click()
    page.wait_for_url(f"{served.url}?picture=lion&model=efficientnet_lite0&class=lion&method=gradcam")

    page = visit(state)
    expect(page.get_by_role("tab", name="Why this and not that")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#compare figcaption b")).to_have_text(titles)
    assert copied(page) == link
    page.get_by_role("tab", name="Explain").click()
    page.locator(".answer").nth(0).click()
    compare(page)
    expect(page.locator("#compare figcaption b").nth(2)).to_have_text("lion rather than tiger")


def test_a_link_brings_back_two_models(visit: Callable[..., Page], served: Served) -> None:
    page = visit("?picture=lion&model=cifar10&tab=models")
    expect(page.locator("#two-models h3")).to_have_text(["cifar10", "efficientnet_lite0"])
    link = copied(page)
    assert "model=cifar10&class=" in link
    assert link.endswith("&method=gradcam&tab=models&second=efficientnet_lite0")
    page = visit(link.removeprefix(served.url))
    expect(page.get_by_role("tab", name="Two models")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#two-models h3")).to_have_text(["cifar10", "efficientnet_lite0"])


def test_what_a_link_gets_wrong_is_told_or_left_aside(visit: Callable[..., Page]) -> None:
    page = visit("?picture=lion&class=lionn&method=x&tab=x&rival=tigr&second=resnet1")
    expect(page.locator("#rail").get_by_role("alert")).to_contain_text("no class 'lionn'; did you mean lion")
    expect(page.locator(".comparison .evidence")).to_have_attribute("alt", "Where the evidence for lion is")
    compare(page)
    alert = page.locator("#main").get_by_role("alert")
    expect(alert).to_contain_text("efficientnet_lite0 has no class 'tigr'; did you mean tiger")
    expect(page.locator("#compare .panels img")).to_have_count(4)
    before = str(page.locator("#compare .panels img").first.get_attribute("src"))
    page.get_by_role("tab", name="Explain").click()
    page.get_by_label("Map only").check()
    compare(page)
    expect(page.locator("#compare .panels img").first).not_to_have_attribute("src", before)
    expect(alert).to_contain_text("no class 'tigr'")  # until something else is asked
    choose(page, "and not that", "tiger cat")
    expect(page.locator("#compare figcaption b").nth(1)).to_have_text("tiger cat")
    expect(alert).to_have_count(0)
    compare_models(page)
    expect(alert).to_contain_text("There is no model 'resnet1'; did you mean ")


@pytest.mark.parametrize(
    ("name", "public", "found"),
    [("cifar10", True, True), ("resnet18", True, False), ("resnet18", False, True), (None, False, False)]
    + [(name, False, False) for name in ("hf-hub:somebody/model", "local-dir:/home", "")],
)
def test_a_link_names_no_model_that_would_be_a_strangers(name: str | None, public: bool, found: bool) -> None:
    assert _model(Models(public=public), name) == (name if found else gr.skip())
