"""Fragments of the page, as HTML. Whatever a visitor or a model can name is escaped here and nowhere else."""

import base64
import io
import json
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from PIL import Image

from ..classifiers import Classifier
from ..pipeline import Prediction

# A click on an element with data-value becomes an event of the fragment: event.value.
CHOOSE = """
element.addEventListener('click', event => {
    const chosen = event.target.closest('[data-value]')
    if (!chosen) return
    element.dataset.chosen = chosen.dataset.value  // for what runs in the page alone, and is not given the event
    trigger('click', { value: Number(chosen.dataset.value) })
})
"""
# The position of the slider, kept when the pictures change. A new picture comes into view where it would be below.
SLIDE = """
element.addEventListener('input', event => element.style.setProperty('--at', `${event.target.value}%`))
let before
const come = () => {
    const picture = element.querySelector('img')?.src
    if (picture !== before && matchMedia('(max-width: 800px)').matches) element.scrollIntoView({ behavior: 'smooth' })
    before = picture
}
come()
watch('value', come)
"""

# What a fragment comes to say is read out; the element itself stays, which screen readers need to notice.
SPEAK = "element.role = 'status'"
# Text is copied on a click on an element with data-copy; of a link, the whole address.
COPY = """
element.addEventListener('click', async event => {
    const button = event.target.closest('[data-copy]')
    if (!button) return
    const text = button.closest('[data-query]') ? new URL(button.dataset.copy, location) : button.dataset.copy
    const area = Object.assign(document.createElement('textarea'), { value: text })
    document.body.append(area)
    area.select()
    document.execCommand('copy')  // navigator.clipboard is missing where the page comes by plain http
    area.remove()
    button.focus()
    button.textContent = 'Copied'
    setTimeout(() => { button.textContent = button.dataset.title }, 1500)
})
"""
# The address bar follows what is shown, and not what a hidden tab would show.
FOLLOW = (
    COPY
    + """
const follow = () => {
    const link = element.querySelector('[data-query]')
    if (link?.checkVisibility()) history.replaceState(null, '', link.dataset.query)
}
new ResizeObserver(follow).observe(element)  // also when its tab is opened
watch('value', follow)
"""
)


class Column(NamedTuple):
    """What one of several models says: its name, where its evidence was read, panels of it, and its best classes."""

    name: str
    where: str
    panels: list[tuple[Image.Image, str, str]]
    best: list[Prediction]


class Answer(NamedTuple):
    """A class in the list: its index, name and probability, and its map as a thumbnail."""

    class_: int
    label: str
    probability: float
    thumbnail: Image.Image


