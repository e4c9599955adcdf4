"""The page: a rail with the picture and the model, and a tab for each kind of question."""

from pathlib import Path
from typing import Any

import gradio as gr

from ..methods import METHODS
from . import api, compare, explain, guard, two_models
from .models import Models
from .rail import QUIET, Rail, Updates
from .rail import build as build_rail

HERE = Path(__file__).parent
TABS = {"explain": "Explain", "compare": "Why this and not that", "models": "Two models"}  # by their names in a link
HEADER = """<header><h1>Grad<span>CAM</span></h1><p>Why a network said that, and not the other thing</p></header>"""


def build(models: Models, data: Path | None = None) -> gr.Blocks:
    """The whole page, ready to be launched with `look`. data: as for Examples. Raises DataError."""
    cache = guard.SWEEP, guard.KEPT
    with guard.Blocks(title="Grad-CAM", analytics_enabled=False, fill_width=True, delete_cache=cache) as page:
        gr.HTML(HEADER, apply_default_css=False, elem_id="header")
        with gr.Row(elem_id="page"):
            with gr.Column(elem_id="rail", min_width=280):
                rail = build_rail(models, data)
            with gr.Column(elem_id="main", min_width=300):
                # It stands for all below: progress shown on what holds the pictures would have the browser copy them.
                busy = gr.HTML(elem_id="busy", apply_default_css=False)
                with gr.Tabs() as tabs:
                    first, second, third = (gr.Tab(title, id=name) for name, title in TABS.items())
                    with first:
                        looks = explain.build(rail, models, busy)
                    with second:
                        compare.build(rail, models, looks, second, [first, third])
                    with third:
                        other = two_models.build(rail, models, looks, third, [first, second])

        def restore(request: gr.Request) -> Updates:
            query = dict(request.query_params)
            return _restore(rail, models, query) | {
                tabs: gr.update(selected=query["tab"]) if query.get("tab") in TABS else gr.skip(),
                other: _model(models, query.get("second")),
            }

        restored = [rail.wanted, rail.rival, rail.model, rail.method, rail.layer, rail.picture, rail.notice]
        page.load(rail.told(restore), None, [*restored, tabs, other], **QUIET)
        api.build(models)
    page.queue(max_size=64, default_concurrency_limit=4, api_open=False)
    return page


def _restore(rail: Rail, models: Models, query: dict[str, str]) -> Updates:
    """Bring back what a link asks of the rail: ?picture=lion&model=...&class=...&rival=...&method=...&layer=..."""
    method, picture = query.get("method"), query.get("picture")
    if rail.examples.belong_to(query.get("model", models.default)):
        rail.examples.tests()
    found = next((str(example.path) for example in rail.examples.all if example.path.stem == picture), gr.skip())
    return {
        rail.wanted: query.get("class", gr.skip()),
        rail.rival: query.get("rival", gr.skip()),
        rail.model: _model(models, query.get("model")),
        rail.method: method if method in METHODS else gr.skip(),
        rail.layer: query.get("layer", gr.skip()),
        rail.picture: found,
    }


def _model(models: Models, name: str | None) -> Any:
    """A model that a link names; left aside where it would be a stranger's download or path."""
    known = name in models.names or (name and not models.public and ":" not in name)
    return name if known else gr.skip()


def look() -> dict[str, Any]:
    """Arguments of `launch` for colours, fonts, layout, icon, and what concerns the page as a whole."""
    return {
        "theme": _theme(),
        "css_paths": HERE / "style.css",
        "js": (HERE / "page.js").read_text("utf-8"),
        "favicon_path": HERE / "icon.svg",
    }


def _theme() -> gr.themes.Base:
    """Base with one accent, in which all text has a contrast of 4.5 or more."""
    theme = gr.themes.Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="zinc",
        # Gradio brings its fonts along; of the semi-bold ones most letters are missing.
        font=(gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"),
        font_mono=(gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "monospace"),
    )
    return theme.set(
        body_background_fill="#ffffff",
        body_background_fill_dark="#111113",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="#1d1d20",
        block_background_fill_dark="transparent",
        block_shadow="none",
        block_border_width="0px",
        block_padding="0px",
        block_background_fill="transparent",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_400",
        color_accent="*primary_700",
        border_color_accent="*primary_700",
        border_color_accent_dark="*primary_400",
        block_title_text_size="13px",
        input_background_fill="white",
        input_background_fill_dark="#1d1d20",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        slider_color="*primary_700",
        slider_color_dark="*primary_400",
        button_secondary_background_fill="*neutral_100",
        button_secondary_background_fill_dark="#1d1d20",
        button_secondary_background_fill_hover="*neutral_200",
        button_secondary_background_fill_hover_dark="*neutral_800",
        button_border_width="1px",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        checkbox_background_color_selected="*primary_700",
        checkbox_border_color_selected="*primary_700",
        checkbox_border_color="*neutral_500",
        checkbox_border_color_dark="*neutral_400",
    )
