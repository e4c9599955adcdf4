"""The pictures to start with: which are offered, what is known of them, and how the test set comes to the page."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

import app
import gradcam
from gradcam import Classifier
from gradcam.cifar10 import data
from gradcam.cifar10.data import DataError
from gradcam.cifar10.network import CLASSES
from gradcam.pipeline import Inspection
from gradcam.ui import page
from gradcam.ui.examples import MOST, Examples
from gradcam.ui.launch import serve
from gradcam.ui.models import Models
from gradcam.ui.rail import EXAMPLES

pytest.importorskip("playwright.sync_api")
from playwright.sync_api import Browser, Locator, Page, expect
from test_cifar10_data import archive, noise  # noqa: F401 (a fixture)
from test_page import choose, upload

OFFER = "Get the CIFAR-10 test pictures (163 MB)"
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:gradio\.queueing")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of noise: every second one of the class that our network takes it for, the others of the next class."""
    monkeypatch.setattr("gradcam.ui.examples.EVERY", 1)
    classifier = gradcam.load("cifar10")
    for i, name in enumerate(CLASSES):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (25 * i, 128, 255 - 25 * i)).save(tmp_path / "test" / name / "plain.png")
    for i in range(20):
        picture = Image.fromarray(noise(i)).resize((8, 8)).resize((32, 32))
        answer = Inspection(picture, classifier).top(1)[0].index
        picture.save(tmp_path / "test" / CLASSES[(answer + i % 2) % 10] / f"{i}.png")
    return tmp_path


def surest(folder: Path, right: bool) -> list[tuple[str, bytes]]:
    """The true class and the pixels of the pictures of which the network is surest: the slow way."""
    classifier, found = gradcam.load("cifar10"), []
    for path in sorted(folder.glob("test/*/*.png")):
        answer = Inspection(path, classifier).top(1)[0]
        if (answer.label == path.parent.name) == right:
            found.append((answer.probability, path))
    best: dict[str, bytes] = {}
    for _, path in sorted(found, key=lambda one: -one[0]):
        best.setdefault(path.parent.name, Image.open(path).convert("RGB").tobytes())
    return list(best.items())[:MOST]


def test_the_surest_answers_of_the_network_right_and_wrong(folder: Path) -> None:
    examples = Examples([], Models(), folder)
    shown = [(one.kind, one.truth, Image.open(one.path).tobytes()) for one in examples.tests()]
    expected = [("Test pictures, recognised", *one) for one in surest(folder, True)]
    assert shown == expected + [("Test pictures, mistaken", *one) for one in surest(folder, False)]
    assert len({one.path for one in examples.all}) == len(shown)

    mistaken = examples.all[-1]
    copy = folder / mistaken.path.name
    copy.write_bytes(mistaken.path.read_bytes())
    assert (examples.find(copy), examples.truth(copy)) == (mistaken, mistaken.truth)
    Image.new("RGB", (32, 32)).save(copy)
    assert (examples.find(copy), examples.truth(copy)) == (None, "")
    copy.unlink()  # as the schedule does, below a page that was left open
    assert (examples.find(copy), examples.truth(copy)) == (None, "")


def test_a_wrong_data_folder_is_told_at_the_start_and_never_to_a_visitor(
    folder: Path, opened: Callable[[gr.Blocks], Page]
) -> None:
    blocks = page.build(Models(public=True), folder)
    large = folder / "test" / "ship" / "large.png"
    Image.new("RGB", (64, 64)).save(large)
    sentence = re.escape(f"{large} is 64x64 pixels; CIFAR-10 pictures are 32x32. Scale it down or remove it.")
    with pytest.raises(SystemExit, match=f"^{sentence}$"):
        app.main(data=folder)
    visitor = opened(blocks)
    choose(visitor, "Model", "cifar10")
    expect(visitor.locator("#examples .small").first).to_have_text("Test pictures, recognised")
    expect(visitor.get_by_role("alert")).to_have_count(0)


