"""The page in a real browser."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradcam.ui.rail import EXAMPLES

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Page, expect

# Gradio's statistics of its own queue use what pandas has since deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:gradio\.queueing")
expect.set_options(timeout=60_000)

CHEETAH, LION = EXAMPLES[:2]


def upload(page: Page, *path: Path) -> None:
    page.locator("#picture input[type=file]").set_input_files(*path)


def answers(page: Page) -> list[str]:
    return page.locator(".answer .label").all_inner_texts()


def evidence(page: Page) -> np.ndarray:
    """The large overlay as pixels."""
    source = page.locator(".comparison .evidence").get_attribute("src")
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
