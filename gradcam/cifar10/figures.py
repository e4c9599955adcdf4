"""The figures and numbers of docs/cifar10.md: what the network looks at when it is right, and what misled it."""

from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .. import render
from ..classifiers import Classifier
from ..files import replacing
from ..pipeline import Inspection, Result
from .data import DataError, Split
from .evaluation import Report
from .evidence import DELETED, TOP, Evidence, measure
from .network import CLASSES
from .weights import hardware, versions

SHOWN = ("deer", "ship")  # the classes of the figure of right answers
RIGHT, WRONG = 3, 6  # pictures shown: right answers of each class, and wrong answers in all
SIDE, GAP, TEXT, LINE = 256, 16, 17, 23  # of a panel, between panels, of letters and of a line of them, in pixels
OPACITY = 0.55  # lets the squares of the picture through, which are all there is to recognise


class Cell(NamedTuple):
    """One cell of a sheet: a picture with two lines above it."""

    title: str
    remark: str
    panel: Image.Image


def draw(
    classifier: Classifier, split: Split, out: Path, command: str, seed: int = 0, report: Report | None = None
) -> list[Path]:
    """Write cifar10-right.png, cifar10-wrong.png and cifar10.md into the folder `out`; return their paths.

    split: the test pictures. command: what was typed to get here. seed: for `evidence.measure`.
    Raises DataError when there is no picture to show, OSError.
    """
    pictures, labels = split
    measured = measure(classifier, split, seed, report)
    confidence, answers = measured.logits.softmax(1).max(1)

    right = []
    for index in map(CLASSES.index, SHOWN):
        chosen = most_confident(confidence, (labels == index) & (answers == index))[:RIGHT]
        right.append([_right(pictures[i], i, classifier) for i in chosen])
    failures = first_of_each(most_confident(confidence, answers != labels), labels)[:WRONG]
    wrong = [_wrong(pictures[i], i, int(answers[i]), int(labels[i]), classifier) for i in failures]
    if not (wrong and all(right)):
        raise DataError(
            f"Among the {len(labels):,} pictures there is no right answer for {' or for '.join(SHOWN)}, or no wrong "
            "answer at all; the figures need the whole test set."
        )

    paths = [out / name for name in ("cifar10-right.png", "cifar10-wrong.png", "cifar10.md")]
    for path, rows in zip(paths, (right, wrong), strict=False):
        with replacing(path) as temporary:
            _sheet(rows).save(temporary, "PNG", optimize=True)
    with replacing(paths[2]) as temporary:
        temporary.write_text(_page(measured, command, hardware(classifier.device), seed), "utf-8")
    return paths


def most_confident(confidence: Tensor, chosen: Tensor) -> list[int]:
    """Indices of the `chosen` (N,) bool pictures, those with the highest `confidence` (N,) first."""
    indices = chosen.nonzero()[:, 0]
    return indices[confidence[indices].argsort(descending=True, stable=True)].tolist()


def first_of_each(indices: list[int], labels: Tensor) -> list[int]:
    """The first of the `indices` of each label, in their order."""
    first: dict[int, int] = {}
    for i in indices:
        first.setdefault(int(labels[i]), i)
    return list(first.values())


