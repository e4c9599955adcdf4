"""logits.py: what a network may return, and every way of naming classes."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcam.logits import (
    NO_RIVAL,
    choose_classes,
    choose_rivals,
    class_count,
    logits_of,
    per_class,
    probabilities,
    score_weights,
)
from gradcam.logits import Output as Ending

LOGITS = torch.tensor([[0.5, 3.0, -1.0, 2.0], [1.0, -2.0, 4.0, 0.0]])
SINGLE = torch.tensor([[1.5], [-0.5]])
AUXILIARY = torch.zeros(2, 7, 3)


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        LOGITS[:, :, None, None],
        (LOGITS, torch.zeros(2, 4)),
        (torch.tensor(0.7), LOGITS),
        (torch.zeros(2), LOGITS),
        [AUXILIARY, LOGITS],
        (None, LOGITS),
        {"features": torch.zeros(2, 9), "logits": LOGITS},
        OrderedDict(out=LOGITS, aux=torch.zeros(2, 4)),
        Output(LOGITS, loss=torch.tensor(0.3)),
    ],
    ids=[
        "tensor",
        "1x1 grid",
        "tuple",
        "loss first",
        "numbers first",
        "list",
        "tuple with None",
        "logits key",
        "mapping",
        "dataclass",
    ],
)
def test_logits_are_found_in_any_output(output: Any):
    assert logits_of(output, batch=2).equal(LOGITS)


def test_what_comes_first_is_the_same_for_one_picture():
    """A loss before the logits is no logit, although one picture has as many numbers."""
    for first in (torch.tensor(0.7), torch.zeros(1), torch.zeros(4)):
        assert logits_of((first, LOGITS[:1]), batch=1).equal(LOGITS[:1])


def test_of_two_that_could_be_the_logits_none_is_guessed():
    for output in ((torch.zeros(2, 9), LOGITS), {"features": torch.zeros(2, 9), "out": LOGITS}):
        with pytest.raises(ValueError, match=r"with shapes \[\(2, 9\), \(2, 4\)\]; expected one row of logits"):
            logits_of(output, batch=2)


def test_one_number_a_picture_is_a_single_logit():
    assert logits_of(SINGLE[:, 0], batch=2).equal(SINGLE)
    assert logits_of(SINGLE[:1, 0], batch=1).equal(SINGLE[:1])


@pytest.mark.parametrize(
    "output",
    [
        torch.zeros(2, 4, 7, 7),
        torch.zeros(3, 4),
        torch.zeros(3),
        torch.zeros(2, 4, dtype=torch.int64),
        (),
        {},
        None,
        "cat",
    ],
    ids=["segmentation", "other batch", "other length", "indices", "empty tuple", "empty dict", "None", "text"],
)
def test_an_output_without_logits_is_an_error_that_shows_it(output: Any):
    with pytest.raises(ValueError, match=rf"returned {type(output).__name__} with shapes .* shape \(2, N\)") as error:
        logits_of(output, batch=2)
    if isinstance(output, Tensor):
        assert str(tuple(output.shape)) in str(error.value)


def test_a_single_logit_tells_two_classes_apart():
    assert class_count(SINGLE) == 2
    assert class_count(LOGITS) == 4
    assert per_class(SINGLE).tolist() == [[-1.5, 1.5], [0.5, -0.5]]
    assert per_class(LOGITS) is LOGITS


def test_probabilities():
    for row, chances in zip(LOGITS, probabilities(LOGITS), strict=True):
        powers = [2.718281828459045**y for y in row.tolist()]
        assert chances.tolist() == pytest.approx([power / sum(powers) for power in powers], rel=1e-5)
    yes = [1 / (1 + 2.718281828459045**-y) for y in (1.5, -0.5)]
    assert probabilities(SINGLE)[:, 1].tolist() == pytest.approx(yes)
    assert probabilities(SINGLE)[:, 0].tolist() == pytest.approx([1 - p for p in yes])
    half = probabilities(torch.tensor([[0.0, 1000.0]], dtype=torch.float16))
    assert half.dtype == torch.float32
    assert half.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (None, [[1], [2]]),
        (3, [[3], [3]]),
        (torch.tensor(3), [[3], [3]]),
        ([0, 3], [[0], [3]]),
        ((0, 3), [[0], [3]]),
        (torch.tensor([0, 3], dtype=torch.uint8), [[0], [3]]),
        ([[0, 3], [2, 2]], [[0, 3], [2, 2]]),
        (torch.tensor([[1, 0, 2], [3, 3, 0]], dtype=torch.int32), [[1, 0, 2], [3, 3, 0]]),
        ("top1", [[1], [2]]),
        ("top3", [[1, 3, 0], [2, 0, 3]]),
        ("top99", [[1, 3, 0, 2], [2, 0, 3, 1]]),
    ],
    ids=str,
)
def test_classes(classes: Any, expected: list[list[int]]):
    chosen = choose_classes(LOGITS, classes)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == expected


def test_classes_of_a_single_logit():
    assert choose_classes(SINGLE, None).tolist() == [[1], [0]]
    assert choose_classes(SINGLE, "top5").tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="class 2 does not exist: the network has classes 0 to 1"):
        choose_classes(SINGLE, 2)


def test_the_choice_is_a_copy():
    classes = torch.tensor([[1, 2], [0, 3]])
    chosen = choose_classes(LOGITS, classes)
    classes.zero_()
    assert chosen.tolist() == [[1, 2], [0, 3]]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (4, "class 4 does not exist: the network has classes 0 to 3"),
        (-1, "class -1 does not exist"),
        ([0, 9], "class 9 does not exist"),
        ([0, 1, 2], r"shape \(3,\) for 2 pictures; expected one index, a sequence of 2 indices"),
        (torch.zeros(1, 5, dtype=torch.int64), r"shape \(1, 5\) for 2 pictures"),
        (torch.zeros(2, 1, 1, dtype=torch.int64), r"shape \(2, 1, 1\)"),
        (1.0, "torch.float32; expected whole numbers"),
        (True, "torch.bool; expected whole numbers"),
        (1j, "complex64; expected whole numbers"),
        ([], "no classes were given"),
        (torch.zeros(2, 0, dtype=torch.int64), "no classes were given"),
        ([[1], [2, 3]], "not understood"),
        (["cat", "dog"], "not understood"),
        ({}, "not understood"),
        ("cat", "classes='cat' is not understood; give indices, or \"top5\""),
        ("top0", "top0"),
        ("top", "not understood"),
        ("top5 ", "not understood"),
    ],
    ids=str,
)
def test_classes_that_cannot_be_meant(classes: Any, message: str):
    with pytest.raises(ValueError, match=message):
        choose_classes(LOGITS, classes)


@pytest.mark.parametrize(
    ("versus", "expected"),
    [
        (0, [[0, 0], [0, 0]]),
        ([0, 3], [[0, 0], [3, 3]]),
        ([NO_RIVAL, 3], [[NO_RIVAL, NO_RIVAL], [3, 3]]),
        ([[0, NO_RIVAL], [2, 1]], [[0, NO_RIVAL], [2, 1]]),
        (NO_RIVAL, [[NO_RIVAL, NO_RIVAL], [NO_RIVAL, NO_RIVAL]]),
        ("top1", [[1, 1], [2, 2]]),
        ("top2", [[1, 3], [2, 0]]),
    ],
    ids=str,
)
def test_rivals_take_the_shape_of_the_classes(versus: Any, expected: list[list[int]]):
    rivals = choose_rivals(LOGITS, versus, choose_classes(LOGITS, "top2"))
    assert rivals is not None
    assert rivals.tolist() == expected


def test_no_rivals():
    assert choose_rivals(LOGITS, None, choose_classes(LOGITS, 0)) is None


@pytest.mark.parametrize(
    ("versus", "message"),
    [
        (4, "class 4 does not exist"),
        (-2, "class -2 does not exist"),
        ("top3", "versus has 3 classes a picture for 2 classes; expected one, or as many"),
        (0.0, "expected whole numbers"),
        (True, "expected whole numbers"),
        ({}, "not understood"),
    ],
    ids=str,
)
def test_rivals_that_cannot_be_meant(versus: Any, message: str):
    with pytest.raises(ValueError, match=message):
        choose_rivals(LOGITS, versus, choose_classes(LOGITS, "top2"))


def test_scores():
    def score(logits: Tensor, *classes: Tensor) -> Tensor:
        return (score_weights(logits, *classes) * logits[:, None]).sum(dim=2)

    classes = torch.tensor([[1, 0], [2, 2]])
    assert score(LOGITS, classes).tolist() == [[3.0, 0.5], [4.0, 4.0]]
    rivals = torch.tensor([[3, NO_RIVAL], [NO_RIVAL, 1]])
    assert score(LOGITS, classes, rivals).tolist() == [[1.0, 0.5], [4.0, 6.0]]
    assert score(SINGLE, torch.tensor([[1, 0], [1, 0]])).tolist() == [[1.5, -1.5], [-0.5, 0.5]]
    assert score(SINGLE, torch.tensor([[1], [1]]), torch.tensor([[0], [0]])).tolist() == [[3.0], [-1.0]]
    assert score_weights(LOGITS.half(), classes).dtype == torch.float32


@pytest.mark.parametrize(
    ("ending", "likely"),
    [
        (lambda y: y.softmax(1), 0),
        (lambda y: y.sigmoid(), 0),
        (lambda y: (y.softmax(1) + (2 * y).softmax(1)) / 2, 0),
        (lambda y: (y.sigmoid() + (2 * y).sigmoid()) / 2, 0),
        (lambda y: y.softmax(1)[:, :1], 1),
        (lambda y: y.exp() / y.exp().sum(1, keepdim=True), 0),
    ],
    ids=["softmax", "sigmoids", "mean of softmaxes", "mean of sigmoids", "one column", "by hand"],
)
def test_probabilities_of_0_and_1_have_finite_logits_and_gradients(ending: Callable[[Tensor], Tensor], likely: int):
    raw = torch.tensor([[60.0, 0.0, -88.0], [60.0, -20.0, -88.0]], requires_grad=True)
    returned = ending(raw)
    output = Ending.of(returned)
    assert output.logits.isfinite().all()
    assert (output.logits[:, :1] > output.logits[:, 1:]).all()
    assert output.probabilities.argmax(1).tolist() == [likely, likely]
    torch.testing.assert_close(output.probabilities[:, -returned.shape[1] :], returned.detach())
    gradient = output.gradient(torch.ones_like(output.logits), raw)
    assert gradient is not None
    assert gradient.isfinite().all()
