"""The left side of the page: the picture, the model and the method that every tab speaks about."""

import functools
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image, ImageOps

from ..errors import InputError
from ..images import PictureError, read
from ..methods import METHODS
from . import markup
from .examples import Example, Examples
from .guard import ABSENT, FAILED, MOST_UPLOAD, TOO_LARGE, is_uploaded
from .models import Models, Seen

AUTOMATIC = "automatic"  # the layer that is found
EXAMPLES = [
    Path(gr.__file__).parent / "media_assets" / "images" / name
    for name in ("cheetah.jpg", "lion.jpg", "tower.jpg", "groot.jpeg")
]
NO_CHEETAH = (
    "A ten-class network has no word for a cheetah: it answers with the nearest of its ten, and the map shows why."
)
DOWNLOAD = "Get the CIFAR-10 test pictures (163 MB)"
# An event that shows progress nowhere spares the browser a walk over all its outputs whenever its status changes.
QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "show_progress_on": [],
    "preprocess": False,
    "api_visibility": "private",
}

Updates = dict[Any, Any]  # a widget and its new value


class Subject(NamedTuple):
    """What the page speaks about: an uploaded picture, a model, and where and how it is asked for its evidence.

    layer: None for the one that is found. method: a key of METHODS. class_: the index of the class in large.
    """

    picture: Path
    model: str
    layer: str | None
    method: str
    class_: int

    @property
    def side(self) -> str:
        """Whether the maps speak for the class or against it."""
        return "against" if self.method == "counterfactual" else "for"

    def seen(self, models: Models) -> Seen:
        """The forward pass. Raises ModelError, PictureError, TargetError."""
        return models.get(self.model).see(self.picture, self.layer)


@dataclass(frozen=True)
class Rail:
    """Its widgets, and what they led to.

    subject: the latest Subject that could be answered, or None. wanted, rival: the class that a link asks for, and
    the one to compare it with, or None.
    """

    picture: gr.Image
    model: gr.Dropdown
    about: gr.HTML
    method: gr.Dropdown
    layer: gr.Dropdown
    notice: gr.HTML
    subject: gr.State
    wanted: gr.State
    rival: gr.State
    examples: Examples

    def told(self, handler: Callable[..., Updates]) -> Callable[..., Updates]:
        """The handler, with whatever goes wrong in it told in one sentence on the page."""

        @functools.wraps(handler)
        def telling(*args: Any, **kwargs: Any) -> Updates:
            try:
                return handler(*args, **kwargs)
            except InputError as error:
                return {self.notice: markup.notice(str(error))}
            except gr.Error:  # nobody is there to be told; or ZeroGPU has none to lend, and says so itself
                raise
            except Exception:
                logging.getLogger(__name__).exception("The page could not answer.")
                return {self.notice: markup.notice(FAILED)}

        return telling

    def while_open(
        self,
        opens: list[Any],
        closes: list[Any],
        handler: Callable[..., Updates],
        inputs: list[Any],
        outputs: list[Any],
        triggers: list[Any],
        progress_on: Any = None,
        within: gr.Checkbox | None = None,
    ) -> gr.Checkbox:
        """Run the handler when its part of the page is opened, and on `triggers` while that is open.

        The page itself knows what is open: the server is asked nothing for the sake of what nobody sees.

        progress_on: what shows that the handler runs. within: whether the part around it is open. Returns whether
        this one is, hidden.
        """
        is_open, asked = gr.Checkbox(False, visible=False), gr.Number(0, visible=False)
        gr.on(opens, None, None, is_open, js="() => true")
        gr.on(closes, None, None, is_open, js="() => false")
        open_ = [is_open] if within is None else [within, is_open]
        gr.on(
            [*(part.change for part in open_), *triggers],
            None,
            [asked, *open_],
            asked,
            js="(asked, ...open) => open.every(Boolean) ? asked + 1 : asked",
        )
        asked.change(
            self.told(handler),
            inputs,
            [*outputs, self.notice],
            trigger_mode="always_last",  # a picture may come while the handler still runs for the opening
            **QUIET | ({"show_progress": "minimal", "show_progress_on": progress_on} if progress_on else {}),
        )
        return is_open