def _right(pixels: Tensor, number: int, classifier: Classifier) -> Cell:
    """A picture beside the map of its best class."""
    result = _inspect(pixels, classifier).explain()
    [(answer, _)] = result.asked
    pair = Image.new("RGB", (2 * SIDE + GAP // 4, SIDE), "white")
    pair.paste(_crisp(result), (0, 0))
    pair.paste(_overlay(result, answer), (SIDE + GAP // 4, 0))
    prediction = result.inspection.prediction(answer)
    return Cell(prediction.label, f"{prediction.probability:.1%}, picture {number:,}", pair)


def _wrong(pixels: Tensor, number: int, answer: int, truth: int, classifier: Classifier) -> list[Cell]:
    """A picture and its three maps: of the answer, of the truth, and of the answer rather than the truth."""
    inspection = _inspect(pixels, classifier)
    result = inspection.explain([answer, truth, (answer, truth)])
    said, true = inspection.prediction(answer), inspection.prediction(truth)
    return [
        Cell(true.label, f"picture {number:,}", _crisp(result)),
        Cell(said.label, f"the answer, {said.probability:.1%}", _overlay(result, answer)),
        Cell(true.label, f"the truth, {true.probability:.1%}", _overlay(result, truth)),
        Cell(result.title((answer, truth)), "the difference", _overlay(result, (answer, truth))),
    ]


def _inspect(pixels: Tensor, classifier: Classifier) -> Inspection:
    return Inspection(Image.fromarray(pixels.permute(1, 2, 0).numpy()), classifier)


def _crisp(result: Result) -> Image.Image:
    return render.crisp(result.inspection.picture, result.inspection.framing, SIDE)[0]


def _overlay(result: Result, question: int | tuple[int, int]) -> Image.Image:
    picture, framing = render.crisp(result.inspection.picture, result.inspection.framing, SIDE)
    return render.overlay(picture, result.map(question), framing, full=result.full, opacity=OPACITY)


def _sheet(rows: list[list[Cell]]) -> Image.Image:
    """Cells of one size in rows on white, and the colour bar below."""
    head, panel = 2 * LINE + GAP // 4, rows[0][0].panel
    width, height = panel.width + GAP, head + panel.height + GAP
    sheet = Image.new("RGB", (GAP + width * len(rows[0]), GAP + height * len(rows) + 2 * LINE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            x, y = GAP + column * width, GAP + row * height
            draw.text((x, y), cell.title, render.INK, font)
            draw.text((x, y + LINE), cell.remark, render.PALE, font)
            sheet.paste(cell.panel, (x, y + head))

    render.draw_legend(sheet, (sheet.width - GAP, sheet.height - LINE), (SIDE // 2, TEXT // 2), font)
    return sheet


def _page(measured: Evidence, command: str, machine: str, seed: int) -> str:
    count = len(measured.labels)
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    return f"""# What the CIFAR-10 network looks at

Made by `{command}` on {machine} ({packages}, seed {seed}), over {count:,} test pictures, of
which the network recognises {int(measured.right.sum()):,}. Maps are Grad-CAM's, on the network's last feature map.
Pictures are numbered from 0, in the order in which they are read.

## Right answers

![{RIGHT} pictures each of {" and ".join(SHOWN)}, beside each the evidence for its class](cifar10-right.png)

The {RIGHT} most confident right answers for {" and for ".join(SHOWN)}, each beside the evidence for its class. Every
map has its own scale.

## Confident failures

![{WRONG} wrongly recognised pictures with three maps each](cifar10-wrong.png)

The {WRONG} most confident wrong answers, at most one for each true class. From left to right: the picture; the evidence
for the answer; the evidence for the true class; and where the answer's score gets ahead of the true class's (Grad-CAM
of the difference of the two scores). The three maps of a row come from one forward pass and share one scale.

## How concentrated the evidence is

The share of a map's mass that lies on its top tenth of pixels, on average, for right answers and for wrong ones. The
map is that of the network's answer, enlarged to the picture's pixels. A map that is the same everywhere has {TOP:.0%}.

{measured.concentration_table()}

## Whether the answer hangs on the evidence

The share of right answers that change when {DELETED:.0%} of a picture's pixels are replaced by the mean colour of the
training pictures: those with the most evidence for the answer, and those with the least; for comparison, those with the
most evidence in another picture, drawn at random (regions of the same shapes, also mostly in the middle), and the
highest in a random map with as many cells (regions anywhere); and single pixels drawn at random. The network has seen
both kinds of holes in training, squares and single pixels, so an answer changes for what is missing, not for the hole.

{measured.flips_table()}
"""
