"""The left side of the page: the picture and the model that every tab speaks about."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import ImageOps

from ..images import PictureError, read
from . import markup
from .models import Models, Seen

EXAMPLES = [
    Path(gr.__file__).parent / "media_assets" / "images" / name
    for name in ("cheetah.jpg", "lion.jpg", "tower.jpg", "groot.jpeg")
]


class Subject(NamedTuple):
    """What the page speaks about: an uploaded picture, a model, and where and how it is asked for its evidence.

    layer: None for the one that is found. class_: the index of the class in large.
    """

    picture: Path
    model: str
    layer: str | None
    method: str
    class_: int

    def seen(self, models: Models) -> Seen:
        """The forward pass. Raises ModelError, PictureError, TargetError."""
        return models.get(self.model).see(self.picture, self.layer)


@dataclass(frozen=True)
class Rail:
    """Its widgets. subject: the latest Subject that could be answered, or None."""

    picture: gr.Image
    model: gr.Dropdown
    notice: gr.HTML
    subject: gr.State


def build(models: Models) -> Rail:
    """Place the widgets here."""
    picture = gr.Image(
        label="Picture",
        show_label=False,
        type="filepath",
        sources=["upload", "clipboard", "webcam"],
        buttons=[],
        height=230,
        elem_id="picture",
        placeholder="Drop a photograph here\n\nor click to choose one",
    )
    thumbnails = [(ImageOps.fit(read(path), (96, 96)), path.stem) for path in EXAMPLES]
    examples = gr.HTML(
        markup.examples(thumbnails), js_on_load=markup.CHOOSE, apply_default_css=False, elem_id="examples"
    )
    examples.click(_example, None, picture, show_progress="hidden", api_visibility="private")
    notice = gr.HTML(apply_default_css=False, elem_id="notice")
    model = gr.Dropdown(
        models.names,
        value=models.default,
        allow_custom_value=not models.public,
        label="Model",
        elem_id="model",
    )
    return Rail(picture, model, notice, gr.State())


def _example(event: gr.EventData) -> str:
    return str(EXAMPLES[event.value])


def uploaded(picture: Any) -> Path:
    """The file of a picture that a visitor uploaded, and no other file of this machine. Raises PictureError."""
    path = picture.get("path") if isinstance(picture, dict) else None
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(Path(get_upload_folder()).resolve()):
        raise PictureError("The picture did not arrive: upload it again.")
    return Path(path)
