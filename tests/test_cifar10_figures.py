"""The figures: which pictures they show, and that what they show is what `explain` says of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gradcam import Classifier, Explainer, render
from gradcam.cifar10 import figures
from gradcam.cifar10.data import DataError, Split
from gradcam.cifar10.evidence import measure
from gradcam.cifar10.figures import GAP, OPACITY, RIGHT, SHOWN, SIDE, WRONG, draw, first_of_each, most_confident
from gradcam.cifar10.network import CLASSES, Cifar10Net, normalise
from gradcam.images import Framing

DEER, SHIP = CLASSES.index("deer"), CLASSES.index("ship")
LARGE = Framing((SIDE, SIDE), (0, 0, SIDE, SIDE))


def preprocess(picture: Image.Image) -> tuple[Tensor, Framing]:
    width, height = picture.size
    pixels = torch.from_numpy(np.array(picture.resize((32, 32)))).permute(2, 0, 1)
    return normalise(pixels), Framing(picture.size, (0, 0, width, height))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Split, Path]:
    """The figures of an untrained network, which answers deer or ship, over pictures of every class."""
    torch.manual_seed(0)
    coarse = torch.rand(40, 3, 5, 5)
    pictures = (torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    network = Cifar10Net().eval()
    with torch.no_grad():
        logits = network(normalise(pictures))
        network.head.bias -= logits.median(0).values
        network.head.bias[[DEER, SHIP]] += 1
    classifier = Classifier(network, CLASSES, preprocess)
    with torch.no_grad():
        answers = network(normalise(pictures)).argmax(1)
    split = pictures, torch.where(torch.arange(40) % 2 == 0, answers, torch.arange(40) // 2 % 10)
    out = tmp_path_factory.mktemp("docs")
    written = draw(classifier, split, out, "python -m gradcam figures --data here")
    assert written == [out / name for name in ("cifar10-right.png", "cifar10-wrong.png", "cifar10.md")]
    assert sorted(out.iterdir()) == sorted(written)
    return classifier, split, out


def test_the_most_confident_come_first() -> None:
    confidence = torch.tensor([0.3, 0.9, 0.5, 0.9, 0.99])
    assert most_confident(confidence, torch.tensor([True, True, True, True, False])) == [1, 3, 2, 0]


def test_one_failure_of_each_true_class() -> None:
    assert first_of_each([5, 1, 4, 0, 2], torch.tensor([3, 7, 7, 3, 9, 3])) == [5, 1, 4]


def panel(sheet: Image.Image, row: int, left: int) -> np.ndarray:
    """One square panel of a sheet, found from below: rows end GAP above one another, the colour bar is last."""
    per_row = (sheet.height - GAP - 2 * figures.LINE) // len_rows(sheet)
    bottom = GAP + per_row * (row + 1) - GAP
    return np.asarray(sheet.crop((left, bottom - SIDE, left + SIDE, bottom)))


def len_rows(sheet: Image.Image) -> int:
    return round((sheet.height - GAP - 2 * figures.LINE) / (SIDE + GAP + GAP // 4 + 2 * figures.LINE))


def crisp(picture: Tensor) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def test_failures_are_shown_with_three_maps_on_one_scale(drawn: tuple[Classifier, Split, Path]) -> None:
    classifier, (pictures, labels), out = drawn
    with torch.no_grad():
        confidence, answers = classifier.model(normalise(pictures)).softmax(1).max(1)
    ranked = sorted((i for i in range(40) if answers[i] != labels[i]), key=lambda i: -confidence[i].item())
    shown, seen = [], set()
    for i in ranked:
        if int(labels[i]) not in seen:
            seen.add(int(labels[i]))
            shown.append(i)
    sheet = Image.open(out / "cifar10-wrong.png").convert("RGB")
    assert len_rows(sheet) == len(shown[:WRONG]) == WRONG

    explainer = Explainer(classifier.model, layer="stage3")
    for row, i in enumerate(shown[:WRONG]):
        answer, truth = int(answers[i]), int(labels[i])
        batch = normalise(pictures[i])[None]
        alone = explainer(batch, classes=torch.tensor([[answer, truth]])).maps[0]
        maps = [*alone.numpy(), explainer(batch, classes=answer, versus=truth).maps[0, 0].numpy()]
        full = max(grid.max() for grid in maps)
        expected = [np.asarray(crisp(pictures[i]))]
        for grid in maps:
            expected.append(np.asarray(render.overlay(crisp(pictures[i]), grid, LARGE, full=full, opacity=OPACITY)))
        for column, image in enumerate(expected):
            shown_panel = panel(sheet, row, GAP + column * (SIDE + GAP)).astype(int)
            assert np.abs(shown_panel - image).max() <= 2, (row, column)


def test_right_answers_are_shown_beside_the_map_of_their_class(drawn: tuple[Classifier, Split, Path]) -> None:
    classifier, (pictures, labels), out = drawn
    with torch.no_grad():
        confidence, answers = classifier.model(normalise(pictures)).softmax(1).max(1)
    sheet = Image.open(out / "cifar10-right.png").convert("RGB")
    assert len_rows(sheet) == len(SHOWN) == 2
    explainer = Explainer(classifier.model, layer="stage3")
    for row, class_ in enumerate((DEER, SHIP)):
        right = [i for i in range(40) if answers[i] == labels[i] == class_]
        for column, i in enumerate(sorted(right, key=lambda i: -confidence[i].item())[:RIGHT]):
            grid = explainer(normalise(pictures[i])[None], classes=class_).maps[0, 0].numpy()
            left = GAP + column * (2 * SIDE + GAP // 4 + GAP)
            np.testing.assert_array_equal(panel(sheet, row, left), crisp(pictures[i]))
            expected = np.asarray(render.overlay(crisp(pictures[i]), grid, LARGE, opacity=OPACITY))
            shown = panel(sheet, row, left + SIDE + GAP // 4).astype(int)
            assert np.abs(shown - expected).max() <= 2, (row, column)


def test_the_page_carries_the_tables_the_command_and_what_it_ran_on(drawn: tuple[Classifier, Split, Path]) -> None:
    classifier, split, out = drawn
    page = (out / "cifar10.md").read_text("utf-8")
    measured = measure(classifier, split, seed=0)
    assert measured.concentration_table() in page
    assert measured.flips_table() in page
    assert "Made by `python -m gradcam figures --data here` on " in page
    assert f"torch {torch.__version__.partition('+')[0]}" in page
    assert f"seed 0), over 40 test pictures, of\nwhich the network recognises {int(measured.right.sum())}." in page
    for name in ("cifar10-right.png", "cifar10-wrong.png"):
        assert f"]({name})" in page


def test_too_few_pictures_to_show_are_told(drawn: tuple[Classifier, Split, Path], tmp_path: Path) -> None:
    classifier, (pictures, labels), _ = drawn  # every second one is right
    with pytest.raises(DataError, match=r"^Among the 2 pictures there is no right answer for deer or for ship, or no"):
        draw(classifier, (pictures[:2], labels[:2]), tmp_path, "python -m gradcam figures")
    assert list(tmp_path.iterdir()) == []