def build(models: Models, data: Path | None = None) -> Rail:
    """Place the widgets here. data: as for Examples. Raises DataError."""
    known = Examples(EXAMPLES, models, data)
    picture = gr.Image(
        label="Picture",
        show_label=False,
        type="filepath",
        sources=["upload", "webcam"],
        buttons=[],
        height=230,
        elem_id="picture",
        placeholder="Drop a photograph here\nor click to choose one",
    )
    with gr.Column(elem_id="examples"):
        examples = gr.HTML(_drawn(known.photographs, 0), js_on_load=markup.CHOOSE, apply_default_css=False)
        remark = gr.HTML(apply_default_css=False)
        offer = gr.Button(DOWNLOAD, size="sm", visible=False)
    notice = gr.HTML(js_on_load=markup.refuse(MOST_UPLOAD, TOO_LARGE), apply_default_css=False, elem_id="notice")
    with gr.Column(elem_id="what"):
        model = gr.Dropdown(
            models.names,
            value=models.default,
            allow_custom_value=not models.public,
            label="Model",
            elem_id="model",
        )
        about = gr.HTML(
            markup.small("" if models.public else "Any of timm's names can be typed."), apply_default_css=False
        )
    with gr.Accordion("Method and layer", open=False, elem_id="how") as panel:
        method = gr.Dropdown([(method_title(name), name) for name in METHODS], value="gradcam", label="Method")
        layer = gr.Dropdown([("Automatic", AUTOMATIC)], allow_custom_value=True, label="Layer")
    rail = Rail(picture, model, about, method, layer, notice, gr.State(), gr.State(), gr.State(), known)

    def click(event: gr.EventData) -> Updates:
        return {picture: str(known.all[event.value].path), notice: markup.notice()}

    def show_examples(model: str, download: bool = False) -> Updates:
        tests = known.tests(download) if known.belong_to(model) else []
        lacking = known.belong_to(model) and not tests
        return {
            examples: _drawn(tests, len(known.photographs)) if tests else _drawn(known.photographs, 0),
            remark: markup.small(NO_CHEETAH) if lacking else "",
            offer: gr.update(visible=lacking and not models.public),
        }

    def fetch(model: str, progress: gr.Progress = gr.Progress(track_tqdm=True)) -> Updates:  # noqa: B008 (Gradio's way)
        return show_examples(model, download=True) | {notice: markup.notice()}

    shown = [examples, remark, offer, notice]
    examples.click(rail.told(click), None, [picture, notice], **QUIET)
    gr.on(None, rail.told(show_examples), model, shown, trigger_mode="always_last", **QUIET)
    if not models.public:
        offer.click(rail.told(fetch), model, shown, **QUIET | {"show_progress": "full", "show_progress_on": examples})

    def list_layers(model: str, chosen: str, subject: Subject | None) -> Updates:
        loaded = models.get(model)
        if subject:  # of another model there is no layer chosen yet
            chosen = (subject.layer if subject.model == model else None) or AUTOMATIC
        found = f"Automatic: {loaded.target.layer}" if loaded.target else "Automatic"
        names = [(found, AUTOMATIC), *((target.layer, target.layer) for target in loaded.stages)]
        return {layer: gr.update(choices=names, value=chosen)}

    rail.while_open(
        [panel.expand], [panel.collapse], list_layers, [model, layer, rail.subject], [layer], [model.change]
    )
    return rail


def method_title(name: str) -> str:
    """What a key of METHODS is called on the page."""
    return re.split(r"[:(]", str(METHODS[name].__doc__))[0].strip()


def _drawn(examples: list[Example], first: int) -> str:
    """Examples as HTML, numbered from `first` on."""
    drawn = []
    for number, (path, truth, kind) in enumerate(examples, first):
        sampling = Image.Resampling.NEAREST if truth else Image.Resampling.BICUBIC
        drawn.append((number, truth or path.stem, kind, ImageOps.fit(read(path), (96, 96), sampling)))
    return markup.examples(drawn)


def uploaded(picture: Any) -> Path:
    """The file of a picture that a visitor uploaded, and no other file of this machine. Raises PictureError."""
    path: Any = picture.get("path") if isinstance(picture, dict) else None
    if not is_uploaded(path):
        raise PictureError(ABSENT)
    return Path(path)
