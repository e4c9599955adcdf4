"""The tab "Explain": what the model believes, and where the evidence for each class is."""

from typing import Any

import gradio as gr

from .. import render
from ..errors import ModelError
from ..images import PictureError
from ..targets import TargetError
from . import markup
from .models import Models, Seen
from .rail import Rail, Subject, uploaded

EMPTY = """
<div class="empty">
  <h2>What does the network believe, and where is the evidence?</h2>
  <p>Drop a photograph on the left, paste one, or take one of the examples.<br>Nothing leaves this machine.</p>
</div>
"""


def build(rail: Rail, models: Models) -> None:
    """Place the tab here."""
    empty = gr.HTML(EMPTY, apply_default_css=False)
    with gr.Row(visible=False, elem_id="explain") as results:
        with gr.Column(scale=2, min_width=300):
            comparison = gr.HTML(js_on_load=markup.SLIDE, apply_default_css=False, elem_id="comparison")
            facts = gr.HTML(apply_default_css=False, elem_id="facts")
        with gr.Column(scale=1, min_width=300):
            answers = gr.HTML(js_on_load=markup.CHOOSE, apply_default_css=False, elem_id="answers")
            every_class = gr.Dropdown([], value=None, label="Any other class", elem_id="every-class")

    def show(subject: Subject) -> dict[Any, Any]:
        seen = subject.seen(models)
        inspection = seen.inspection
        top = [prediction.index for prediction in inspection.top()]
        shown = list(dict.fromkeys([*top, subject.class_]))
        result = seen.explain(shown, subject.method)
        labels = inspection.classifier.labels
        overlays = [
            render.overlay(seen.thumbnail[0], result.map(index), seen.thumbnail[1], full=result.full) for index in shown
        ]
        large = render.overlay(seen.screen[0], result.map(subject.class_), seen.screen[1], full=result.full)
        classes = [
            markup.Answer(index, labels[index], float(inspection.probabilities[index]), overlay)
            for index, overlay in zip(shown, overlays, strict=True)
        ]
        return {
            comparison: markup.comparison(seen.screen[0], large, f"Where the evidence for {labels[subject.class_]} is"),
            answers: markup.answers(classes, subject.class_),
            facts: markup.facts(_facts(seen, subject)),
            rail.subject: subject,
        }

    def ask(picture: Any, model: str, before: Subject | None) -> dict[Any, Any]:
        if picture is None:
            return {rail.notice: gr.skip()}
        try:
            path = uploaded(picture)
            if before and (path, model) == (before.picture, before.model):
                return {rail.notice: gr.skip()}
            seen = models.get(model).see(path)
            subject = Subject(path, model, None, "gradcam", seen.inspection.top(1)[0].index)
            shown = show(subject)
        except (ModelError, PictureError, TargetError) as error:
            return {
                rail.notice: markup.notice(str(error)),
                rail.picture: before.picture if before else None,
                rail.model: before.model if before else models.default,
            }
        return shown | {
            rail.notice: markup.notice(),
            empty: gr.update(visible=False),
            results: gr.update(visible=True),
            every_class: gr.update(choices=_choices(seen), value=subject.class_),
        }

    def choose(index: int, subject: Subject) -> dict[Any, Any]:
        return show(subject._replace(class_=index)) | {every_class: index}

    def click(subject: Subject, event: gr.EventData) -> dict[Any, Any]:
        return choose(event.value, subject)

    def clear() -> dict[Any, Any]:
        return {
            rail.subject: None,
            rail.notice: markup.notice(),
            empty: gr.update(visible=True),
            results: gr.update(visible=False),
        }

    outputs = [rail.subject, rail.notice, rail.picture, rail.model]
    outputs += [empty, results, comparison, facts, answers, every_class]
    quiet: dict[str, Any] = {"show_progress": "hidden", "preprocess": False, "api_visibility": "private"}
    gr.on(
        [rail.picture.change, rail.model.input],
        ask,
        [rail.picture, rail.model, rail.subject],
        outputs,
        show_progress_on=[comparison, empty],
        preprocess=False,
        api_visibility="private",
    )
    answers.click(click, [rail.subject], outputs, **quiet)
    every_class.input(choose, [every_class, rail.subject], outputs, **quiet)
    rail.picture.clear(clear, None, outputs, **quiet)


def _facts(seen: Seen, subject: Subject) -> list[tuple[str, str]]:
    inspection = seen.inspection
    chosen = inspection.prediction(subject.class_)
    height, width = inspection.target.grid
    return [
        ("class", chosen.label),
        ("probability", markup.percent(chosen.probability)),
        ("layer", inspection.target.layer),
        ("grid", f"{width} × {height}"),
        ("time", f"{seen.milliseconds:.0f} ms"),
        ("device", str(inspection.classifier.device).upper()),
    ]


def _choices(seen: Seen) -> list[tuple[str, int]]:
    """Every class, best first, with its probability; the value is the index, so that equal names stay apart."""
    labels, probabilities = seen.inspection.classifier.labels, seen.inspection.probabilities
    return [
        (f"{labels[index]} · {markup.percent(probabilities[index])}", int(index))
        for index in (-probabilities).argsort()
    ]
