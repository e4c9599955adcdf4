"""ZeroGPU: Hugging Face lends a GPU for one call at a time, to a fork of the server.

Nothing that a call leaves in the fork's memory is seen in the server: what it takes and returns is pickled, and each
question runs the network anew. The server itself uses neither CUDA nor autograd, which its forks could then not use.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..classifiers import Classifier, choose_device
from ..explainer import Explanation, ForwardPass
from ..pipeline import Inspection, explainer_of
from ..targets import Target, TargetError, find_stages
from .models import Loaded

SECONDS = 20  # the longest that a call may take: who asks for less waits less, and needs less of a visitor's quota

Floats = NDArray[np.float32]
Answer = tuple[Floats, Floats, Target, Floats | None]  # logits, probabilities, target, signed maps


class Lender:
    """Where the networks of a ZeroGPU Space run. Classifiers come before the page is served, and on the CPU."""

    def __init__(self) -> None:
        import spaces

        self._classifiers: dict[str, Classifier] = {}
        self._lent = spaces.GPU(self._work, duration=SECONDS)

    def __call__(self, classifier: Classifier) -> Loaded:
        """Take in a classifier."""
        self._classifiers[classifier.name] = classifier
        return Lent(classifier, partial(self._call, classifier.name))

    def _call(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        answer = self._lent(name, work, *arguments)
        if isinstance(answer, TargetError):
            raise answer
        return answer

    def _work(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """In the fork: work(classifier, *arguments)."""
        classifier = self._classifiers[name]
        classifier.model.to(choose_device(None))
        try:
            return work(classifier, *arguments)
        except TargetError as error:
            return error  # raised, it would come back as another one without its sentence


class Lent(Loaded):
    """A classifier whose network runs on lent GPUs, through `call`."""

    def __init__(self, classifier: Classifier, call: Callable[..., Any]) -> None:
        super().__init__(classifier)
        self._call = call

    def inspect(self, picture: Path, layer: str | None) -> Inspection:
        """Run the network."""
        return LentInspection(picture, self.classifier, layer, self._call)

    def find_stages(self) -> list[Target]:
        """The layer on each grid that a picture passes through, the largest first."""
        stages: list[Target] = self._call(_stages)
        return stages


class LentInspection(Inspection):
    """One picture seen by one classifier on a lent GPU."""

    def __init__(self, picture: Path, classifier: Classifier, layer: str | None, call: Callable[..., Any]) -> None:
        self._call = call
        super().__init__(picture, classifier, layer)

    @property
    def device(self) -> torch.device:
        """Where the network ran."""
        return torch.device("cuda")

    def _run(self, batch: Tensor, layer: str | None) -> ForwardPass:
        return LentPass(partial(self._call, _pass, batch.float().numpy(), layer))


class LentPass(ForwardPass):
    """A pass that went with its fork; what it said of the picture stays."""

    def __init__(self, run: Callable[..., Answer]) -> None:
        logits, probabilities, self.target, _ = run()
        self._run, self.logits, self.probabilities = run, torch.from_numpy(logits), torch.from_numpy(probabilities)

    def explain(self, classes: Any = None, versus: Any = None, method: str = "gradcam") -> Explanation:
        """Explain `classes`, tensors as from `Inspection`, at the cost of another pass."""
        *_, signed = self._run(classes.tolist(), versus.tolist(), method)
        return Explanation(self.logits, classes, torch.from_numpy(signed), self.target)


def _pass(classifier: Classifier, images: NDArray[np.float32], layer: str | None, *question: Any) -> Answer:
    """In the fork: look at `images` (1, 3, H, W), and explain the classes of a question (classes, rivals, method)."""
    forward = explainer_of(classifier, layer).forward(classifier.as_batch(*torch.from_numpy(images)))
    signed = None
    if question:
        classes, rivals = (torch.tensor(indices, device=forward.logits.device) for indices in question[:2])
        signed = forward.explain(classes, rivals, question[2]).signed.cpu().numpy()
    logits, probabilities = (told.float().cpu().numpy() for told in (forward.logits, forward.probabilities))
    return logits, probabilities, forward.target, signed


def _stages(classifier: Classifier) -> list[Target]:
    return find_stages(classifier.model, classifier.input_size)
