"""The page by keyboard alone, for screen readers, and its contrast."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Page, expect
from test_page import LATER, LION, Visit, answers, choose, upload

pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:gradio\.queueing")

# Colours as pixels, however CSS writes them: what is painted over each other in a canvas of one pixel.
PIXELS = """
const context = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true })
const painted = layers => {
    for (const [colour, opacity] of [['#fff', 1], ...layers]) {
        context.globalAlpha = opacity
        context.fillStyle = colour
        context.fillRect(0, 0, 1, 1)
    }
    return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)]
}
const above = element => element ? [...above(element.parentElement), element] : []
const ground = element => above(element).map(one => [getComputedStyle(one).backgroundColor, 1])
const luminance = pixel => {
    const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4
    const [red, green, blue] = pixel.map(value => linear(value / 255))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
}
const contrast = (colour, element, opacity = 1) => {  // https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
    const layers = ground(element)
    const pair = [painted(layers), painted([...layers, [colour, opacity]])].map(luminance)
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)
}
"""

# Texts need 4.5, large ones 3; so do icons and the edges of boxes to tick.
WEAK = (
    "() => {"
    + PIXELS
    + """
    const weak = {}
    const check = (element, colour, needed, what, on = element) => {
        if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) return
        const { width, height } = element.getBoundingClientRect()
        if (Math.min(width, height) <= 1) return  // for screen readers alone
        const opacity = above(element).reduce((product, one) => product * getComputedStyle(one).opacity, 1)
        const ratio = contrast(colour, on, opacity)
        if (ratio < needed) weak[`${what} (${element.tagName} ${element.className})`] = ratio.toFixed(2)
    }
    const text = (element, what) => {
        const { color, fontSize, fontWeight } = getComputedStyle(element)
        const large = parseFloat(fontSize) >= (fontWeight >= 700 ? 18.66 : 24)
        check(element, color, large ? 3 : 4.5, what.trim().slice(0, 40))
    }
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
    while (texts.nextNode()) {
        const { parentElement, data } = texts.currentNode
        if (data.trim()) text(parentElement, data)
    }
    for (const input of document.querySelectorAll('input')) {
        const { borderTopColor } = getComputedStyle(input)
        if (input.type === 'checkbox') check(input, borderTopColor, 3, 'box', input.parentElement)
        else if (input.type !== 'range' && input.value) text(input, input.value)
    }
    for (const icon of document.querySelectorAll('svg')) check(icon, getComputedStyle(icon).color, 3, 'icon')
    return weak
}"""
)

# Nothing moves but what never ends, as a turning wheel does.
AT_REST = """
document.getAnimations()
    .every(one => one.playState === 'finished' || one.effect.getComputedTiming().endTime === Infinity)
"""

# What has the focus: its name, and the contrast of the ring around it or around what holds it; 0 without a ring.
FOCUSED = (
    "() => {"
    + PIXELS
    + """
    const element = document.activeElement
    if (element === document.body) return ['', 0]
    const words = element.ariaLabel || element.labels?.[0]?.innerText || element.innerText
    const ringed = above(element).slice(-5).reverse().find(one => {
        const { outlineStyle, outlineWidth, opacity } = getComputedStyle(one)
        return outlineStyle === 'solid' && parseFloat(outlineWidth) >= 2 && opacity > 0
    })
    const ring = ringed ? contrast(getComputedStyle(ringed).outlineColor, ringed.parentElement) : 0
    return [words.trim().split('\\n')[0], ring]
}"""
)


def tab(page: Page) -> str:
    """Go on to the next control, which must show that it has the focus. Its name; empty at the page's end."""
    page.keyboard.press("Tab")
    name, ring = page.evaluate(FOCUSED)
    assert ring >= 3 or not name, f"{name!r} has the focus, and a ring with a contrast of {ring:.2f}"
    return name


def go(page: Page, name: str) -> None:
    passed: list[str] = []
    while (reached := tab(page)) != name:
        passed.append(reached)
        assert len(passed) < 150, f"{name!r} is not among {sorted(set(passed))}"


