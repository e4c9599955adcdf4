"""The tab "Why this and not that": two classes beside each other, and what speaks for one rather than the other."""

from typing import Any, NamedTuple

import gradio as gr

from ..errors import ModelError
from ..methods import METHODS
from . import markup, save
from .explain import WEAK, choices
from .look import Look
from .models import Models, Seen
from .rail import Rail, Subject, Updates, method_title

EMPTY = "Choose a picture first: it is then asked here why it is one class and not another."
SCALES = (
    "The first three share one scale. The last is on that of the Grad-CAM map for “{}”: on its own, noise looks strong."
)
OWN_SCALES = "For “{}”, each map on its own scale, since the methods measure in different units: compare places."


class Compared(NamedTuple):
    """The question that was answered last, and what was wrong with the link that brought it."""

    subject: Subject
    this: int
    that: int
    problem: str


def build(rail: Rail, models: Models, looks: list[Any], tab: gr.Tab, others: list[gr.Tab]) -> None:
    """Place the tab here. Nothing is computed while one of the others is open."""
    with gr.Row(elem_classes="question"):
        class_ = gr.Dropdown([], value=None, label="Why this", elem_id="this")
        rival = gr.Dropdown([], value=None, label="and not that", elem_id="that")
        link = gr.HTML(js_on_load=markup.FOLLOW, apply_default_css=False)
    hint = gr.HTML(apply_default_css=False)
    panels = gr.HTML(markup.small(EMPTY), apply_default_css=False, elem_id="compare")
    with gr.Accordion("All methods", open=False) as folded:
        grid = gr.HTML(apply_default_css=False, elem_id="methods")
    compared = gr.State()  # Compared, or None

    def show(
        subject: Subject | None, asked: Compared | None, this: int, that: int, wanted: str | None, *look: Any
    ) -> Updates:
        if subject is None:
            nothing = gr.update(choices=[], value=None)
            empty = markup.small(EMPTY)
            return {class_: nothing, rival: nothing, compared: None, hint: "", panels: empty, link: ""}
        seen, problem = subject.seen(models), ""
        truth = rail.examples.truth(subject.picture)
        updates: Updates = {}
        if asked is None or subject[:2] != asked.subject[:2]:
            listed = choices(seen)
            this, that = subject.class_, _rival(seen, subject.class_, truth)
            if wanted is not None:
                try:
                    that = seen.inspection.classifier.index(wanted)
                except ModelError as error:
                    problem = str(error)
            updates |= {class_: gr.update(choices=listed, value=this), rival: gr.update(choices=listed, value=that)}
            updates |= {rail.rival: None}
        elif subject.class_ != asked.subject.class_:  # the tabs speak about one class
            this, that = subject.class_, this if that == subject.class_ else that
            updates |= {class_: this, rival: that}
        elif (subject, this, that) == asked[:3]:  # only its look is another
            problem = asked.problem
        updates[compared] = Compared(subject, this, that, problem)
        if this == that:
            return updates | {hint: markup.notice("Choose two different classes.", "hint"), panels: "", link: ""}
        drawn, advice = _panels(seen, subject, this, that, truth, Look(*look))
        label = seen.inspection.classifier.labels[that]
        return updates | {
            hint: markup.notice(problem) or markup.notice(advice, "hint"),
            panels: drawn,
            link: save.link(rail, seen, subject._replace(class_=this), tab="compare", rival=label),
        }

    def show_methods(asked: Compared | None, *look: Any) -> Updates:
        if asked is None:
            return {grid: ""}
        seen, this, chosen = asked.subject.seen(models), asked.this, Look(*look)
        label, figures = seen.inspection.classifier.labels[this], []
        for method in METHODS:
            saliency = seen.inspection.explain(this, method).map(this)
            figures.append((chosen.draw(*seen.thumbnail, saliency, None), method_title(method), ""))
        return {grid: markup.small(OWN_SCALES.format(label)) + markup.panels(figures)}

    inputs = [rail.subject, compared, class_, rival, rail.rival, *looks]
    outputs = [compared, class_, rival, rail.rival, hint, panels, link]
    triggers = [rail.subject.change, class_.input, rival.input, *(widget.change for widget in looks)]
    closes = [other.select for other in others]
    shown = rail.while_open([tab.select], closes, show, inputs, outputs, triggers)
    triggers = [compared.change, *(widget.change for widget in looks)]
    inputs = [compared, *looks]
    rail.while_open([folded.expand], [folded.collapse], show_methods, inputs, [grid], triggers, within=shown)


def _rival(seen: Seen, class_: int, truth: str) -> int:
    """What a class is compared with at first: the true class where it is known, else the best, of the others."""
    labels = seen.inspection.classifier.labels
    if truth in labels and labels.index(truth) != class_:
        return labels.index(truth)
    return next(prediction.index for prediction in seen.inspection.top(2) if prediction.index != class_)


def _panels(seen: Seen, subject: Subject, this: int, that: int, truth: str, look: Look) -> tuple[str, str]:
    """The four maps as HTML, and a word on those that show nothing."""
    labels, probabilities = seen.inspection.classifier.labels, seen.inspection.probabilities
    # What speaks against the class has its own panel: the other three are evidence for something.
    method = "gradcam" if subject.method == "counterfactual" else subject.method
    result = seen.explain([this, that, (this, that)], method)
    plain, against = (seen.inspection.explain(this, name).map(this) for name in ("gradcam", "counterfactual"))
    full = float(plain.max()) or None
    figures = [
        (
            look.draw(*seen.screen, result.map(index), result.full),
            labels[index],
            markup.percent(probabilities[index]) + (", the true class" if labels[index] == truth else ""),
        )
        for index in (this, that)
    ]
    difference = result.map((this, that))
    title = f"{labels[this]} rather than {labels[that]}"
    chances = " to ".join(markup.percent(probabilities[index]) for index in (this, that))
    figures.append((look.draw(*seen.screen, difference, result.full), title, chances))
    if against.max() <= 0:
        share = "nothing speaks against it"
    elif full and against.max() < 0.005 * full:  # which would round to 0 %
        share = "next to nothing speaks against it"
    elif full:
        share = f"at most {against.max() / full:.0%} as strong as for it".replace("%", " %")
    else:
        share = "nothing speaks for it"
    figures.append((look.draw(*seen.screen, against, full), f"Against {labels[this]}", share))
    asked, advice = f"“{labels[this]}” rather than “{labels[that]}”", ""
    if difference.max() <= 0:
        advice = f"Nothing at {seen.inspection.target.layer} speaks for {asked}."
    elif difference.max() < WEAK * result.full:
        strength = markup.percent(difference.max() / result.full)
        advice = f"Little speaks for {asked}: at most {strength} of the full scale."
    legend = markup.legend(look.bar, "full scale", seen.screen[1].cropped)
    return markup.panels(figures) + legend + markup.small(SCALES.format(labels[this])), advice