def data_url(picture: Image.Image) -> str:
    """A picture within the page itself, so that no file of it stays on the server."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def percent(probability: float) -> str:
    """A probability with as many digits as tell something: above 99.9 %, 89.7 %, 0.02 %, below 0.01 %."""
    if probability < 0.0001:
        return "< 0.01 %"
    if 0.9995 <= probability < 1:
        return "> 99.9 %"
    return f"{100 * probability:.{2 if probability < 0.00095 else 1}f} %"


def notice(message: str = "", kind: str = "problem") -> str:
    """One sentence to the visitor, read out by screen readers; nothing without one."""
    return f'<p class="notice {kind}" role="alert">{escape(message)}</p>' if message else ""


def refuse(most: int, message: str) -> str:
    """JavaScript by which a notice says of itself how many bytes a picture may have, and refuses one that has more."""
    return f"""
        element.dataset.most = {most}
        element.addEventListener('refuse', () => {{ props.value = {json.dumps(notice(message))} }})
    """


def spoken(message: str) -> str:
    """A message for screen readers alone."""
    return f"<p>{escape(message)}</p>"


def comparison(picture: str, evidence: Image.Image, about: str) -> str:
    """A picture, as a URL, and the evidence in one of the same size on top of it, with a slider between them."""
    width, height = evidence.size
    return (
        f'<figure class="comparison" style="--ratio: {width / height:.4f}">'
        f'<img src="{picture}" alt="The picture" draggable="false">'
        f'<img class="evidence" src="{data_url(evidence)}" alt="{escape(about)}" draggable="false">'
        '<span class="divider"></span>'
        '<input type="range" min="0" max="100" step="1" value="12" aria-label="How much of the picture to uncover">'
        "</figure>"
    )


def legend(bar: Image.Image, strongest: str, cropped: bool) -> str:
    """What the colours mean, from no evidence to `strongest`, and the grey where the network does not look."""
    grey = '<span class="unseen">Grey: not seen by the network</span>' if cropped else ""
    return (
        f'<p class="legend"><span>none</span><img src="{data_url(bar.resize((256, 16)))}" alt="to">'
        f"<span>{escape(strongest)}</span>{grey}</p>"
    )


def examples(thumbnails: Iterable[tuple[int, str, str, Image.Image]]) -> str:
    """Pictures to start with, as buttons: the number of each, its name, and the kind that it stands under."""
    groups = []
    for kind, several in groupby(thumbnails, itemgetter(2)):
        buttons = (
            f'<button type="button" data-value="{number}" title="{escape(name)}" aria-label="Example: {escape(name)}">'
            f'<img src="{data_url(picture)}" alt="">{f"<span>{escape(name)}</span>" if kind else ""}</button>'
            for number, name, _, picture in several
        )
        groups.append((small(kind) if kind else "") + f'<div class="examples">{"".join(buttons)}</div>')
    return f'<div role="group" aria-label="Examples">{"".join(groups)}</div>'


def answers(classes: Sequence[Answer], chosen: int) -> str:
    """The classes as buttons, best first, the chosen one pressed."""
    buttons = (_answer(answer, chosen) for answer in classes)
    return f'<div class="answers" role="group" aria-label="Classes">{"".join(buttons)}</div>'


def _answer(answer: Answer, chosen: int) -> str:
    label, pressed = escape(answer.label), "true" if answer.class_ == chosen else "false"
    return (
        f'<button type="button" class="answer" data-value="{answer.class_}" aria-pressed="{pressed}" title="{label}">'
        f'<img src="{data_url(answer.thumbnail)}" alt="">{_chance(answer.label, answer.probability)}</button>'
    )


def _chance(label: str, probability: float) -> str:
    """A class with its probability, as a number and as a bar."""
    return (
        f'<span class="label">{escape(label)}</span><span class="probability">{percent(probability)}</span>'
        f'<span class="bar"><span style="width: {100 * probability:.2f}%"></span></span>'
    )


def about(classifier: Classifier) -> str:
    """What a model can say at all."""
    _, height, width = classifier.input_size
    text = f"Sees the picture resized to {width} × {height} pixels and knows {len(classifier.labels):,} classes."
    if len(names := ", ".join(classifier.labels)) <= 160:
        text += f" Whatever the picture shows, it answers with one of these: {names}."
    return small(text)


def small(text: str) -> str:
    """A remark."""
    return f'<p class="small">{escape(text)}</p>'


def code(lines: str) -> str:
    """Python to copy."""
    return f'<pre class="code"><code>{escape(lines)}</code></pre>{_copy("Copy", lines)}'


def link(query: str, kept: str) -> str:
    """A button that copies the address which brings this state back, and what the address bar keeps of it."""
    return f'<div class="link" data-query="{escape(kept)}">{_copy("Copy link", query)}</div>'


def _copy(title: str, text: str) -> str:
    title = escape(title)
    return f'<button type="button" class="copy" data-copy="{escape(text)}" data-title="{title}">{title}</button>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values in one line."""
    items = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{"".join(items)}</dl>'


def panels(pictures: Iterable[tuple[Image.Image, str, str]]) -> str:
    """Pictures side by side, each with a title and a line below it."""
    figures = (
        f'<figure><img src="{data_url(picture)}" alt="{escape(title)}"><figcaption><b title="{escape(title)}">'
        f"{escape(title)}</b><span>{escape(detail)}</span></figcaption></figure>"
        for picture, title, detail in pictures
    )
    return f'<div class="panels">{"".join(figures)}</div>'


def columns(models: Iterable[Column]) -> str:
    """Models beside each other."""
    sections = (
        f'<section><h3 title="{escape(model.name)}">{escape(model.name)}</h3>{small(model.where)}'
        f"{panels(model.panels)}<ol>"
        + "".join(f'<li class="chance">{_chance(best.label, best.probability)}</li>' for best in model.best)
        + "</ol></section>"
        for model in models
    )
    return f'<div class="columns">{"".join(sections)}</div>'