def test_all_of_it_by_keyboard(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    press, large = page.keyboard.press, page.locator(".comparison .evidence")
    go(page, "Example: lion")
    press("Enter")
    expect(large).to_have_attribute("alt", "Where the evidence for lion is")
    best, second = answers(page)[:2]

    go(page, "Method and layer")
    press("Space")
    expect(page.get_by_role("button", name="Method and layer")).to_have_attribute("aria-expanded", "true")
    press("Enter")
    expect(page.get_by_role("button", name="Method and layer")).to_have_attribute("aria-expanded", "false")

    order = [tab(page)]
    while (name := tab(page)) != order[0]:
        order.append(name)
        assert len(order) < 150, f"no way out of {order[-5:]}"
    expected = ["Explain", "How much of the picture to uncover", best, second, "Any class", "range slider for Opacity"]
    expected += ["Colours", "Map only", "Overlay .png", "Copy link", "The same in Python", "Through the network"]
    assert [name for name in order if name in expected] == expected

    go(page, "How much of the picture to uncover")
    press("ArrowRight")
    expect(page.locator(".comparison input")).to_have_value("13")
    go(page, second)
    press("Enter")
    expect(large).to_have_attribute("alt", f"Where the evidence for {second} is")
    assert page.evaluate(FOCUSED)[0] == second
    go(page, "Any class")
    page.keyboard.type("tiger")
    press("Enter")
    expect(large).to_have_attribute("alt", "Where the evidence for tiger is")
    for control, change in (
        ("range slider for Opacity", lambda: press("ArrowLeft")),
        ("Colours", lambda: (page.keyboard.type("viridis"), press("Enter"))),
        ("Own scale", lambda: press("Space")),
    ):
        before = str(large.get_attribute("src"))
        go(page, control)
        change()
        expect(large).not_to_have_attribute("src", before)

    go(page, "Overlay .png")
    with page.expect_download() as started:
        press("Space")
    assert started.value.suggested_filename == "lion-tiger-overlay.png"
    go(page, "Copy link")
    page.evaluate(LATER)
    press("Enter")
    expect(page.get_by_role("button", name="Copied")).to_be_focused()
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    go(page, "The same in Python")
    press("Enter")
    expect(page.locator(".code")).to_be_visible()

    go(page, "Why this and not that")
    press("Enter")
    titles = page.locator("#compare figcaption b")
    expect(titles).to_have_count(4)
    go(page, "and not that")
    page.keyboard.type("tiger cat")
    press("Enter")
    expect(titles.nth(1)).to_have_text("tiger cat")


def test_a_list_that_is_left_closes(visit: Visit) -> None:
    page = visit("?picture=lion")
    expect(page.locator(".answer")).to_have_count(5)  # until all is there, the page may still set what the list shows
    model = page.get_by_role("combobox", name="Model")
    for key in ("Tab", "Shift+Tab"):
        model.focus()
        expect(page.get_by_role("option")).to_have_count(2)
        page.keyboard.press(key)
        expect(model).not_to_be_focused()
        expect(page.get_by_role("option")).to_have_count(0)


def test_answers_are_read_out(visit: Visit) -> None:
    page = visit()
    status = page.get_by_role("status").filter(has_text="evidence")
    page.locator("#spoken [role=status]").wait_for(state="attached")  # before it has anything to say
    page.get_by_role("button", name="Example: lion").click()
    expect(status).to_have_text("lion 89.7 %, evidence for it at bn2")
    page.get_by_role("button", name="Method and layer").click()
    choose(page, "Method", "What speaks against")
    expect(status).to_have_text("lion 89.7 %, evidence against it at bn2")
    page.get_by_role("button", name="Remove Image").click()
    expect(status).to_have_count(0)


def test_everything_has_a_name(visit: Visit) -> None:
    page = visit("?picture=lion")
    expect(page.locator(".answer")).to_have_count(5)
    for panel in ("Method and layer", "The same in Python", "Through the network"):
        page.get_by_role("button", name=panel).click()
    page.locator("#details .panels img").first.wait_for()
    seen = page.locator("body").aria_snapshot()
    page.get_by_role("tab", name="Why this and not that").click()
    page.get_by_role("button", name="All methods").click()
    page.locator("#methods img").first.wait_for()
    seen += page.locator("body").aria_snapshot()
    assert re.findall(r"- (?:button|checkbox|combobox|slider|spinbutton|tab|textbox)\b(?! \").*", seen) == []
    assert page.locator("img:not([alt])").count() == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(visit: Visit, theme: str, tmp_path: Any) -> None:
    page = visit(f"?__theme={theme}")
    weak: dict[str, dict[str, str]] = {}

    def check(state: str, ready: Callable[[], Any]) -> None:
        ready()
        page.mouse.move(0, 0)
        # What is faded while the page works is back, and what changes slowly has arrived: colours, lists that fade in.
        expect(page.locator(".pending")).to_have_count(0)
        page.wait_for_function(AT_REST)
        weak[state] = page.evaluate(WEAK)

    check("empty", lambda: None)
    (tmp_path / "broken.jpg").write_bytes(LION.read_bytes()[:2000])
    upload(page, tmp_path / "broken.jpg")
    check("problem", lambda: page.get_by_role("alert").wait_for())
    page.get_by_role("button", name="Example: lion").click()
    page.locator(".answer").first.wait_for()
    for panel in ("Method and layer", "The same in Python", "Through the network"):
        page.get_by_role("button", name=panel).click()
    check("result", lambda: page.locator("#details .panels img").first.wait_for())
    page.get_by_label("Map only").check()
    every_class = page.get_by_role("combobox", name="Any class")
    every_class.click()
    check("list", lambda: page.get_by_role("option").first.wait_for())
    every_class.fill("English springer")
    every_class.press("Enter")
    expect(page.get_by_role("option")).to_have_count(0)  # the list fades away
    check("hint", lambda: page.locator(".hint").first.wait_for())
    page.get_by_role("tab", name="Why this and not that").click()
    page.get_by_role("button", name="All methods").click()
    check("compare", lambda: page.locator("#methods img").first.wait_for())
    assert not any(weak.values()), json.dumps(weak, indent=1)
