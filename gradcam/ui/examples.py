"""Pictures to start with: photographs, and for our CIFAR-10 network pictures of its test set."""

import filecmp
import shutil
import weakref
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..cifar10.data import DataError, read_split
from ..cifar10.evaluation import batches
from ..cifar10.figures import first_of_each, most_confident
from ..cifar10.network import CLASSES
from .models import Models

NETWORK = "cifar10"
EVERY = 40  # one in so many test pictures is looked at: 250, in half a second
MOST = 4  # of those recognised, and of those that are not


class Example(NamedTuple):
    """A picture to start with. truth: its class, where a data set says so. kind: those of one are shown together."""

    path: Path
    truth: str = ""
    kind: str = ""


class Examples:
    """Photographs, and CIFAR-10's test pictures where that is on this machine.

    data: a folder with `test/<class>/*` pictures, read now and never again: what is wrong with it is for the owner to
    know, and no visitor. None for torchvision's download. Raises DataError.
    """

    def __init__(self, photographs: list[Path], models: Models, data: Path | None = None) -> None:
        self.photographs = [Example(path) for path in photographs]
        self._models = models
        self._split = read_split("test", data, EVERY) if data else None
        self._tests: list[Example] = []
        self._lock = Lock()
        self._folder = Path(mkdtemp(prefix="gradcam-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    @property
    def all(self) -> list[Example]:
        """Those known so far."""
        return [*self.photographs, *self._tests]

    def belong_to(self, model: str) -> bool:
        """Whether CIFAR-10's test pictures are those of the model of that name: our own, and none that is called so."""
        return model == NETWORK and not self._models.is_own(model)

    def tests(self, download: bool = False) -> list[Example]:
        """CIFAR-10's test pictures of which our network is surest, rightly and wrongly; at most one a class of each.

        Empty where the data set is not on this machine and is not to be downloaded. Raises DataError, ModelError.
        """
        with self._lock:
            if not self._tests:
                try:
                    pictures, labels = self._split or read_split("test", None, EVERY, download)
                except DataError:
                    if download:
                        raise
                    return []
                network = self._models.get(NETWORK).classifier.model
                with torch.inference_mode():
                    logits = torch.cat([network(batch).cpu() for batch in batches(network, pictures)])
                confidence, answers = logits.softmax(1).max(1)
                right = first_of_each(most_confident(confidence, answers == labels), labels)[:MOST]
                wrong = first_of_each(most_confident(confidence, answers != labels), labels)[:MOST]
                self._tests = [
                    self._example(pictures[i], EVERY * i, CLASSES[labels[i]], kind)
                    for kind, chosen in (("Test pictures, recognised", right), ("Test pictures, mistaken", wrong))
                    for i in chosen
                ]
            return self._tests

    def _example(self, pixels: Tensor, number: int, truth: str, kind: str) -> Example:
        path = self._folder / f"{truth}-{number}.png"
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
        return Example(path, truth, kind)

    def find(self, picture: Path) -> Example | None:
        """The example that a visitor's picture is a copy of."""
        if not picture.exists():  # a copy on a page that was left open until it was deleted
            return None
        return next((one for one in self.all if one.path.name == picture.name and filecmp.cmp(one.path, picture)), None)

    def truth(self, picture: Path) -> str:
        """The class of a visitor's picture, where it is known."""
        example = self.find(picture)
        return example.truth if example else ""
