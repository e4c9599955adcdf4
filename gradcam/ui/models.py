"""The classifiers in memory, and the pictures that each saw last."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from threading import Lock

import torch
from PIL import Image

from ..classifiers import BUNDLED, Classifier, load
from ..errors import ModelError
from ..images import Framing
from ..pipeline import Inspection, Question, Result, explainer_of
from ..render import crisp, shrunk
from ..targets import Target, TargetError, find_stages
from . import markup
from .guard import go_on

MOST_MODELS = 3
MOST_PICTURES = 16  # of each model
MOST_PIXELS = 64_000_000  # of those pictures together: 192 MB
SCREEN, THUMBNAIL = 1024, 128  # pixels: the longer side of a picture on the page


class Seen:
    """One picture seen by one classifier, and what the page shows of it.

    milliseconds: what the forward pass took, with reading the picture.
    """

    def __init__(self, inspect: Callable[[], Inspection]) -> None:
        start = time.perf_counter()
        self.inspection = inspect()
        self.milliseconds = 1000 * (time.perf_counter() - start)

    @cached_property
    def screen(self) -> tuple[Image.Image, Framing]:
        """The picture as large as a screen shows it, and the box of it that the network saw."""
        return crisp(*shrunk(self.inspection.picture, self.inspection.framing, SCREEN))

    @cached_property
    def url(self) -> str:
        """The same picture, ready for the page."""
        return markup.data_url(self.screen[0])

    @cached_property
    def thumbnail(self) -> tuple[Image.Image, Framing]:
        """What the network saw of it, as small as a thumbnail."""
        return shrunk(*_cropped(*self.screen), THUMBNAIL)

    def shown(self, class_: int) -> list[int]:
        """The best five classes, and this one."""
        return list(dict.fromkeys([*(prediction.index for prediction in self.inspection.top()), class_]))

    def explain(self, questions: Sequence[Question], method: str) -> Result:
        """As `Inspection.explain`."""
        go_on()
        return self.inspection.explain(list(questions), method)

    def evidence(self, class_: int, method: str) -> Result:
        """The maps of a class and of the best five, on the scale that they share on the page."""
        return self.explain(self.shown(class_), method)


class Loaded:
    """A classifier, and what it saw last.

    target: where its evidence is read; None when that is not known beforehand.
    """

    def __init__(self, classifier: Classifier, target: Target | None = None) -> None:
        self.classifier, self.target = classifier, target
        self._seen: OrderedDict[tuple[Path, str | None], Seen] = OrderedDict()
        self._stages: list[Target] | None = None
        self._lock, self._finding = Lock(), Lock()

    def inspect(self, picture: Path, layer: str | None) -> Inspection:
        """Run the network. Raises PictureError, TargetError."""
        return Inspection(picture, self.classifier, layer)

    @property
    def stages(self) -> list[Target]:
        """The layer on each grid that a picture passes through, the largest first."""
        with self._finding:  # a cached_property has one lock for all models, or from Python 3.12 on none
            if self._stages is None:
                self._stages = self.find_stages()
            return self._stages

    def find_stages(self) -> list[Target]:
        """As `stages`, found anew."""
        return find_stages(self.classifier.model, self.classifier.input_size)

    def see(self, picture: Path, layer: str | None = None) -> Seen:
        """Show a picture to the classifier, unless it just saw it. Raises PictureError, TargetError."""
        key = picture, layer
        with self._lock:
            if key in self._seen:
                self._seen.move_to_end(key)
                return self._seen[key]
        go_on()
        seen = Seen(partial(self.inspect, picture, layer))
        with self._lock:
            # At an earlier layer the graph may hold most of the network, and at what a module is given it holds all of
            # it: only the latest picture keeps such passes.
            whole = self.target is not None and self.target.is_given
            for other in [other for other in self._seen if (whole or other[1] is not None) and other[0] != picture]:
                del self._seen[other]
            self._seen[key] = seen
            while len(self._seen) > 1 and (len(self._seen) > MOST_PICTURES or self._pixels() > MOST_PIXELS):
                self._seen.popitem(last=False)
        return seen

    def _pixels(self) -> int:
        sizes = (seen.inspection.picture.size for seen in self._seen.values())
        return sum(width * height for width, height in sizes)


def here(classifier: Classifier) -> Loaded:
    """A classifier whose network runs in this process."""
    target = None
    with suppress(TargetError):  # the search takes several forward passes, which no time on the page should hold
        target = explainer_of(classifier, None).target
    return Loaded(classifier, target)


class Models:
    """The classifiers the page offers, by name: loaded when asked for, one at a time, the least recently used goes.

    own: the user's own classifier, which always stays. default: the name of the one to start with. public: strangers
    visit, who may have the bundled models and `own`, and nothing else. own_code: the Python that makes `own`. place:
    says where networks run.
    """

    def __init__(
        self,
        own: Classifier | None = None,
        default: str | None = None,
        device: str | torch.device | None = None,
        public: bool = False,
        own_code: str = "",
        place: Callable[[Classifier], Loaded] = here,
    ) -> None:
        self.device, self.public = device, public
        self._place = place
        self._own = place(own) if own else None
        self._own_code = own_code
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._lock, self._loading = Lock(), Lock()
        self.names = list(dict.fromkeys([*([own.name] if own else []), *filter(_has_weights, BUNDLED)]))
        self.default = default or self.names[0]

    def get(self, name: str) -> Loaded:
        """The classifier of that name, loaded if need be. Raises ModelError."""
        if self._own and self.is_own(name):
            return self._own
        if self.public and name not in self.names:
            raise ModelError(f"There is no model {name[:80]!r} here: choose one of {', '.join(self.names)}.")
        if name.lower().startswith("local-dir:"):
            raise ModelError("Folders of this machine cannot be named here: start the page with --model local-dir:...")
        if (found := self._find(name)) is not None:
            return found
        with self._loading:
            if (found := self._find(name)) is not None:
                return found
            go_on()
            loaded = self._place(load(name, device=self.device))
            with self._lock:
                self._loaded[name] = loaded
                while len(self._loaded) > MOST_MODELS:
                    self._loaded.popitem(last=False)
            return loaded

    def code(self, name: str) -> str:
        """The Python that makes a classifier."""
        return self._own_code if self.is_own(name) else f"load({name!r})"

    def is_own(self, name: str) -> bool:
        """Whether that is the user's own classifier, be it called as one of ours."""
        return self._own is not None and name == self._own.classifier.name

    def _find(self, name: str) -> Loaded | None:
        with self._lock:
            if name in self._loaded:
                self._loaded.move_to_end(name)
            return self._loaded.get(name)


def _has_weights(name: str) -> bool:
    try:
        BUNDLED[name].weights()
    except ModelError:
        return False
    return True


def _cropped(picture: Image.Image, framing: Framing) -> tuple[Image.Image, Framing]:
    """The part of a picture that lies in its framing's box."""
    left, top, right, bottom = framing.box
    x, y = max(0, round(left)), max(0, round(top))
    part = picture.crop((x, y, min(picture.width, round(right)), min(picture.height, round(bottom))))
    return part, Framing(part.size, (left - x, top - y, right - x, bottom - y))
