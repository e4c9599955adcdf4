"""The page in a real browser."""

import base64
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import cv2
import numpy as np
import pytest
from conftest import Served
from PIL import Image, ImageOps

import gradcam
from gradcam.ui.models import Seen
from gradcam.ui.rail import EXAMPLES

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Locator, Page, expect

# Gradio's statistics of its own queue use what pandas has since deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:gradio\.queueing")
CHEETAH, LION = EXAMPLES[:2]
Visit = Callable[..., Page]


def upload(page: Page, *path: Path) -> None:
    page.locator("#picture input[type=file]").set_input_files(*path)


def answers(page: Page) -> list[str]:
    """The names in the list, once it is there: the parts of the page do not appear together."""
    page.locator(".answer").first.wait_for()
    return page.locator(".answer .label").all_inner_texts()


def evidence(page: Page) -> np.ndarray:
    """The large overlay as pixels."""
    return pixels(page.locator(".comparison .evidence"))


def pixels(image: Locator) -> np.ndarray:
    """What an image that lies within the page shows."""
    source = image.get_attribute("src")
    assert source is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))


def test_upload_choose_and_a_broken_file(page: Page, tmp_path: Path) -> None:
    upload(page, LION)
    large = page.locator(".comparison .evidence")
    expect(page.locator(".answer")).to_have_count(5)
    expect(large).to_have_attribute("alt", "Where the evidence for lion is")
    assert answers(page)[0] == "lion"
    lion = evidence(page)
    assert lion.shape == (256, 256, 3)

    page.locator(".answer").nth(1).click()
    second = answers(page)[1]
    expect(large).to_have_attribute("alt", f"Where the evidence for {second} is")
    expect(page.locator(".answer").nth(1)).to_have_attribute("aria-pressed", "true")
    assert np.abs(evidence(page).astype(int) - lion).mean() > 2

    broken = tmp_path / "broken.jpg"
    broken.write_bytes(LION.read_bytes()[:2000])
    upload(page, broken)
    expect(page.get_by_role("alert")).to_contain_text("'broken.jpg' cannot be decoded")
    expect(large).to_have_attribute("alt", f"Where the evidence for {second} is")

    page.locator(".answer").nth(0).click()
    expect(large).to_have_attribute("alt", "Where the evidence for lion is")
    assert np.array_equal(evidence(page), lion)


@contextmanager
def forward_passes(served: Served, name: str = "efficientnet_lite0") -> Iterator[list[int]]:
    """How many pictures each pass of a network meanwhile takes."""
    passes: list[int] = []
    model = served.models.get(name).classifier.model
    handle = model.register_forward_hook(lambda _, images, __: passes.append(len(images[0])))
    yield passes
    handle.remove()


def choose(page: Page, label: str, text: str) -> None:
    """Filter a list by what is typed, and take the first that is left."""
    box = page.get_by_role("combobox", name=label)
    box.click()
    box.fill(text)
    page.get_by_role("option").first.wait_for()
    box.press("Enter")


def test_new_classes_and_new_looks_run_no_network(page: Page, served: Served) -> None:
    page.get_by_role("button", name="Example: lion").click()
    large = page.locator(".comparison .evidence")
    expect(large).to_have_attribute("alt", "Where the evidence for lion is")
    with forward_passes(served) as passes:
        choose(page, "Any class", "teapot")
        expect(large).to_have_attribute("alt", "Where the evidence for teapot is")
        expect(page.locator(".answer")).to_have_count(6)
        page.locator(".answer").nth(0).click()
        expect(large).to_have_attribute("alt", "Where the evidence for lion is")
        looks = [evidence(page)]
        for change in (
            lambda: page.get_by_label("range slider for Opacity").press("ArrowLeft"),
            lambda: choose(page, "Colours", "viridis"),
            lambda: page.get_by_label("range slider for Contour").press("ArrowRight"),
            lambda: page.get_by_label("Map only").check(),
        ):
            before = str(large.get_attribute("src"))
            change()
            expect(large).not_to_have_attribute("src", before)
            looks.append(evidence(page))
        assert all((a != b).any() for a, b in pairwise(looks))
        assert passes == []


@contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """What is explained first meanwhile waits until the end, and says that it does; the rest goes on."""
    waits, go_on = threading.Event(), threading.Event()
    explain = Seen.explain

    def wait(*args: Any) -> Any:
        if not waits.is_set():
            waits.set()
            go_on.wait(60)
        return explain(*args)

    with monkeypatch.context() as patched:
        patched.setattr(Seen, "explain", wait)
        yield waits
    go_on.set()


def test_a_picture_that_replaces_another_is_asked_about_once(
    page: Page, served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mirrored = tmp_path / "mirrored.png"  # no other test shows it to a network
    ImageOps.mirror(Image.open(CHEETAH)).save(mirrored)
    upload(page, LION)
    large = page.locator(".comparison .evidence")
    expect(large).to_have_attribute("alt", "Where the evidence for lion is")
    questions: list[str] = []
    page.on("request", lambda request: questions.append(request.url) if "/queue/join" in request.url else None)
    with forward_passes(served) as passes:
        with held(monkeypatch) as waits:
            upload(page, mirrored)
            assert waits.wait(60)
            expect(page.locator("#busy .pending")).to_have_count(1)  # shown until the answer is there
        expect(large).to_have_attribute("alt", "Where the evidence for cheetah is")
    assert passes == [1]
    assert len(questions) == 1  # what is folded asks nothing


def test_a_picture_removed_while_it_is_looked_at_stays_removed(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(monkeypatch) as waits:
        upload(page, LION)
        assert waits.wait(60)
        page.get_by_role("button", name="Remove Image").click()
        expect(page.locator("#picture input[type=file]")).to_have_count(1)
    expect(page.locator(".pending")).to_have_count(0)
    expect(page.locator(".empty")).to_be_visible()
    expect(page.locator("#picture img")).to_have_count(0)
    expect(page.locator(".answer")).to_have_count(0)


def test_what_is_chosen_meanwhile_is_neither_lost_nor_mixed(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(page, LION)
    large = page.locator(".comparison .evidence")
    expect(page.locator(".answer")).to_have_count(5)
    third = answers(page)[2]
    with held(monkeypatch) as waits:
        page.locator(".answer").nth(1).click()
        assert waits.wait(60)
        page.locator(".answer").nth(2).click()
        page.get_by_label("Map only").check()
    expect(large).to_have_attribute("alt", f"Where the evidence for {third} is")
    expect(page.locator(".answer").nth(2)).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="The same in Python").click()
    expect(page.locator(".code")).to_contain_text("heatmap")  # the map alone

    with held(monkeypatch) as waits:
        page.locator(".answer").nth(1).click()
        assert waits.wait(60)
        upload(page, CHEETAH)
    expect(large).to_have_attribute("alt", "Where the evidence for cheetah is")
    assert answers(page)[0] == "cheetah"


def test_a_question_that_was_refused_may_be_put_again(browser: Browser, served: Served) -> None:
    page = browser.new_page()  # on which errors are logged
    page.set_default_timeout(120_000)
    page.goto(served.url)
    upload(page, LION)
    expect(page.locator(".answer")).to_have_count(5)
    queue = served.blocks._queue
    most, queue.max_size = queue.max_size, 0
    upload(page, CHEETAH)
    page.get_by_test_id("toast-body").wait_for()
    queue.max_size = most
    upload(page, CHEETAH)
    expect(page.locator(".comparison .evidence")).to_have_attribute("alt", "Where the evidence for cheetah is")
    page.close()


# Of the stream by which answers come the end, once it is `ended`, waits for `end`.
HELD_END = """
const { fetch } = window
const held = new Promise(resolve => { window.end = resolve })
window.fetch = async (request, options) => {
    const response = await fetch(request, options)
    if (!String(request.url ?? request).includes('/queue/data')) return response
    const transform = async (part, parts) => {
        if (new TextDecoder().decode(part).includes('"close_stream"')) {
            window.ended = true
            await held
        }
        parts.enqueue(part)
    }
    return new Response(response.body.pipeThrough(new TransformStream({ transform })), response)
}
"""


def test_a_picture_that_comes_as_the_first_answers_end_is_answered(browser: Browser, served: Served) -> None:
    page = browser.new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(HELD_END)
    page.goto(served.url)
    page.wait_for_function("window.ended")
    with page.expect_response("**/queue/join?*") as response:
        upload(page, LION)
    response.value.finished()
    page.evaluate("end()")
    expect(page.locator(".answer")).to_have_count(5)
    page.locator(".answer").nth(1).click()
    expect(page.locator(".answer").nth(1)).to_have_attribute("aria-pressed", "true")
    page.close()


def test_what_is_taken_along_is_what_is_shown(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload(page, LION)
    page.locator(".answer").nth(1).click()
    label = answers(page)[1]
    expect(page.locator(".comparison .evidence")).to_have_attribute("alt", f"Where the evidence for {label} is")
    files = {}
    for ending in (".png", ".npy", ".json"):
        with page.expect_download() as started:
            page.get_by_role("button", name=ending).click()
        assert started.value.suggested_filename.startswith("lion-")
        files[ending] = tmp_path / f"file{ending}"
        started.value.save_as(files[ending])

    expected = gradcam.explain(LION, gradcam.load("efficientnet_lite0"), classes="top5")
    np.testing.assert_allclose(np.load(files[".npy"]), expected.map(label), rtol=1e-5)
    record = json.loads(files[".json"].read_text("utf-8"))
    assert record["class"]["label"] == label
    assert [prediction["label"] for prediction in record["top5"]] == answers(page)
    np.testing.assert_allclose(record["map"], expected.map(label), rtol=1e-5)

    page.get_by_role("button", name="The same in Python").click()
    lines = page.locator(".code").inner_text()
    assert lines.count("\n") == 2
    monkeypatch.chdir(tmp_path)
    Path("lion.jpg").write_bytes(LION.read_bytes())
    exec(lines)
    shown = np.asarray(Image.open(files[".png"]), int)
    assert np.abs(shown - np.asarray(Image.open("evidence.png"))).max() <= 1


# What the page would do in a second and a half waits for `now`: a slow test would not see what was there meanwhile.
LATER = """() => {
    const { setTimeout } = window, later = []
    window.setTimeout = (act, time, ...rest) => time === 1500 ? later.push(act) : setTimeout(act, time, ...rest)
    window.now = () => later.splice(0).forEach(act => act())
}"""


def clipboard(page: Page) -> str:
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_links_and_code_are_copied(visit: Visit) -> None:
    page = visit("?picture=lion")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(".answer").nth(1).click()
    expect(page).to_have_url(re.compile("class=" + answers(page)[1].replace(" ", r"\+")))
    button = page.locator("#save .copy")
    page.evaluate(LATER)
    button.click()
    expect(button).to_have_text("Copied")
    button.click()
    page.evaluate("now()")
    expect(button).to_have_text("Copy link")
    assert clipboard(page) == page.url
    page.get_by_role("button", name="The same in Python").click()
    page.get_by_role("button", name="Copy", exact=True).click()
    assert clipboard(page) == page.locator(".code").inner_text()


PICTURE = """async data => {
    const picture = await (await fetch(data)).blob()
    window.picture = new File([picture], 'lion.jpg', { type: picture.type })
    const bitmap = await createImageBitmap(picture)
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height)
    canvas.getContext('2d').drawImage(bitmap, 0, 0)
    const png = await canvas.convertToBlob()
    await navigator.clipboard.write([new ClipboardItem({ 'image/png': png })])
}"""
DROP = """element => {
    const dataTransfer = new DataTransfer()
    dataTransfer.items.add(window.picture)
    element.dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }))
}"""


def test_a_picture_is_pasted_or_dropped_anywhere(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(PICTURE, f"data:image/jpeg;base64,{base64.b64encode(LION.read_bytes()).decode()}")
    expect(page.get_by_role("button", name="Paste from clipboard")).to_have_count(0)  # it took nothing else any more
    for source in ("Upload file", "Capture from camera"):
        page.get_by_role("button", name=source).click()
        for arrives in (
            lambda: page.keyboard.press("Control+V"),
            lambda: page.locator("h1").evaluate(DROP),
            lambda: page.locator("#picture .image-container").evaluate(DROP),
        ):
            arrives()
            expect(page.locator(".comparison .evidence")).to_have_attribute("alt", "Where the evidence for lion is")
            page.get_by_role("button", name="Remove Image").click()
            page.get_by_text("What does the network believe").wait_for()
            expect(page.locator(".pending")).to_have_count(0)


WATCH = """() => {
    window.gone = 0
    const watch = () => { window.gone += !document.querySelector('#comparison').checkVisibility() }
    new MutationObserver(watch).observe(document, { childList: true, subtree: true, attributes: true })
}"""


def test_a_file_that_is_refused_leaves_the_page_as_it_was(visit: Visit) -> None:
    page = visit("?picture=lion")
    large, shown = page.locator(".comparison .evidence"), page.locator("#picture img")
    expect(large).to_have_attribute("alt", "Where the evidence for lion is")
    page.evaluate(WATCH)
    for place in ("h1", "#picture .image-container"):
        for name, content, sentence in (
            (
                "a.svg",
                "'<svg xmlns=\"http://www.w3.org/2000/svg\"/>'",
                "The file 'a.svg' is not a picture of a known format",
            ),
            ("big.jpg", "new Uint8Array(2 ** 25 + 1)", "The picture has more than the 32 MB that are accepted"),
        ):
            page.evaluate(f"window.picture = new File([{content}], '{name}', {{ type: 'image/svg+xml' }})")
            page.locator(place).evaluate(DROP)
            expect(page.get_by_role("alert")).to_contain_text(sentence)
            expect(shown).to_have_attribute("src", re.compile("lion.jpg"))
            page.locator(".answer").nth(1).click()
            expect(page.get_by_role("alert")).to_have_count(0)
            page.locator(".answer").nth(0).click()
            expect(large).to_have_attribute("alt", "Where the evidence for lion is")
    assert page.evaluate("window.gone") == 0
    assert page.url.endswith("?picture=lion&model=efficientnet_lite0&class=lion&method=gradcam")


def test_a_list_is_searched_by_a_click_and_typing(visit: Visit) -> None:
    page = visit("?picture=lion")
    large = page.locator(".comparison .evidence")
    expect(large).to_have_attribute("alt", "Where the evidence for lion is")
    for name in ("teapot", "tiger cat"):
        page.get_by_role("combobox", name="Any class").click()
        page.keyboard.type(name)
        expect(page.get_by_role("option")).to_have_count(1)
        page.keyboard.press("Enter")
        expect(large).to_have_attribute("alt", f"Where the evidence for {name} is")


def test_an_uploaded_picture_leaves_no_class_in_the_address(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    upload(page, CHEETAH.with_name("cheetah1.jpg"))
    page.locator(".answer").nth(1).click()
    page.get_by_role("tab", name="Why this and not that").click()
    page.wait_for_url("**/?model=efficientnet_lite0&method=gradcam&tab=compare")
    this, that = page.locator("#compare figcaption b").all_inner_texts()[:2]
    page.locator(".question .copy").first.click()  # which says all
    asked = urlencode({"class": this, "method": "gradcam", "tab": "compare", "rival": that})
    assert clipboard(page).endswith(f"/?model=efficientnet_lite0&{asked}")
    page.reload()
    upload(page, LION)
    expect(page.locator("#compare figcaption b").first).to_have_text("lion")


def test_maps_against_a_class_are_called_so(visit: Visit) -> None:
    page = visit("?picture=cheetah&class=jaguar&method=counterfactual")
    large = page.locator(".comparison .evidence")
    expect(large).to_have_attribute("alt", "Where the evidence against jaguar is")
    expect(page.locator(".hint")).to_contain_text("The evidence against “jaguar” is weak: at most 6.")
    page.get_by_label("Own scale").check()
    expect(page.locator(".legend")).to_contain_text("strongest against this class")


@pytest.mark.parametrize("width", [2560, 1440, 390, 360])
def test_the_page_fits_its_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    expect(page.get_by_role("tab", name="Two models")).to_be_visible()
    header, rail = (page.locator(part).bounding_box() for part in ("#header", "#rail"))
    assert header is not None
    assert rail is not None
    margin = {2560: (2560 - 1680) / 2 + 28, 1440: 28}.get(width, 16)
    assert (header["x"], header["x"] + header["width"]) == (margin, width - margin)
    assert rail["x"] == margin
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_picture_from_the_camera(page: Page) -> None:
    page.get_by_role("button", name="Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#picture video').videoWidth > 0")
    page.get_by_role("button", name="capture photo").click()
    expect(page.locator(".answer")).to_have_count(5)
    page.wait_for_function("document.querySelector('#picture img')?.naturalWidth > 0")  # it may come after the answer
    width, height = page.locator("#picture img").evaluate("image => [image.naturalWidth, image.naturalHeight]")
    expect(page.locator(".comparison")).to_have_attribute("style", f"--ratio: {width / height:.4f}")


def test_what_was_not_seen_and_the_facts(visit: Visit) -> None:
    page = visit("?picture=lion&class=tiger")
    result = gradcam.explain(LION, gradcam.load("efficientnet_lite0"), classes=["tiger"])
    left, top, right, bottom = (round(edge) for edge in result.inspection.framing.box)
    assert (left, top, right, bottom) == (16, 16, 240, 240)
    expect(page.locator(".answer")).to_have_count(5)
    colourful = np.ptp(evidence(page).astype(int), axis=2)
    outside = np.ones((256, 256), bool)
    outside[top - 2 : bottom + 2, left - 2 : right + 2] = False
    assert colourful[outside].max() <= 10
    assert np.median(colourful[~outside]) >= 20
    grey = np.asarray(Image.open(LION).convert("L"), int)
    assert np.abs(evidence(page).mean(axis=2) - grey / 2)[outside].mean() < 2

    chance = f"{100 * result.inspection.prediction('tiger').probability:.1f} %"
    values = page.locator("#facts dd")
    expect(values).to_have_text(["tiger", chance, "bn2", "7 × 7", re.compile(r"^\d+ ms$"), "CPU"])


def test_on_a_phone_the_answer_comes_into_view(visit: Visit) -> None:
    page = visit()
    page.set_viewport_size({"width": 390, "height": 844})
    large = page.locator("#comparison")
    for photograph in (LION, CHEETAH):
        page.evaluate("scrollTo(0, 0)")
        upload(page, photograph)
        expect(page.locator(".answer")).to_have_count(5)
        expect(large).to_be_in_viewport(ratio=0.9)


def test_a_picture_of_a_few_pixels_is_large_and_crisp(visit: Visit, tmp_path: Path) -> None:
    page = visit()
    Image.open(LION).resize((32, 32)).save(tmp_path / "small.png")
    shown = page.locator("#picture img")
    for path, rendering in ((tmp_path / "small.png", "pixelated"), (LION, "auto")):
        upload(page, path)
        expect(shown).to_have_css("image-rendering", rendering)
        shown.evaluate("image => image.decode()")  # until it is there, nothing of it is large
        box = shown.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) > 150


def test_the_legend_says_what_the_colours_mean(visit: Visit) -> None:
    page = visit("?picture=lion")
    legend = page.locator("#large .legend")
    expect(legend).to_contain_text("nonestrongest shown")
    expect(legend).to_contain_text("Grey: not seen by the network")
    bar = pixels(legend.locator("img"))
    expected = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_INFERNO)[..., ::-1]
    assert np.abs(bar.astype(int) - expected).max() <= 24  # JPEG
    page.get_by_label("Own scale").check()
    expect(legend).to_contain_text("strongest for this class")
    page.get_by_role("tab", name="Why this and not that").click()
    expect(page.locator("#compare .legend")).to_have_text("nonefull scaleGrey: not seen by the network")
    assert (pixels(page.locator("#compare .legend img")) == bar).all()


def test_the_slider_stays_and_the_scale_and_contour_are_as_said(visit: Visit) -> None:
    page = visit("?picture=lion")
    large, slider = page.locator(".comparison .evidence"), page.locator(".comparison input")
    slider.fill("40")
    label = answers(page)[1]
    page.locator(".answer").nth(1).click()
    expect(large).to_have_attribute("alt", f"Where the evidence for {label} is")
    expect(slider).to_have_value("40")
    assert large.evaluate("image => getComputedStyle(image).clipPath") == "inset(0px 0px 0px 40%)"

    result = gradcam.explain(LION, gradcam.load("efficientnet_lite0"), classes="top5")
    drawn = [result.overlay(label, full=full, contour=at) for full in (result.full, None) for at in (None, 0.25)]
    expected = [np.asarray(picture, int) for picture in drawn]

    def nearest() -> int:
        errors = [np.abs(evidence(page) - picture).mean() for picture in expected]
        assert min(errors) < 1.5
        return int(np.argmin(errors))

    def change(act: Callable[[], Any]) -> int:
        before = str(large.get_attribute("src"))
        act()
        expect(large).not_to_have_attribute("src", before)
        return nearest()

    contour, own = page.get_by_label("number input for Contour"), page.get_by_label("Own scale")
    assert nearest() == 0
    assert change(own.check) == 2
    assert change(lambda: (contour.fill("0.25"), contour.press("Enter"))) == 3
    assert change(own.uncheck) == 1


def test_a_link_brings_the_state_back(visit: Visit) -> None:
    page = visit("?picture=lion&class=tiger&method=counterfactual")
    large = page.locator(".comparison .evidence")
    expect(large).to_have_attribute("alt", "Where the evidence against tiger is")
    page.get_by_role("button", name="Method and layer").click()
    expect(page.get_by_role("combobox", name="Method")).to_have_value("What speaks against the class")
    expect(page.get_by_role("combobox", name="Layer")).to_have_value("Automatic: bn2")
    page.locator(".answer").nth(0).click()
    expect(large).to_have_attribute("alt", "Where the evidence against lion is")
    page.wait_for_url(re.compile(r"/\?picture=lion&model=efficientnet_lite0&class=lion&method=counterfactual$"))
    page.get_by_role("button", name="Remove Image").click()
    expect(page).to_have_url(re.compile(r"/$"))


def test_a_blank_or_weak_map_says_so(visit: Visit) -> None:
    blank = visit("?picture=cheetah&class=546")
    expect(blank.locator(".hint")).to_contain_text("Nothing at bn2 speaks for “electric guitar”")
    weak = visit("?picture=lion&class=217")
    expect(weak.locator(".hint")).to_contain_text("The evidence for “English springer” is weak: at most 0.6 % of")


def test_other_layers_and_the_strip_through_the_network(page: Page, served: Served) -> None:
    page.get_by_role("button", name="Example: lion").click()
    page.get_by_role("button", name="Method and layer").click()
    expect(page.get_by_role("combobox", name="Layer")).to_have_value("Automatic: bn2")  # the list is there
    choose(page, "Layer", "blocks.5")
    facts = page.locator("#facts")
    expect(facts).to_contain_text("14 × 14")
    page.get_by_role("button", name="Through the network").click()
    grids = page.locator(".panels figcaption span")
    stages = served.models.get(served.models.default).stages
    expect(grids).to_have_text([f"{target.grid[1]} × {target.grid[0]}" for target in stages])
    last = page.locator("#details .panels img").last
    before = str(last.get_attribute("src"))
    choose(page, "Colours", "viridis")
    expect(last).not_to_have_attribute("src", before)
    choose(page, "Layer", "no such layer")
    expect(page.get_by_role("alert")).to_contain_text("the network has no layer")
    expect(facts).to_contain_text("14 × 14")
