"""What a visitor takes along: files, a link, and the Python that gives the same result."""

import io
import json
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode

import gradio as gr
import numpy as np
import timm
import torch
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from .. import __version__
from ..batch import safe
from . import markup
from .look import Look
from .models import Models, Seen
from .rail import QUIET, Rail, Subject, Updates

START = """
file => {
    if (!file) return
    const link = Object.assign(document.createElement('a'), { href: file.url, download: file.orig_name })
    link.click()
}
"""


@dataclass(frozen=True)
class Save:
    """Its widgets that follow what is shown."""

    rail: Rail
    models: Models
    link: gr.HTML
    code: gr.HTML

    def updates(self, subject: Subject, look: Look) -> Updates:
        """What they say of a subject."""
        seen = subject.seen(self.models)
        return {
            self.link: link(self.rail, seen, subject),
            self.code: markup.code(_python(self.models, seen, subject, look)),
        }


def build(rail: Rail, models: Models, looks: list[Any]) -> Save:
    """Place the widgets here."""
    with gr.Row(elem_id="save"):
        gr.HTML("<span>Take along</span>", apply_default_css=False)
        overlay = gr.Button("Overlay .png", size="sm", min_width=80)
        raw = gr.Button("Map .npy", size="sm", min_width=80)
        record = gr.Button("Record .json", size="sm", min_width=80)
        link = gr.HTML(js_on_load=markup.FOLLOW, apply_default_css=False)
    with gr.Accordion("The same in Python", open=False):
        code = gr.HTML(js_on_load=markup.COPY, apply_default_css=False)
    file = gr.File(visible=False)

    def save_overlay(subject: Subject, *look: Any) -> Updates:
        seen, chosen = subject.seen(models), Look(*look)
        result = seen.evidence(subject.class_, subject.method)
        inspection = seen.inspection
        full = None if chosen.own_scale else result.full
        picture = chosen.draw(inspection.picture, inspection.framing, result.map(subject.class_), full)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return {file: saved(buffer, seen, subject, "overlay.png")}

    def save_map(subject: Subject, *_: Any) -> Updates:
        seen = subject.seen(models)
        buffer = io.BytesIO()
        np.save(buffer, seen.evidence(subject.class_, subject.method).map(subject.class_))
        return {file: saved(buffer, seen, subject, "map.npy")}

    def save_record(subject: Subject, *_: Any) -> Updates:
        seen = subject.seen(models)
        buffer = io.BytesIO(json.dumps(described(seen, subject), indent=2, ensure_ascii=False).encode())
        return {file: saved(buffer, seen, subject, "record.json")}

    for button, handler in ((overlay, save_overlay), (raw, save_map), (record, save_record)):
        written = button.click(rail.told(handler), [rail.subject, *looks], [file, rail.notice], **QUIET)
        written.success(None, file, None, js=START)
    return Save(rail, models, link, code)


def saved(content: io.BytesIO, seen: Seen, subject: Subject, ending: str) -> str:
    """The path of a file for the visitor, named after the picture and the class."""
    label = seen.inspection.classifier.labels[subject.class_]
    name = f"{safe(subject.picture.stem)}-{safe(label)}-{ending}"
    return save_bytes_to_cache(content.getvalue(), name, get_upload_folder())


def described(seen: Seen, subject: Subject) -> dict[str, Any]:
    """What was asked and what was found, for programs."""
    inspection = seen.inspection
    result = seen.evidence(subject.class_, subject.method)
    target = inspection.target
    return {
        "picture": {"name": subject.picture.name, "size": inspection.framing.size, "seen": inspection.framing.box},
        "model": subject.model,
        "class": asdict(inspection.prediction(subject.class_)),
        "top5": [asdict(prediction) for prediction in inspection.top()],
        "method": subject.method,
        "layer": target.layer,
        "layout": target.layout,
        "map": result.map(subject.class_).tolist(),
        "full_scale": result.full,
        "versions": {"gradcam": __version__, "torch": torch.__version__, "timm": timm.__version__},
    }


def link(rail: Rail, seen: Seen, subject: Subject, **more: str) -> str:
    """A link to this state, and to what `more` says of a tab. Of the pictures only an example comes along."""
    example = rail.examples.find(subject.picture)
    query = {"picture": example.path.stem} if example else {}
    query |= {"model": subject.model, "class": seen.inspection.classifier.labels[subject.class_]}
    query |= {"method": subject.method} | ({"layer": subject.layer} if subject.layer else {}) | more
    # After a reload another picture would be asked for the classes of this one.
    kept = query if example else {name: value for name, value in query.items() if name not in ("class", "rival")}
    return markup.link(f"?{urlencode(query)}", f"?{urlencode(kept)}")


def _python(models: Models, seen: Seen, subject: Subject, look: Look) -> str:
    """Three lines that give what the overlay shows."""
    labels = seen.inspection.classifier.labels
    label, shown = labels[subject.class_], seen.shown(subject.class_)
    classes: Any = [labels[index] for index in shown] if len(shown) > len(seen.inspection.top()) else "top5"
    asked = [f"{subject.picture.name!r}", models.code(subject.model), f"classes={classes!r}"]
    asked += [f"method={subject.method!r}"] if subject.method != "gradcam" else []
    asked += [f"layer={subject.layer!r}"] if subject.layer else []
    style = look.style | ({"full": None} if look.own_scale else {})
    drawn = ", ".join([repr(label), *(f"{name}={value!r}" for name, value in style.items())])
    kind = "heatmap" if look.map_only else "overlay"
    return (
        "from gradcam import Classifier, explain, load\n"
        f"result = explain({', '.join(asked)})\n"
        f'result.{kind}({drawn}).save("evidence.png")'
    )
