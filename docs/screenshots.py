"""Make the README's pictures of the page from the real page: `python -m docs.screenshots` (needs Chromium)."""

import shutil
from pathlib import Path

import gradio
from playwright.sync_api import sync_playwright

from gradcam import explain, load
from gradcam.ui import page
from gradcam.ui.launch import serve
from gradcam.ui.models import Models

HERE = Path(__file__).resolve().parent
CHEETAH = Path(gradio.__file__).parent / "media_assets" / "images" / "cheetah1.jpg"


def draw_strip() -> None:
    """The three best classes for the cheetah, and why the first rather than the second."""
    result = explain(CHEETAH, load("efficientnet_lite0"), ["cheetah", "snow leopard", ("cheetah", "snow leopard")])
    result.strip(side=256).save(HERE / "strip.png", optimize=True)


def photograph_page() -> None:
    """The page with the cheetah explained, wide."""
    blocks = serve(page.build(Models()))
    try:
        with sync_playwright() as driver:
            chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            visitor = chromium.new_page(viewport={"width": 1280, "height": 860})
            visitor.goto(blocks.local_url)
            visitor.locator("input[type=file]").first.set_input_files(CHEETAH)
            visitor.locator(".answer").nth(4).wait_for()
            visitor.locator("#comparison img").first.wait_for()
            visitor.wait_for_function("[...document.images].every(image => image.complete)")
            visitor.mouse.move(0, 0)
            visitor.screenshot(path=HERE / "page.png")
    finally:
        blocks.close()


if __name__ == "__main__":
    draw_strip()
    photograph_page()
