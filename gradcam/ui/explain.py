"""The tab "Explain": what the model believes, and where the evidence for each class is."""

from typing import Any

import gradio as gr

from ..errors import ModelError
from . import look, markup, save, stages
from .guard import DECODES
from .look import Look
from .models import Models, Seen
from .rail import AUTOMATIC, QUIET, Rail, Subject, Updates, uploaded

EMPTY = """
<div class="empty">
  <h2>What does the network believe, and where is the evidence?</h2>
  <p>Drop a photograph, paste one, or start with an example.<br>It stays on the machine that serves this page.</p>
</div>
"""
WEAK = 0.15  # of the strongest evidence shown


def build(rail: Rail, models: Models) -> list[Any]:
    """Place the tab here. Returns the widgets of its Look, which every tab follows."""
    # It stands for all below: progress shown on what holds the pictures would have the browser copy them.
    busy = gr.HTML(elem_id="busy", apply_default_css=False)
    empty = gr.HTML(EMPTY, apply_default_css=False)
    # In the order of reading: so it is walked through by keyboard, and stacked where the page is narrow.
    with gr.Row(elem_id="explain", visible=False) as results:
        with gr.Column(elem_id="large"):
            comparison = gr.HTML(js_on_load=markup.SLIDE, apply_default_css=False, elem_id="comparison")
            hint = gr.HTML(apply_default_css=False)
        with gr.Column(elem_id="classes"):
            answers = gr.HTML(js_on_load=markup.CHOOSE, apply_default_css=False, elem_id="answers")
            every_class = gr.Dropdown([], value=None, label="Any class", elem_id="every-class")
        with gr.Column(elem_id="details"):
            facts = gr.HTML(apply_default_css=False, elem_id="facts")
            looks = look.build()
            saved = save.build(rail, models, looks)
            stages.build(rail, models, looks)

    def show(subject: Subject, look: Look) -> Updates:
        seen = subject.seen(models)
        inspection, labels = seen.inspection, seen.inspection.classifier.labels
        shown = seen.shown(subject.class_)
        result = seen.explain(shown, subject.method)
        classes = [
            markup.Answer(
                index,
                labels[index],
                float(inspection.probabilities[index]),
                look.draw(*seen.thumbnail, result.map(index), result.full),
            )
            for index in shown
        ]
        large = result.map(subject.class_)
        strongest = "strongest for this class" if look.own_scale else "strongest shown"
        drawn = look.draw(*seen.screen, large, None if look.own_scale else result.full)
        return saved.updates(subject, look) | {
            rail.subject: subject,
            rail.notice: markup.notice(),
            comparison: markup.comparison(seen.url, drawn, f"Where the evidence for {labels[subject.class_]} is"),
            hint: markup.notice(_advice(seen, subject, float(large.max()), result.full), "hint"),
            answers: markup.answers(classes, subject.class_),
            facts: markup.legend(look.bar, strongest, seen.screen[1].cropped)
            + markup.facts(_facts(seen, subject, rail.examples.truth(subject.picture))),
        }

    def ask(
        picture: Any, model: str, layer: str, method: str, before: Subject | None, wanted: str | None, *look: Any
    ) -> Updates:
        """Look at a picture, unless it is the one shown."""
        path = uploaded(picture)
        if before and model != before.model:
            layer = AUTOMATIC
        chosen = None if layer == AUTOMATIC else layer
        if before and (path, model, chosen, method) == before[:4]:
            return {rail.notice: gr.skip()}
        seen = models.get(model).see(path, chosen)
        problem, class_ = "", seen.inspection.top(1)[0].index
        fresh = before is None or (path, model) != before[:2]
        if before and not fresh:
            class_ = before.class_
        elif wanted is not None:
            try:
                class_ = seen.inspection.classifier.index(wanted)
            except ModelError as error:
                problem = str(error)
        updates: Updates = {rail.layer: layer, every_class: class_}
        if fresh:
            updates[rail.about] = markup.about(seen.inspection.classifier)
            updates[every_class] = gr.update(choices=choices(seen), value=class_)
        if before is None:
            updates |= {empty: gr.update(visible=False), results: gr.update(visible=True)}
        return show(Subject(path, model, chosen, method, class_), Look(*look)) | {
            **updates,
            rail.wanted: None,
            rail.notice: markup.notice(problem),
        }

    def ask_or_stay(
        under_way: list[Any], picture: Any, model: str, layer: str, method: str, before: Subject | None, *rest: Any
    ) -> Updates:
        """As `ask`; where that fails, everything stays as it was before, and the sentence says why."""
        if picture is None:  # removed; `clear` may have been overtaken by the answer
            return clear(under_way) | {rail.notice: gr.skip()}
        under_way[:] = question = [picture, model, layer, method]
        try:
            updates = rail.told(ask)(*question, before, *rest)
        except gr.Error as error:
            updates = {rail.notice: markup.notice(error.message)}
        if question != under_way:  # the picture was removed meanwhile
            return {rail.notice: gr.skip()}
        under_way.clear()
        if rail.subject in updates or updates[rail.notice] == gr.skip():
            return updates
        return updates | {
            rail.picture: str(before.picture) if before else None,
            rail.model: before.model if before else models.default,
            rail.layer: (before.layer if before else None) or AUTOMATIC,
            rail.method: before.method if before else method,
        }

    def choose(class_: int, subject: Subject, *look: Any) -> Updates:
        if class_ == subject.class_:  # Gradio's dropdown also sends what it has when it is left
            return {rail.notice: markup.notice()}
        return show(subject._replace(class_=class_), Look(*look)) | {every_class: class_}

    def click(event: gr.EventData, latest: list[int], subject: Subject, *look: Any) -> Updates:
        latest[:] = [event.value]
        updates = choose(event.value, subject, *look)
        return updates if latest == [event.value] else {rail.notice: gr.skip()}  # another was clicked meanwhile

    def draw(subject: Subject | None, *look: Any) -> Updates:
        return show(subject, Look(*look)) if subject else {rail.notice: gr.skip()}

    def clear(under_way: list[Any]) -> Updates:
        under_way.clear()
        return {
            rail.subject: None,
            rail.notice: markup.notice(),
            saved.link: "",
            empty: gr.update(visible=True),
            results: gr.update(visible=False),
        }

    outputs = [rail.subject, rail.wanted, rail.notice, rail.picture, rail.model, rail.about, rail.method, rail.layer]
    outputs += [empty, results, comparison, hint, facts, answers, every_class, saved.link, saved.code]
    # Where one picture replaces another, Gradio empties its place first: of two changes this makes one.
    path = gr.Textbox("", visible=False)
    rail.picture.change(None, rail.picture, path, js="picture => picture?.path ?? ''")
    under_way = gr.State([])
    asked = [under_way, rail.picture, rail.model, rail.layer, rail.method, rail.subject, rail.wanted]
    gr.on(
        [path.change, rail.model.input, rail.layer.input, rail.method.input],
        ask_or_stay,
        [*asked, *looks],
        outputs,
        show_progress_on=busy,
        trigger_mode="always_last",  # a picture that comes while another is explained must not be lost
        preprocess=False,
        api_visibility="private",
        **DECODES,
    )
    # A class that is clicked while another is drawn must not be lost.
    clicked = [gr.State([]), rail.subject, *looks]
    answers.click(rail.told(click), clicked, outputs, trigger_mode="multiple", **QUIET)
    every_class.input(
        rail.told(choose), [every_class, rail.subject, *looks], outputs, trigger_mode="always_last", **QUIET
    )
    gr.on(
        [widget.change for widget in looks],
        rail.told(draw),
        [rail.subject, *looks],
        outputs,
        trigger_mode="always_last",
        **QUIET,
    )
    rail.picture.clear(clear, under_way, outputs, **QUIET)
    return looks


