"""The tab "Two models": what each believes about the same picture, and where its evidence is."""

from typing import Any

import gradio as gr

from ..errors import ModelError
from ..targets import TargetError
from . import markup, save
from .look import Look
from .models import Models, Seen
from .rail import Rail, Subject, Updates, method_title

EMPTY = "Choose a picture first: a second model then looks at it here."
UNITS = "Each network measures evidence in units of its own, and has a scale of its own: compare places, not strengths."
UNKNOWN = "“{}” is no class of {}."


def build(rail: Rail, models: Models, looks: list[Any], tab: gr.Tab, others: list[gr.Tab]) -> gr.Dropdown:
    """Place the tab here; nothing is computed while one of the others is open. Returns the list of second models."""
    with gr.Row(elem_classes="question"):
        second = gr.Dropdown(
            models.names,
            value=_beside(models, models.default),
            allow_custom_value=not models.public,
            label="Compared with",
            elem_id="second",
        )
        link = gr.HTML(js_on_load=markup.FOLLOW, apply_default_css=False)
    hint = gr.HTML(apply_default_css=False)
    columns = gr.HTML(markup.small(EMPTY), apply_default_css=False, elem_id="two-models")

    def show(subject: Subject | None, name: str | None, *look: Any) -> Updates:
        if subject is None:
            return {hint: "", columns: markup.small(EMPTY), link: ""}
        updates: Updates = {}
        if name == subject.model:
            updates[second] = name = _beside(models, name)
        if not name:
            return updates | {hint: markup.notice("Choose a second model.", "hint"), columns: "", link: ""}
        first = subject.seen(models)
        try:
            other = subject._replace(model=name, layer=None).seen(models)
        except (ModelError, TargetError) as error:  # said here, beside the list, and not where the first is chosen
            return updates | {hint: markup.notice(str(error)), columns: "", link: ""}
        drawn = _columns((first, other), (subject.model, name), subject, Look(*look))
        return updates | {hint: "", columns: drawn, link: save.link(rail, first, subject, tab="models", second=name)}

    rail.while_open(
        [tab.select],
        [other.select for other in others],
        show,
        [rail.subject, second, *looks],
        [second, hint, columns, link],
        [rail.subject.change, second.input, *(widget.change for widget in looks)],
        progress_on=columns,  # a model that is not in memory takes seconds
    )
    return second


def _beside(models: Models, name: str) -> str | None:
    """A model to compare this one with."""
    return next((other for other in models.names if other != name), None)


def _columns(pair: tuple[Seen, Seen], names: tuple[str, str], subject: Subject, look: Look) -> str:
    """As HTML: of each model its best class and, unless it is the best of both, the class that both are asked for."""
    label = pair[0].inspection.classifier.labels[subject.class_]
    known = all(label in seen.inspection.classifier.labels for seen in pair)
    agreed = all(seen.inspection.top(1)[0].label == label for seen in pair)
    columns = []
    for seen, name in zip(pair, names, strict=True):
        inspection, target = seen.inspection, seen.inspection.target
        asked = [(inspection.top(1)[0], "its best class")]
        if known and not agreed:
            asked.append((inspection.prediction(label), "asked of both"))
        result = seen.explain([prediction.index for prediction, _ in asked], subject.method)
        figures = [
            (
                look.draw(*seen.screen, result.map(prediction.index), result.full),
                prediction.label,
                f"{remark}, {markup.percent(prediction.probability)}",
            )
            for prediction, remark in asked
        ]
        height, width = target.grid
        where = f"{method_title(subject.method)} at {target.layer}, {width} × {height}"
        columns.append(markup.Column(name, where, figures, inspection.top()))
    remark = UNITS if known else f"{UNITS} {UNKNOWN.format(label, names[1])}"
    return markup.columns(columns) + markup.small(remark)
