"""How evidence is drawn on the page: opacity, colours, contour. Changing them costs no pass of the network."""

from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import render
from ..images import Framing


class Look(NamedTuple):
    """The choices. contour: a fraction of the full scale, 0 for none. own_scale: the large map against itself."""

    opacity: float = 0.65
    colormap: str = next(iter(render.COLORMAPS))
    contour: float = 0
    map_only: bool = False
    own_scale: bool = False

    @property
    def style(self) -> dict[str, Any]:
        """What differs from the defaults, as arguments of `overlay` and `heatmap`."""
        style: dict[str, Any] = {"contour": self.contour} if self.contour else {}
        if self.opacity != Look().opacity and not self.map_only:
            style["opacity"] = self.opacity
        if self.colormap != Look().colormap:
            style["colormap"] = self.colormap
        return style

    @property
    def bar(self) -> Image.Image:
        """The colours, from no evidence to the strongest."""
        return render.colour_bar(self.colormap)

    def draw(
        self, picture: Image.Image, framing: Framing, saliency: NDArray[np.float32], full: float | None
    ) -> Image.Image:
        """The map over its picture, or alone."""
        if self.map_only:
            return render.heatmap(saliency, framing, full=full, **self.style)
        return render.overlay(picture, saliency, framing, full=full, **self.style)


def build() -> list[Any]:
    """Place the widgets, in the order of Look."""
    default = Look()
    with gr.Row(elem_id="look"):
        return [
            gr.Slider(0, 1, default.opacity, step=0.05, label="Opacity", min_width=130, buttons=[]),
            gr.Dropdown(list(render.COLORMAPS), value=default.colormap, label="Colours", min_width=120),
            gr.Slider(0, 0.95, default.contour, step=0.05, label="Contour", min_width=130, buttons=[]),
            gr.Checkbox(default.map_only, label="Map only", min_width=90),
            gr.Checkbox(default.own_scale, label="Own scale", min_width=90),
        ]
