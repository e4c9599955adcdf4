"""What the page keeps in memory: which classifiers, which pictures of each, and for how long."""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import gradcam
from gradcam.classifiers import BUNDLED
from gradcam.errors import ModelError
from gradcam.ui import models as kept
from gradcam.ui.models import Loaded, Models, Seen
from gradcam.ui.rail import EXAMPLES


class Album(Loaded):
    """A classifier that sees pictures called after their size in pixels, and what it was shown."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace())
        self.shown: list[tuple[str, str | None]] = []
        self._known: dict[str, weakref.ref[Seen]] = {}

    def inspect(self, picture: Path, layer: str | None) -> Any:
        self.shown.append((picture.name, layer))
        width, height = picture.name.split(".")[0].split("x")
        return SimpleNamespace(picture=SimpleNamespace(size=(int(width), int(height))))

    def show(self, *names: str) -> None:
        for name in names:
            self._known[name] = weakref.ref(self.see(Path(name)))

    @property
    def remembers(self) -> list[str]:
        return [name for name, seen in self._known.items() if seen() is not None]


def pictures(count: int, size: str = "10x10") -> list[str]:
    return [f"{size}.{number}" for number in range(count)]


def test_sixteen_pictures_are_kept_and_the_one_not_seen_for_longest_goes() -> None:
    album, names = Album(), pictures(18)
    album.show(*names[:16], names[0])  # now the second was not seen for longest
    assert album.remembers == names[:16]
    album.show(names[16])
    assert album.remembers == [names[0], *names[2:17]]
    album.show(names[17])
    assert album.remembers == [names[0], *names[3:18]]
    assert album.shown == [(name, None) for name in names]


@pytest.mark.parametrize(
    ("size", "fitting"), [("8000x2000", 4), ("8000x2001", 3), ("4000x8000", 2), ("8000x8000", 1), ("9000x9000", 1)]
)
def test_the_pictures_kept_have_64_million_pixels_together(size: str, fitting: int) -> None:
    """One alone may have more: it is on the page."""
    album, names = Album(), pictures(6, size)
    album.show(*names)
    assert album.remembers == names[-fitting:]


def test_a_large_picture_sends_as_many_away_as_it_takes() -> None:
    album, names = Album(), pictures(3, "4000x5000")
    album.show(*names, "6000x6000.0")
    assert album.remembers == [names[2], "6000x6000.0"]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The models that are loaded meanwhile, each with its device; in truth none is."""
    loaded: list[tuple[str, Any]] = []

    def load(name: str, *, device: Any) -> Any:
        loaded.append((name, device))
        return SimpleNamespace(name=name)

    monkeypatch.setattr(kept, "load", load)
    return loaded


def placed(classifier: Any) -> Any:
    """Stands in for what looks for the target of a classifier."""
    return SimpleNamespace(classifier=classifier)


def test_three_models_are_kept_and_the_one_not_used_for_longest_goes(loads: list[tuple[str, Any]]) -> None:
    models = Models(SimpleNamespace(name="mine"), device="meta", place=placed)
    own = models.get("mine")
    first = {name: models.get(name) for name in "abc"}
    assert models.get("a") is first["a"]  # now b was not used for longest
    models.get("d")
    assert [models.get(name) is first[name] for name in "ac"] == [True, True]
    assert loads == [(name, "meta") for name in "abcd"]
    assert models.get("b") is not first["b"]  # and sends d away
    models.get("d")
    assert [name for name, _ in loads] == [*"abcd", "b", "d"]
    assert models.get("mine") is own


def test_a_model_that_many_ask_for_at_once_is_loaded_once(
    loads: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds the first at it, and waits; what is in memory is had meanwhile."""
    load, begun, go_on = kept.load, threading.Event(), threading.Event()

    def slowly(name: str, *, device: Any) -> Any:
        if name == "slow":
            begun.set()
            assert go_on.wait(60)
        return load(name, device=device)

    monkeypatch.setattr(kept, "load", slowly)
    models = Models(place=placed)
    ready = models.get("ready")
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(models.get, "slow") for _ in range(4)]
        assert begun.wait(60)
        assert models.get("ready") is ready
        go_on.set()
        assert len({id(one.result()) for one in waiting}) == 1
    assert [name for name, _ in loads] == ["ready", "slow"]


@pytest.mark.parametrize("public", [False, True])
def test_the_names_on_the_list(loads: list[tuple[str, Any]], public: bool) -> None:
    """One's own comes first, and once, whatever it is called."""
    for own, names in (("mine", ["mine", *BUNDLED]), ("cifar10", ["cifar10", "efficientnet_lite0"])):
        models = Models(SimpleNamespace(name=own), public=public, own_code="my code", place=placed)
        assert (models.names, models.default) == (names, own)
        assert models.get(own).classifier.name == own
        assert models.code(own) == "my code"
        assert models.code("efficientnet_lite0") == "load('efficientnet_lite0')"
    assert loads == []
    models = Models(None, "cifar10", public=public, place=placed)
    assert (models.names, models.default, models.code("cifar10")) == ([*BUNDLED], "cifar10", "load('cifar10')")
    if public:
        with pytest.raises(ModelError, match=r"^There is no model 'resnet18' here: choose one of efficientnet_lite0, "):
            models.get("resnet18")
    else:
        models.get("resnet18")
    assert [name for name, _ in loads] == ([] if public else ["resnet18"])


def test_a_model_without_its_weights_is_not_on_the_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("gradcam.classifiers.WEIGHTS", tmp_path)
    assert Models().names == ["efficientnet_lite0"]


def test_what_is_shown_shares_the_scale_of_the_best_five() -> None:
    classifier = gradcam.load("cifar10")
    seen = kept.here(classifier).see(EXAMPLES[1])
    best = [prediction.index for prediction in seen.inspection.top(5)]
    last = int(seen.inspection.probabilities.argmin())
    assert seen.shown(best[2]) == best
    assert seen.shown(last) == [*best, last]
    expected = gradcam.explain(EXAMPLES[1], classifier, [*best, last], "layercam")
    found = seen.evidence(last, "layercam")
    assert found.full == pytest.approx(expected.full, rel=1e-6)
    torch.testing.assert_close(torch.from_numpy(found.map(last)), torch.from_numpy(expected.map(last)))
