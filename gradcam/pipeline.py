"""A picture and a classifier -> the classes it believes in, and where the evidence for each is."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from . import render
from .classifiers import Classifier
from .explainer import Explainer, ForwardPass
from .images import read
from .logits import NO_RIVAL, choose_classes
from .targets import Target

Picture = str | Path | bytes | Image.Image | NDArray[Any]
Class = str | int
Question = Class | tuple[Class, Class]  # a class; or (class, rival): why this rather than that
Asked = tuple[int, int]  # (class, rival) by index; NO_RIVAL when there is none

MOST_KEPT = 64  # maps of one picture


@dataclass(frozen=True)
class Prediction:
    """A class the network believes in, with its probability in 0..1."""

    index: int
    label: str
    probability: float


class Inspection:
    """One picture seen by one classifier in one forward pass, held so that class after class can be asked for.

    picture: RGB, upright. framing: the box of it that the network saw. target: where the evidence is read.
    probabilities: (N,) float32, in the order of `classifier.labels`.
    """

    def __init__(self, picture: Picture, classifier: Classifier, layer: str | None = None) -> None:
        """Read the picture and run the network. Raises PictureError, TargetError."""
        if not isinstance(classifier, Classifier):
            raise ValueError(
                f"the classifier is a {type(classifier).__name__}; give load(name), or Classifier(model) for a network "
                "of your own."
            )
        self.picture = read(picture)
        self.classifier = classifier
        tensor, self.framing = classifier.preprocess(self.picture)
        self._forward = self._run(classifier.as_batch(tensor), layer)
        self.target: Target = self._forward.target
        self.probabilities: NDArray[np.float32] = self._forward.probabilities[0].cpu().numpy()
        self._kept: dict[tuple[str, Asked], NDArray[np.float32]] = {}

    @property
    def device(self) -> torch.device:
        """Where the network ran."""
        return self._forward.logits.device

    def _run(self, batch: torch.Tensor, layer: str | None) -> ForwardPass:
        return explainer_of(self.classifier, layer).forward(batch)

    def top(self, count: int = 5) -> list[Prediction]:
        """The `count` classes the network believes in most, best first; all of them when there are fewer."""
        best = choose_classes(self._forward.logits, f"top{count}")[0].tolist()
        return [self.prediction(index) for index in best]

    def prediction(self, class_: Class) -> Prediction:
        """What the network says of one class. Raises ModelError for an unknown one."""
        index = self.classifier.index(class_)
        return Prediction(index, self.classifier.labels[index], float(self.probabilities[index]))

    def explain(self, classes: list[Question] | Question | None = None, method: str = "gradcam") -> "Result":
        """Where the evidence is, without another forward pass; arguments and errors as for `explain`.

        Of what was asked before, the maps are still there; a new class costs a backward pass down to the target.
        """
        asked = tuple(dict.fromkeys(self._asked(classes)))
        if not asked:
            raise ValueError("no classes were asked for; give at least one, or None for the best.")
        if len(self._kept) > MOST_KEPT:
            self._kept = {}
        kept = self._kept  # another thread may start anew
        if new := [one for one in asked if (method, one) not in kept]:
            wanted, rivals = (
                torch.tensor([column], device=self._forward.logits.device) for column in zip(*new, strict=True)
            )
            signed = self._forward.explain(wanted, rivals, method).signed[0].cpu().numpy()
            kept.update(zip([(method, one) for one in new], signed, strict=True))
        return Result(self, method, asked, np.stack([kept[method, one] for one in asked]))

    def index(self, question: Question) -> Asked:
        """(class, rival) of a question, by index. Raises ModelError for an unknown class."""
        if isinstance(question, tuple):
            if len(question) != 2:
                raise ValueError(f"{question!r} is no (class, rival) pair; give several classes as a list.")
            class_, rival = question
            return self.classifier.index(class_), self.classifier.index(rival)
        return self.classifier.index(question), NO_RIVAL

    def _asked(self, classes: list[Question] | Question | None) -> list[Asked]:
        if classes is None:
            classes = "top1"
        if isinstance(classes, str) and (best := re.fullmatch(r"top(\d{1,9})", classes)):
            return [(prediction.index, NO_RIVAL) for prediction in self.top(int(best[1]))]
        one = isinstance(classes, tuple | str | bytes | Mapping) or getattr(classes, "ndim", 1) == 0
        several = isinstance(classes, Iterable) and not one
        questions: list[Any] = list(classes) if several else [classes]  # type: ignore[arg-type]
        return [self.index(question) for question in questions]


@dataclass(frozen=True, eq=False)
class Result:
    """Maps of one picture for the questions asked, on one scale.

    inspection: the picture and what the network says of it. method: a key of METHODS. asked: (class, rival) by index,
    one a map. signed: (K, h, w) float32 maps before the ReLU.
    """

    inspection: Inspection
    method: str
    asked: tuple[Asked, ...]
    signed: NDArray[np.float32]

    def map(self, question: Question) -> NDArray[np.float32]:
        """(h, w) float32: the evidence for a class, ReLU applied, not normalised. Raises ValueError if not asked."""
        asked = self.inspection.index(question)
        if asked not in self.asked:
            known = ", ".join(self.title(other) for other in self.asked)
            raise ValueError(f"{self.title(asked)} was not asked for; this result explains {known}.")
        return self.signed[self.asked.index(asked)].clip(min=0)

    @property
    def full(self) -> float:
        """The value shown at full strength: the highest of all maps, so that they can be compared; 0 without evidence.

        Values that are not finite do not count: their own map cannot be shown, but the others can.
        """
        return float(self.signed.max(initial=0, where=np.isfinite(self.signed)))

    def title(self, asked: Asked) -> str:
        """The class's name, or "class, not rival"."""
        labels = self.inspection.classifier.labels
        class_, rival = asked
        return labels[class_] if rival == NO_RIVAL else f"{labels[class_]}, not {labels[rival]}"

    def overlay(self, question: Question, **style: Any) -> Image.Image:
        """The map over the picture, at the picture's own size; `style` as for `render.overlay`."""
        saliency, style = self.map(question), {"full": self.full} | style
        return render.overlay(self.inspection.picture, saliency, self.inspection.framing, **style)

    def heatmap(self, question: Question, **style: Any) -> Image.Image:
        """The map alone, at the picture's own size; `style` as for `render.heatmap`."""
        return render.heatmap(self.map(question), self.inspection.framing, **({"full": self.full} | style))

    def strip(self, **style: Any) -> Image.Image:
        """The picture and every map side by side, with names and probabilities; `style` as for `render.strip`."""
        titles = [
            self.title(asked) + ("" if asked[1] != NO_RIVAL else f"\n{self.inspection.probabilities[asked[0]]:.1%}")
            for asked in self.asked
        ]
        return render.strip(self.inspection.picture, list(self.signed), titles, self.inspection.framing, **style)


