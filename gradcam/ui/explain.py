"""The tab "Explain": what the model believes, and where the evidence for each class is."""

from pathlib import Path
from typing import Any, NamedTuple

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
  <p>Drop a photograph, paste one, or start with an example. <br>It stays on the machine that serves this page.</p>
</div>
"""
WEAK = 0.15  # of the strongest evidence shown
# What is chosen, and how many times something was.
CLICKED = "times => [Number(document.querySelector('#answers [data-chosen]').dataset.chosen), times + 1]"
CHOSEN = "(times, chosen) => [chosen, times + 1]"
ARRIVED = "(picture, refusals, path) => picture ? `${refusals} ${picture.path}` : path"
REMOVED = "() => { history.replaceState(null, '', location.pathname); return '' }"  # the address led to the picture


class Asked(NamedTuple):
    """Everything that can be chosen, as the page holds it; `before` is what it shows, `wanted` the class of a link."""

    picture: Any
    model: str
    layer: str
    method: str
    class_: int | None
    before: Subject | None
    wanted: str | None
    look: Look


def build(rail: Rail, models: Models, busy: gr.HTML) -> list[Any]:
    """Place the tab here. Returns the widgets of its Look, which every tab follows. busy: shows that it works."""
    empty = gr.HTML(EMPTY, apply_default_css=False)
    # In the order of reading: so it is walked through by keyboard, and stacked where the page is narrow.
    with gr.Row(elem_id="explain", visible=False) as results:
        with gr.Column(elem_id="large"):
            comparison = gr.HTML(js_on_load=markup.SLIDE, apply_default_css=False, elem_id="comparison")
            legend = gr.HTML(apply_default_css=False)
            hint = gr.HTML(apply_default_css=False)
        with gr.Column(elem_id="classes"):
            answers = gr.HTML(js_on_load=markup.CHOOSE, apply_default_css=False, elem_id="answers")
            every_class = gr.Dropdown([], value=None, label="Any class", elem_id="every-class")
        with gr.Column(elem_id="details"):
            facts = gr.HTML(apply_default_css=False, elem_id="facts")
            looks = look.build()
            saved = save.build(rail, models, looks)
            stages.build(rail, models, looks)

    spoken = gr.HTML(js_on_load=markup.SPEAK, apply_default_css=False, elem_id="spoken")
    # Apart from the list, which is long: of what a question is about the browser makes copies.
    chosen_class = gr.Number(None, visible=False)

    def show(subject: Subject, look: Look) -> Updates:
        seen = subject.seen(models)
        inspection, labels = seen.inspection, seen.inspection.classifier.labels
        shown = seen.shown(subject.class_)
        result = seen.evidence(subject.class_, subject.method)
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
        strongest = f"strongest {subject.side} this class" if look.own_scale else "strongest shown"
        drawn = look.draw(*seen.screen, large, None if look.own_scale else result.full)
        return saved.updates(subject, look) | {
            rail.subject: subject,
            rail.notice: markup.notice(),
            comparison: markup.comparison(
                seen.url, drawn, f"Where the evidence {subject.side} {labels[subject.class_]} is"
            ),
            legend: markup.legend(look.bar, strongest, seen.screen[1].cropped),
            hint: markup.notice(_advice(seen, subject, float(large.max()), result.full), "hint"),
            answers: markup.answers(classes, subject.class_),
            facts: markup.facts(_facts(seen, subject, rail.examples.truth(subject.picture))),
            spoken: markup.spoken(_spoken(seen, subject)),
        }

    def ask(restored: list[Path], asked: Asked) -> Updates:
        """What everything that can be chosen, as it stands now, comes to."""
        path, model, layer, before = uploaded(asked.picture), asked.model, asked.layer, asked.before
        named = None if layer == AUTOMATIC else layer
        # Unless something else was chosen meanwhile.
        again = restored == [path] and (path, model, named, asked.method, asked.class_) == before
        restored.clear()
        if again:
            return {rail.notice: gr.skip()}
        automatic = layer == AUTOMATIC or (before is not None and model != before.model)
        chosen = None if automatic else layer
        seen = models.get(model).see(path, chosen)
        best, problem = seen.inspection.top(1)[0].index, ""
        fresh = before is None or (path, model) != before[:2]
        class_ = best if fresh or asked.class_ is None else asked.class_
        if fresh and asked.wanted is not None:
            try:
                class_ = seen.inspection.classifier.index(asked.wanted)
            except ModelError as error:
                problem = str(error)
        subject = Subject(path, model, chosen, asked.method, seen.inspection.classifier.index(class_))
        updates: Updates = {every_class: subject.class_}
        if automatic and layer != AUTOMATIC:  # otherwise it is left alone: it may be another by now, as the class may
            updates[rail.layer] = AUTOMATIC
        if fresh:
            updates[chosen_class] = subject.class_
            updates[rail.about] = markup.about(seen.inspection.classifier)
            updates[every_class] = gr.update(choices=choices(seen), value=subject.class_)
        if before is None:
            updates |= {empty: gr.update(visible=False), results: gr.update(visible=True)}
        return show(subject, asked.look) | {**updates, rail.wanted: None, rail.notice: markup.notice(problem)}

    def ask_or_stay(under_way: list[Any], restored: list[Path], *values: Any) -> Updates:
        """As `ask`; where that fails, everything stays as it was before, and the sentence says why."""
        asked = Asked._make([*values[: -len(looks)], Look(*values[-len(looks) :])])
        picture, before = asked.picture, asked.before
        if picture is None:  # removed; `clear` may have been overtaken by the answer
            return clear(under_way) | {rail.notice: gr.skip()}
        under_way[:] = [picture]
        try:
            updates = rail.told(ask)(restored, asked)
        except gr.Error as error:
            updates = {rail.notice: markup.notice(error.message)}
        if not under_way:  # the picture was removed meanwhile
            return {rail.notice: gr.skip()}
        under_way.clear()
        if rail.subject in updates or updates[rail.notice] == gr.skip():
            return updates
        if before and not (isinstance(picture, dict) and picture.get("path") == str(before.picture)):
            restored[:] = [before.picture]  # which the page asks about, as of any picture that takes another's place
        return updates | {
            rail.picture: str(before.picture) if before else None,
            rail.model: before.model if before else models.default,
            rail.layer: (before.layer if before else None) or AUTOMATIC,
            rail.method: before.method if before else asked.method,
            chosen_class: before.class_ if before else None,
        }

    def clear(under_way: list[Any]) -> Updates:
        under_way.clear()
        return {
            rail.subject: None,
            rail.notice: markup.notice(),
            spoken: "",
            saved.link: "",
            empty: gr.update(visible=True),
            results: gr.update(visible=False),
        }

    outputs = [rail.subject, rail.wanted, rail.notice, rail.picture, rail.model, rail.about, rail.method, rail.layer]
    outputs += [empty, results, comparison, legend, hint, facts, spoken, answers, every_class, chosen_class]
    outputs += [saved.link, saved.code]
    # Where one picture replaces another, Gradio empties its place first, for an SVG even for a while: what is shown
    # stays, and of two changes this makes one. A question that was refused may be put again.
    path, refusals = gr.Textbox("", visible=False), gr.Number(0, visible=False)
    rail.picture.change(None, [rail.picture, refusals, path], path, js=ARRIVED)
    times = gr.Number(0, visible=False)
    answers.click(None, times, [chosen_class, times], js=CLICKED)
    every_class.input(None, [times, every_class], [chosen_class, times], js=CHOSEN)
    # One event for all, in which everything is read as it stands: whatever is chosen while another answer is under way
    # is neither lost nor mixed with it.
    under_way, restored = gr.State([]), gr.State([])
    values = [rail.picture, rail.model, rail.layer, rail.method, chosen_class, rail.subject, rail.wanted, *looks]
    question = gr.on(
        [path.change, rail.model.input, rail.layer.input, rail.method.input, times.change]
        + [widget.change for widget in looks],
        ask_or_stay,
        [under_way, restored, *values],
        outputs,
        show_progress_on=busy,
        trigger_mode="always_last",
        preprocess=False,
        api_visibility="private",
        **DECODES,
    )
    question.failure(None, refusals, refusals, js="refusals => refusals + 1")
    rail.picture.clear(clear, under_way, outputs, **QUIET)
    rail.picture.clear(None, None, path, js=REMOVED)
    return looks


def _spoken(seen: Seen, subject: Subject) -> str:
    """The answer for those who do not see it."""
    chosen = seen.inspection.prediction(subject.class_)
    evidence = f"evidence {subject.side} it at {seen.inspection.target.layer}"
    return f"{chosen.label} {markup.percent(chosen.probability)}, {evidence}"


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
    if most <= 0 and subject.side == "against":
        return f"Nothing at {layer} speaks against “{label}”. Try an earlier layer."
    if most <= 0:
        return (
            f"Nothing at {layer} speaks for “{label}”. Try another method, an earlier layer, or the counterfactual: "
            "it shows what speaks against the class."
        )
    if most < WEAK * full:
        return (
            f"The evidence {subject.side} “{label}” is weak: at most {markup.percent(most / full)} of the strongest "
            "shown. “Own scale” makes it visible; an earlier layer or another method may say more."
        )
    return ""
