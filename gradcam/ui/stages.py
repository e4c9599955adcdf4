"""The strip "Through the network": the evidence on each grid that the picture passes through."""

from typing import Any

import gradio as gr

from . import markup
from .look import Look
from .models import Models
from .rail import Rail, Subject, Updates


def build(rail: Rail, models: Models, looks: list[Any]) -> None:
    """Place the strip here, folded: it costs a forward pass for each stage."""
    with gr.Accordion("Through the network", open=False) as panel:
        strip = gr.HTML(apply_default_css=False)

    def show(subject: Subject | None, *look: Any) -> Updates:
        if subject is None:
            return {strip: ""}
        loaded, chosen = models.get(subject.model), Look(*look)
        panels = []
        for target in loaded.stages:
            seen = subject._replace(layer=None if target == loaded.target else target.layer).seen(models)
            saliency = seen.evidence(subject.class_, subject.method).map(subject.class_)
            height, width = seen.inspection.target.grid  # of a picture of another size it is another
            # Each on its own scale: the evidence of different layers has different units.
            panels.append((chosen.draw(*seen.thumbnail, saliency, None), target.layer, f"{width} × {height}"))
        return {strip: markup.panels(panels)}

    triggers = [rail.subject.change, *(widget.change for widget in looks)]
    rail.while_open([panel.expand], [panel.collapse], show, [rail.subject, *looks], [strip], triggers)