def explain(
    picture: Picture,
    classifier: Classifier,
    classes: list[Question] | Question | None = None,
    method: str = "gradcam",
    layer: str | None = None,
) -> Result:
    """Explain why `classifier` sees what it sees in `picture`, in one forward pass.

    picture: a path, the bytes of a picture file, a pillow picture or an array (see `images.read`). classes: a class
    by name or index; a (class, rival) pair, which asks why this class *rather than* that; a list of such; "top5"
    (any number); None for the best class. method: a key of METHODS. layer: a module's name; found when None.

    Raises PictureError, ModelError (an unknown class), TargetError, ValueError (an unknown method).
    """
    return Inspection(picture, classifier, layer).explain(classes, method)


_explainers: WeakKeyDictionary[Classifier, tuple[dict[str | None, Explainer], Lock]] = WeakKeyDictionary()
_explainers_lock = Lock()


def explainer_of(classifier: Classifier, layer: str | None) -> Explainer:
    """One explainer for each classifier and layer, so that the target is searched for once."""
    with _explainers_lock:
        mine, searching = _explainers.setdefault(classifier, ({}, Lock()))
    if layer not in mine:
        with searching:  # what has been found is not waited for
            if layer not in mine:
                mine[layer] = Explainer(classifier.model, layer, input_size=classifier.input_size)
    return mine[layer]