def _facts(seen: Seen, subject: Subject, truth: str) -> list[tuple[str, str]]:
    inspection = seen.inspection
    chosen = inspection.prediction(subject.class_)
    height, width = inspection.target.grid
    return [
        ("class", chosen.label),
        *([("true class", truth)] if truth else []),
        ("probability", markup.percent(chosen.probability)),
        ("layer", inspection.target.layer),
        ("grid", f"{width} × {height}"),
        ("time", f"{seen.milliseconds:.0f} ms"),
        ("device", str(inspection.device).upper()),
    ]


def choices(seen: Seen) -> list[tuple[str, int]]:
    """Every class, best first, with its probability; the value is the index, so that equal names stay apart."""
    labels, probabilities = seen.inspection.classifier.labels, seen.inspection.probabilities
    return [
        (f"{labels[index]} · {markup.percent(probabilities[index])}", int(index))
        for index in (-probabilities).argsort()
    ]


def _advice(seen: Seen, subject: Subject, most: float, full: float) -> str:
    """What to try when the large map shows little."""
    label, layer = seen.inspection.classifier.labels[subject.class_], seen.inspection.target.layer
    if most <= 0 and subject.method == "counterfactual":
        return f"Nothing at {layer} speaks against “{label}”. Try an earlier layer."
    if most <= 0:
        return (
            f"Nothing at {layer} speaks for “{label}”. Try another method, an earlier layer, or the counterfactual: "
            "it shows what speaks against the class."
        )
    if most < WEAK * full:
        return (
            f"The evidence for “{label}” is weak: at most {markup.percent(most / full)} of the strongest shown. "
            "“Own scale” makes it visible; an earlier layer or another method may say more."
        )
    return ""