def test_a_network_of_the_same_name_brings_no_test_pictures_of_ours(
    folder: Path, opened: Callable[[gr.Blocks], Page]
) -> None:
    own = Classifier(gradcam.load("cifar10").model, [f"class {i}" for i in range(10)], name="cifar10")
    models = Models(own)
    assert not Examples([], models, folder).belong_to("cifar10")
    assert Examples([], Models(), folder).belong_to("cifar10")
    visitor = opened(page.build(models, folder))
    choose(visitor, "Model", "efficientnet_lite0")
    choose(visitor, "Model", "cifar10")
    expect(visitor.get_by_role("combobox", name="Model")).to_have_value("cifar10")
    names(visitor).nth(1).click()
    expect(visitor.locator("#facts")).to_contain_text("class")
    expect(names(visitor)).to_have_text([""] * 4)
    expect(visitor.locator("#examples .small")).to_have_count(0)


def test_without_the_data_set_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "DOWNLOADS", tmp_path)
    assert Examples([], Models()).tests() == []
    with pytest.raises(DataError, match="is not a CIFAR-10 folder"):
        Examples([], Models(), tmp_path)


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[[gr.Blocks], Page]]:
    """Serves another page than the one that most tests share, and visits it."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(120_000)
    served = []

    def open_(blocks: gr.Blocks) -> Page:
        served.append(serve(blocks))
        visitor = context.new_page()
        visitor.goto(blocks.local_url)
        return visitor

    yield open_
    context.close()
    for blocks in served:
        blocks.close()


def names(visitor: Page) -> Locator:
    """What stands below the examples."""
    return visitor.get_by_role("group", name="Examples").get_by_role("button")


def test_a_mistaken_test_picture_is_asked_why_it_is_not_its_true_class(
    folder: Path, opened: Callable[[gr.Blocks], Page]
) -> None:
    visitor = opened(page.build(Models(), folder))
    expect(names(visitor)).to_have_text([""] * 4)
    choose(visitor, "Model", "cifar10")
    right, wrong = ([truth for truth, _ in surest(folder, kind)] for kind in (True, False))
    expect(names(visitor)).to_have_text([*right, *wrong])
    expect(visitor.locator("#examples .small")).to_have_text(["Test pictures, recognised", "Test pictures, mistaken"])
    expect(visitor.get_by_role("button", name=OFFER)).to_have_count(0)

    truth, pixels = surest(folder, False)[0]
    answer = Inspection(Image.frombytes("RGB", (32, 32), pixels), gradcam.load("cifar10")).top(1)[0].label
    names(visitor).nth(len(right)).click()
    expect(visitor.locator("#facts")).to_contain_text(f"true class{truth}")
    visitor.get_by_role("tab", name="Why this and not that").click()
    titles = visitor.locator("#compare b")
    expect(titles).to_have_text([answer, truth, f"{answer} rather than {truth}", f"Against {answer}"])
    expect(visitor.locator("#compare figcaption span").nth(1)).to_contain_text("%, the true class")

    visitor.wait_for_url(re.compile(rf"\?picture={truth}-\d+&model=cifar10&class={answer}&.*&rival={truth}$"))
    visitor.reload()
    expect(titles.nth(2)).to_have_text(f"{answer} rather than {truth}")
    upload(visitor, EXAMPLES[1])
    expect(visitor.locator("#facts")).not_to_contain_text("true class")


@pytest.mark.usefixtures("archive")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # Gradio's, which follows the download
def test_the_test_set_is_downloaded_when_it_is_asked_for(
    opened: Callable[[gr.Blocks], Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = opened(page.build(Models(default="cifar10")))
    expect(visitor.locator("#examples .small")).to_contain_text("A ten-class network has no word for a cheetah")
    button = visitor.get_by_role("button", name=OFFER)
    with monkeypatch.context() as offline:
        offline.setattr(CIFAR10, "url", "http://127.0.0.1:1/nothing")
        button.click()
        expect(visitor.get_by_role("alert")).to_contain_text("CIFAR-10 could not be downloaded to ")
    expect(names(visitor)).to_have_text([""] * 4)
    button.click()
    expect(names(visitor)).to_have_text(["cat"])
    expect(visitor.get_by_role("alert")).to_have_count(0)
    expect(button).to_have_count(0)


@pytest.mark.usefixtures("archive")
def test_strangers_are_offered_no_download(opened: Callable[[gr.Blocks], Page]) -> None:
    blocks = page.build(Models(default="cifar10", public=True))
    assert not any(handler.name == "fetch" for handler in blocks.fns.values())
    visitor = opened(blocks)
    expect(visitor.locator("#examples .small")).to_contain_text("A ten-class network has no word for a cheetah")
    expect(visitor.get_by_role("button", name=OFFER)).to_have_count(0)
