"""How concentrated the evidence is, and whether the answer hangs on it, over a whole set of pictures."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..classifiers import Classifier
from ..explainer import Explainer
from .data import DataError, Split
from .evaluation import BATCH, Report, batches
from .network import CLASSES

TOP = 0.1  # of the pixels; the share of the evidence that lies on them says how concentrated it is
DELETED = 0.2  # of the pixels


@dataclass(frozen=True)
class Evidence:
    """What N labelled pictures' maps have in common, each map being that of its picture's own best class.

    labels: (N,) int64. logits: (N, 10) float32. concentration: (N,) float32, see `concentration`.
    flips: what was deleted -> (N,) bool, whether that changed the answer; False where it was wrong from the start.
    """

    labels: Tensor
    logits: Tensor
    concentration: Tensor
    flips: dict[str, Tensor]

    @property
    def right(self) -> Tensor:
        """(N,) bool: whether the best class is the true one."""
        return self.logits.argmax(1) == self.labels

    def concentration_table(self) -> str:
        """Markdown: by true class, the mean `concentration` of right answers beside that of wrong ones, and n."""

        def row(chosen: Tensor) -> list[str]:
            groups = chosen & self.right, chosen & ~self.right
            means = [self.concentration[group].nanmean().item() for group in groups]
            return [*map(_percent, means), *(f"{int(group.sum()):,}" for group in groups)]

        return self._table(["Right", "Wrong", "n right", "n wrong"], row)

    def flips_table(self) -> str:
        """Markdown: by true class, the share of right answers that each deletion changes, and n."""

        def row(chosen: Tensor) -> list[str]:
            group = chosen & self.right
            shares = [flipped[group].double().mean().item() for flipped in self.flips.values()]
            return [*map(_percent, shares), f"{int(group.sum()):,}"]

        return self._table([*self.flips, "n"], row)

    def _table(self, columns: list[str], row: Callable[[Tensor], list[str]]) -> str:
        lines = [["True class", *columns], ["---", *["---:"] * len(columns)]]
        lines += [[name, *row(self.labels == index)] for index, name in enumerate(CLASSES)]
        lines.append([f"**{cell}**" for cell in ["all", *row(torch.ones_like(self.right))]])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measure(classifier: Classifier, split: Split, seed: int = 0, report: Report | None = None) -> Evidence:
    """Explain every picture of `split`, and delete a DELETED share of the pixels of each that is rightly recognised.

    What is deleted takes the mean colour of the training set. The keys of `flips` say what that is:

    - "most evidence": the highest values of the picture's own map, enlarged;
    - "least evidence": the lowest (both before the ReLU, so that there are always enough);
    - "another's": what "most evidence" is in another rightly recognised picture, drawn at random: regions of the same
      shapes and as often in the middle;
    - "random map": the highest values of a map of noise with as many cells, enlarged: random regions as fine as a map;
    - "random pixels": pixels drawn one by one.

    One forward pass over all pictures, and one over the rightly recognised for each key. `seed` decides what is drawn.
    Raises DataError when there are none.
    """
    pictures, labels = split
    size = (pictures.shape[2], pictures.shape[3])
    explainer = Explainer(classifier.model, input_size=classifier.input_size)
    explanations = [explainer(batch) for batch in batches(classifier.model, pictures, report)]
    logits = torch.cat([explanation.logits for explanation in explanations]).cpu()
    signed = torch.cat([explanation.signed[:, 0] for explanation in explanations]).cpu()

    right = logits.argmax(1) == labels
    if not right.any():
        raise DataError(f"None of the {len(labels):,} pictures is recognised, so nothing can be deleted from them.")
    generator = torch.Generator().manual_seed(seed)
    maps = signed[right]
    most = highest(enlarge(maps, size), DELETED)
    deletions = {
        "most evidence": most,
        "least evidence": highest(enlarge(-maps, size), DELETED),
        "another's": most[another(len(most), generator)],
        "random map": highest(enlarge(torch.rand(maps.shape, generator=generator), size), DELETED),
        "random pixels": highest(torch.rand(most.shape, generator=generator), DELETED),
    }
    flips = {}
    for name, deleted in deletions.items():
        answers = answers_without(deleted, pictures[right], classifier.model, report)
        flips[name] = torch.zeros_like(right).masked_scatter(right, answers != labels[right])
    return Evidence(labels, logits, concentration(enlarge(signed.relu(), size)), flips)


def another(count: int, generator: torch.Generator) -> Tensor:
    """(count,) int64: for each of `count` pictures a different one, all of them once, at random."""
    cycle = torch.randperm(count, generator=generator)
    return torch.empty_like(cycle).index_copy(0, cycle, cycle.roll(1))


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w) -> (N, H, W), as `render.enlarge` does for maps of whole pictures."""
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def highest(values: Tensor, share: float) -> Tensor:
    """(N, H, W) -> the same of bool: the `share` of each picture's pixels that have the highest values."""
    flat = values.flatten(1)
    chosen = flat.topk(round(share * flat.shape[1])).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view_as(values)


def concentration(maps: Tensor) -> Tensor:
    """(N, H, W) enlarged maps after the ReLU -> (N,): the share of the map's mass on the TOP of its pixels.

    From about TOP (the map is the same everywhere) to 1; NaN for a map that is 0 everywhere.
    """
    return (maps * highest(maps, TOP)).sum((1, 2)) / maps.sum((1, 2))


def answers_without(deleted: Tensor, pictures: Tensor, network: nn.Module, report: Report | None = None) -> Tensor:
    """The (N,) best classes of `pictures` when `deleted` (N, H, W) bool pixels take the training set's mean colour."""
    answers = []
    for batch, mask in zip(batches(network, pictures, report), deleted.split(BATCH), strict=True):
        with torch.inference_mode():
            blanked = batch.masked_fill(mask[:, None].to(batch.device), 0.0)  # the mean colour, once normalised
            answers.append(network(blanked).argmax(1).cpu())
    return torch.cat(answers)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.1%}"
