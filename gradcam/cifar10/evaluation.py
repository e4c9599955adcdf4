"""How often the network is right, on what, and how well it knows: accuracy, calibration and confusion."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .data import Split
from .network import CLASSES, normalise

BATCH = 500  # always the same: the last bits of a logit depend on it
BINS = 15

Report = Callable[[int, int], None]  # of the pictures done, and of all


@dataclass(frozen=True)
class Evaluation:
    """What a network says of N labelled pictures.

    labels: (N,) int64. logits: (N, 10) float32, of the pictures. mirrored: the same of their mirror images.
    """

    labels: Tensor
    logits: Tensor
    mirrored: Tensor

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return _share(self.logits.argmax(1) == self.labels)

    @property
    def accuracy_flips(self) -> float:
        """The share of right answers when a picture's logits and its mirror image's are averaged (test-time flips)."""
        return _share((self.logits + self.mirrored).argmax(1) == self.labels)

    @property
    def confusion(self) -> Tensor:
        """(10, 10) int64: how many pictures of the class of the row were taken for the class of the column."""
        count = len(CLASSES)
        return (self.labels * count + self.logits.argmax(1)).bincount(minlength=count**2).view(count, count)

    @property
    def class_accuracy(self) -> Tensor:
        """(10,) float64: the share of right answers among the pictures of each class; NaN where there are none."""
        return self.confusion.diagonal() / self.confusion.sum(1).double()

    @property
    def calibration_error(self) -> float:
        """How far confidence is from the share of right answers, on average over BINS bins of equal width."""
        confidence, answer = self.logits.double().softmax(1).max(1)
        return calibration_error(confidence, answer == self.labels)

    def __str__(self) -> str:
        """Everything as a table."""
        width = max(map(len, CLASSES))
        lines = [
            f"Accuracy                    {self.accuracy:8.2%}   ({len(self.labels):,} pictures)",
            f"  with test-time flips      {self.accuracy_flips:8.2%}",
            f"Expected calibration error  {self.calibration_error:8.2%}   ({BINS} bins)",
            "",
            "Rows: the true class, its accuracy, and how many of its pictures were taken for each class",
            " " * (width + 10) + "".join(f"{name[:5]:>6}" for name in CLASSES),
        ]
        for name, share, row in zip(CLASSES, self.class_accuracy.tolist(), self.confusion.tolist(), strict=True):
            lines.append(f"{name:{width}}  {share:7.2%} " + "".join(f"{count or '·':>6}" for count in row))
        return "\n".join(lines)


def evaluate(network: nn.Module, split: Split, report: Report | None = None) -> Evaluation:
    """Run `network`, in evaluation mode and on its own device, over the pictures of `split` and their mirror images."""
    pictures, labels = split
    logits, mirrored = [], []
    for batch in batches(network, pictures, report):
        with torch.inference_mode():
            logits.append(network(batch).cpu())
            mirrored.append(network(batch.flip(3)).cpu())
    return Evaluation(labels, torch.cat(logits), torch.cat(mirrored))


def batches(network: nn.Module, pictures: Tensor, report: Report | None = None) -> Iterator[Tensor]:
    """(N, 3, 32, 32) uint8 pictures -> batches of BATCH, normalised and on the network's device, in order."""
    device = next(network.parameters()).device
    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH].to(device)
        yield normalise(batch).contiguous(memory_format=torch.channels_last)
        if report:
            report(start + len(batch), len(pictures))


def calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3), in 0..1.

    confidence: (N,) in 0..1. right: (N,) bool. Bin m of M holds the confidences in ((m - 1) / M, m / M].
    """
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype)[1:-1]
    gaps = confidence.new_zeros(bins).index_add(
        0, torch.bucketize(confidence, edges), right.to(confidence) - confidence
    )
    return gaps.abs().sum().item() / len(confidence)


def _share(right: Tensor) -> float:
    return int(right.sum()) / len(right)
