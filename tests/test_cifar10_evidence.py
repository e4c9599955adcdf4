"""Concentration and deletion against loops over single pictures and pixels."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gradcam import Classifier, Explainer, render
from gradcam.cifar10 import evidence
from gradcam.cifar10.data import DataError, Split
from gradcam.cifar10.evidence import Evidence, another, answers_without, concentration, enlarge, highest, measure
from gradcam.cifar10.network import CLASSES, MEAN, Cifar10Net, normalise
from gradcam.images import Framing

WHOLE = Framing((32, 32), (0, 0, 32, 32))


def preprocess(picture: Image.Image) -> tuple[Tensor, Framing]:
    return normalise(torch.from_numpy(np.array(picture)).permute(2, 0, 1)), WHOLE


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Twenty-four pictures of coloured blobs."""
    coarse = torch.rand(24, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def classifier(pictures: Tensor) -> Classifier:
    """An untrained network that yet gives these pictures various answers, none of them certain."""
    torch.manual_seed(0)
    network = Cifar10Net().eval()
    with torch.no_grad():
        network.head.bias -= network(normalise(pictures)).mean(0)
    return Classifier(network, CLASSES, lambda picture: preprocess(picture.resize((32, 32))))


@pytest.fixture(scope="module")
def split(pictures: Tensor, classifier: Classifier) -> Split:
    """Two of three answers are called right."""
    with torch.no_grad():
        answers = classifier.model(normalise(pictures)).argmax(1)
    return pictures, torch.where(torch.arange(24) % 3 == 0, (answers + 1) % 10, answers)


@pytest.fixture(scope="module")
def measured(classifier: Classifier, split: Split) -> Evidence:
    return measure(classifier, split, seed=5)


def maps(count: int, seed: int) -> Tensor:
    return torch.randn(count, 8, 8, generator=torch.Generator().manual_seed(seed))


def slow_highest(values: np.ndarray, count: int) -> np.ndarray:
    """The `count` highest of a grid of different values, one after the other."""
    values, chosen = values.copy(), np.zeros(values.shape, bool)
    for _ in range(count):
        place = np.unravel_index(np.argmax(values), values.shape)
        chosen[place], values[place] = True, -np.inf
    return chosen


def test_maps_are_enlarged_as_they_are_shown() -> None:
    for small, large in zip(maps(5, 0), enlarge(maps(5, 0), (32, 32)), strict=True):
        np.testing.assert_allclose(large, render.enlarge(small.numpy(), WHOLE), atol=1e-6)


@pytest.mark.parametrize(("share", "count"), [(0.1, 102), (0.2, 205), (1.0, 1024)])
def test_the_highest_pixels_are_chosen(share: float, count: int) -> None:
    values = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    for grid, chosen in zip(values, highest(values, share), strict=True):
        np.testing.assert_array_equal(chosen, slow_highest(grid.numpy(), count))


def test_concentration_is_the_share_of_the_top_tenth() -> None:
    large = enlarge(maps(6, 2).relu(), (32, 32))
    for grid, share in zip(large.tolist(), concentration(large).tolist(), strict=True):
        values = sorted((value for row in grid for value in row), reverse=True)
        assert share == pytest.approx(sum(values[:102]) / sum(values), abs=1e-6)


def test_concentration_goes_from_a_tenth_to_one_and_says_when_there_is_nothing() -> None:
    same, point, nothing = torch.ones(32, 32), torch.zeros(32, 32), torch.zeros(32, 32)
    point[20, 3] = 7.0
    shares = concentration(torch.stack([same, point, nothing])).tolist()
    assert shares[:2] == pytest.approx([102 / 1024, 1.0])
    assert math.isnan(shares[2])


@pytest.mark.parametrize("count", [2, 3, 100])
def test_every_picture_gets_another_ones_region(count: int) -> None:
    order = another(count, torch.Generator().manual_seed(3))
    assert sorted(order.tolist()) == list(range(count))
    assert all(i != other for i, other in enumerate(order.tolist()))


def slow_answer(network: torch.nn.Module, picture: Tensor, deleted: np.ndarray) -> int:
    """The best class of one picture whose deleted pixels have, one by one, been given the mean colour."""
    shown = picture.double() / 255
    for y in range(32):
        for x in range(32):
            if deleted[y, x]:
                shown[:, y, x] = torch.tensor(MEAN, dtype=torch.float64)
    with torch.no_grad():
        return int(network(normalise(shown * 255)[None]).argmax())


def test_deleted_pixels_take_the_mean_colour(
    pictures: Tensor, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradcam.cifar10.evaluation.BATCH", 10)
    monkeypatch.setattr(evidence, "BATCH", 10)
    deleted = torch.rand(24, 32, 32, generator=torch.Generator().manual_seed(4)) < 0.3
    expected = [
        slow_answer(classifier.model, picture, mask.numpy()) for picture, mask in zip(pictures, deleted, strict=True)
    ]
    assert answers_without(deleted, pictures, classifier.model).tolist() == expected
    assert len(set(expected)) > 2


@pytest.mark.parametrize(("name", "sign"), [("most evidence", 1), ("least evidence", -1)])
def test_what_is_deleted_is_the_evidence_for_the_answer(
    classifier: Classifier, split: Split, measured: Evidence, name: str, sign: int
) -> None:
    explainer = Explainer(classifier.model, layer="stage3")
    flips, expected = measured.flips[name].tolist(), []
    for picture, label in zip(*split, strict=True):
        explanation = explainer(normalise(picture)[None])
        large = render.enlarge(explanation.signed[0, 0].numpy(), WHOLE)
        # Equal values, at the rim where the enlarged map is flat, are taken as `highest` takes them.
        deleted = highest(torch.from_numpy(sign * large)[None], 0.2)[0].numpy()
        right = int(explanation.classes[0, 0]) == label
        expected.append(right and slow_answer(classifier.model, picture, deleted) != label)
    assert flips == expected
    assert 0 < sum(expected) < 16


@pytest.mark.parametrize("name", ["another's", "random map", "random pixels"])
def test_what_is_deleted_for_comparison_is_drawn_with_the_seed(
    classifier: Classifier, split: Split, measured: Evidence, name: str
) -> None:
    pictures, labels = (part[measured.right] for part in split)
    signed = Explainer(classifier.model, layer="stage3")(normalise(pictures)).signed[:, 0]
    generator = torch.Generator().manual_seed(5)
    order = another(16, generator)
    noise, pixels = torch.rand(16, 8, 8, generator=generator), torch.rand(16, 32, 32, generator=generator)
    deleted = {
        "another's": highest(enlarge(signed, (32, 32)), 0.2)[order],
        "random map": highest(enlarge(noise, (32, 32)), 0.2),
        "random pixels": highest(pixels, 0.2),
    }[name]
    assert deleted.sum((1, 2)).tolist() == [205] * 16
    expected = [
        slow_answer(classifier.model, picture, mask.numpy()) != label
        for picture, mask, label in zip(pictures, deleted, labels, strict=True)
    ]
    assert measured.flips[name][measured.right].tolist() == expected
    assert not measured.flips[name][~measured.right].any()


def test_concentration_is_measured_on_the_map_of_the_answer(
    classifier: Classifier, split: Split, measured: Evidence
) -> None:
    explanation = Explainer(classifier.model, layer="stage3")(normalise(split[0]))
    torch.testing.assert_close(measured.logits, explanation.logits, rtol=0, atol=1e-5)
    large = torch.stack([torch.from_numpy(render.enlarge(grid.numpy(), WHOLE)) for grid in explanation.maps[:, 0]])
    torch.testing.assert_close(measured.concentration, concentration(large), rtol=0, atol=1e-5, equal_nan=True)


def test_pictures_of_which_none_is_recognised_are_told(classifier: Classifier, split: Split) -> None:
    wrong = [0, 3, 6]
    with pytest.raises(DataError, match=r"^None of the 3 pictures is recognised"):
        measure(classifier, (split[0][wrong], split[1][wrong]))


@pytest.fixture
def by_hand() -> Evidence:
    """Two deer, of which one is taken for a ship, and two ships; one ship has no positive evidence."""
    labels, answers = torch.tensor([4, 4, 8, 8]), torch.tensor([4, 8, 8, 8])
    flips = {"most evidence": torch.tensor([True, False, True, False]), "random pixels": torch.zeros(4).bool()}
    shares = torch.tensor([0.5, 0.25, 0.125, torch.nan])
    return Evidence(labels, torch.nn.functional.one_hot(answers, 10).float(), shares, flips)


def rows(table: str) -> dict[str, list[str]]:
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in cells}


def test_the_tables_have_a_row_a_class_and_one_for_all(by_hand: Evidence) -> None:
    table = rows(by_hand.concentration_table())
    assert list(table) == ["True class", "---", *CLASSES, "all"]
    assert table["True class"] == ["Right", "Wrong", "n right", "n wrong"]
    assert table["deer"] == ["50.0%", "25.0%", "1", "1"]
    assert table["ship"] == ["12.5%", "–", "2", "0"]
    assert table["cat"] == ["–", "–", "0", "0"]
    assert table["all"] == ["31.2%", "25.0%", "3", "1"]

    table = rows(by_hand.flips_table())
    assert table["True class"] == ["most evidence", "random pixels", "n"]
    assert table["deer"] == ["100.0%", "0.0%", "1"]
    assert table["ship"] == ["50.0%", "0.0%", "2"]
    assert table["all"] == ["66.7%", "0.0%", "3"]
