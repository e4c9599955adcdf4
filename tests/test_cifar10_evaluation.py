"""Accuracy, calibration and confusion against loops written from the definitions, and against the real weights."""

import math
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcam import load
from gradcam.cifar10 import evaluation, weights
from gradcam.cifar10.data import Split, read_split
from gradcam.cifar10.evaluation import Evaluation, calibration_error, evaluate
from gradcam.cifar10.network import CLASSES, Cifar10Net, normalise


@pytest.fixture(scope="module")
def answers() -> Evaluation:
    """Seeded logits of 300 pictures, often right; no picture is a truck."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 9, (300,), generator=generator)
    logits, mirrored = torch.randn(2, 300, 10, generator=generator)
    logits[torch.arange(300), labels] += 2
    mirrored[torch.arange(300), labels] += 2
    return Evaluation(labels, logits, mirrored)


def best(scores: list[float]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)


def test_accuracy_is_the_share_of_right_answers(answers: Evaluation) -> None:
    pairs = list(zip(answers.logits.tolist(), answers.labels.tolist(), strict=True))
    assert answers.accuracy == sum(best(scores) == label for scores, label in pairs) / 300
    assert 0.5 < answers.accuracy < 1


def test_flips_average_the_logits_of_a_picture_and_its_mirror_image(answers: Evaluation) -> None:
    both = [
        [(a + b) / 2 for a, b in zip(one, other, strict=True)]
        for one, other in zip(answers.logits.tolist(), answers.mirrored.tolist(), strict=True)
    ]
    right = sum(best(scores) == label for scores, label in zip(both, answers.labels.tolist(), strict=True))
    assert answers.accuracy_flips == right / 300 > answers.accuracy


def test_confusion_counts_the_true_class_by_row(answers: Evaluation) -> None:
    expected = [[0] * 10 for _ in range(10)]
    for scores, label in zip(answers.logits.tolist(), answers.labels.tolist(), strict=True):
        expected[label][best(scores)] += 1
    assert answers.confusion.tolist() == expected


def test_class_accuracy_is_the_share_of_each_class(answers: Evaluation) -> None:
    for index, share in enumerate(answers.class_accuracy.tolist()):
        row = answers.confusion[index].tolist()
        assert math.isnan(share) if index == 9 else share == row[index] / sum(row)


def slow_calibration_error(confidence: list[float], right: list[bool], bins: int) -> float:
    """Guo et al. 2017, eq. 3: sum over bins of |B_m| / n times |acc(B_m) - conf(B_m)|."""
    total = 0.0
    for m in range(1, bins + 1):
        members = [i for i, c in enumerate(confidence) if (m - 1) / bins < c <= m / bins]
        if members:
            accuracy = sum(right[i] for i in members) / len(members)
            mean = sum(confidence[i] for i in members) / len(members)
            total += len(members) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error_follows_the_paper(bins: int) -> None:
    generator = torch.Generator().manual_seed(1)
    confidence = torch.rand(500, generator=generator, dtype=torch.float64)
    right = torch.rand(500, generator=generator) < confidence**2
    expected = slow_calibration_error(confidence.tolist(), right.tolist(), bins)
    assert calibration_error(confidence, right, bins) == pytest.approx(expected, abs=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    confidence = torch.tensor([0.25, 0.3, 1.0], dtype=torch.float64)
    right = torch.tensor([True, False, True])
    assert calibration_error(confidence, right, 4) == pytest.approx((0.75 + 0.3 + 0) / 3)  # three bins, not two


def test_calibration_takes_the_probability_of_the_answer(answers: Evaluation) -> None:
    confidence, right = [], []
    for scores, label in zip(answers.logits.tolist(), answers.labels.tolist(), strict=True):
        confidence.append(math.exp(max(scores)) / sum(map(math.exp, scores)))
        right.append(best(scores) == label)
    expected = slow_calibration_error(confidence, right, 15)
    assert answers.calibration_error == pytest.approx(expected, abs=1e-9)


def test_the_table_says_it_all(answers: Evaluation) -> None:
    lines = str(answers).splitlines()
    assert lines[0].split() == ["Accuracy", f"{answers.accuracy:.2%}", "(300", "pictures)"]
    assert lines[1].split()[-1] == f"{answers.accuracy_flips:.2%}"
    assert lines[2].split()[3] == f"{answers.calibration_error:.2%}"
    assert [line.split()[0] for line in lines[-10:]] == list(CLASSES)
    deer = lines[-10 + CLASSES.index("deer")].split()
    assert deer[1] == f"{answers.class_accuracy[4].item():.2%}"
    assert [int(cell.replace("·", "0")) for cell in deer[2:]] == answers.confusion[4].tolist()
    assert len({len(line) for line in lines[-11:]}) == 1  # the columns stand under their heads


@pytest.fixture(scope="module")
def pictures() -> Split:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (7, 3, 32, 32), generator=generator, dtype=torch.uint8), torch.arange(7)


def test_evaluate_asks_for_every_picture_and_its_mirror_image(pictures: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = Cifar10Net().eval()
    monkeypatch.setattr(evaluation, "BATCH", 3)
    reports: list[tuple[int, int]] = []
    result = evaluate(network, pictures, lambda done, total: reports.append((done, total)))
    assert reports == [(3, 7), (6, 7), (7, 7)]
    assert result.labels is pictures[1]

    def logits(picture: Tensor) -> Tensor:
        with torch.no_grad():
            return network(normalise(picture)[None])[0]

    for i, picture in enumerate(pictures[0]):
        mirror = torch.stack([picture[:, :, 31 - column] for column in range(32)], dim=2)
        torch.testing.assert_close(result.logits[i], logits(picture), rtol=0, atol=1e-5)
        torch.testing.assert_close(result.mirrored[i], logits(mirror), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def row() -> dict[str, Any]:
    """The manifest's row of the real weights."""
    row = weights.manifest().get("cifar10")
    if row is None:
        pytest.skip("the weights of cifar10 are not there yet")
    return row


@pytest.fixture(scope="module")
def held_out(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Split:
    """The first thirty test pictures of each class."""
    folder = tmp_path_factory.mktemp("cifar10")
    wanted = {f"test/{name}/{number:04}.jpg" for name in CLASSES for number in range(30)}
    with tarfile.open(shared_data / "cifar10-jpeg.tar.xz") as tar:
        tar.extractall(folder, [member for member in tar if member.name in wanted], filter="data")
    return read_split("test", folder)


def test_the_real_weights_are_as_good_as_their_manifest_says(row: dict[str, Any], held_out: Split) -> None:
    assert row["pictures"] == 10_000
    result = evaluate(load("cifar10", device="cpu").model, held_out)
    deviation = math.sqrt(row["accuracy"] * (1 - row["accuracy"]) / 300)
    assert result.accuracy == pytest.approx(row["accuracy"], abs=4 * deviation)
    assert result.confusion.sum(1).tolist() == [30] * 10
    assert result.class_accuracy.min() > 0.7
