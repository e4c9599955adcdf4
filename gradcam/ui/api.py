"""Named endpoints for programs, which speak to the page through `gradio_client`, and for assistants, through MCP."""

import functools
import io
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from gradio.events import api

from ..errors import InputError, ModelError
from ..methods import METHODS, method_named
from . import save
from .guard import DECODES
from .models import Models
from .rail import Subject, uploaded

P = ParamSpec("P")
R = TypeVar("R")


def build(models: Models) -> None:
    """Add /models, /predict and /explain to the page."""

    def subject(picture: Any, model: Any, class_: Any, method: Any, layer: Any) -> Subject:
        """What a program asks about; nothing it sends is known to be of its type."""
        if not all(isinstance(value, str) for value in (model, method, layer)):
            raise ModelError("The model, the method and the layer are given by name, as text.")
        if not isinstance(class_, str | int):
            raise ModelError("The class is given by its label or index.")
        method_named(method)
        path, model = uploaded(picture), model or models.default
        seen = models.get(model).see(path, layer or None)
        index = seen.inspection.top(1)[0].index if class_ == "" else seen.inspection.classifier.index(class_)
        return Subject(path, model, layer or None, method, index)

    @_told
    def list_models() -> dict[str, Any]:
        """Names for `model` and `method`, and the model that is asked when none is named."""
        return {"models": models.names, "default": models.default, "methods": list(METHODS)}

    @_told
    def predict(picture: gr.FileData, model: str = "") -> list[dict[str, Any]]:
        """The five classes that a model believes in most: index, label and probability in 0..1.

        Args:
            picture: a photograph; from an assistant, as a data URL of at most a megabyte.
            model: one of those that list_models names; its default when empty.
        """
        seen = subject(picture, model, "", "gradcam", "").seen(models)
        return [asdict(prediction) for prediction in seen.inspection.top()]

    @_told
    def explain(
        picture: gr.FileData, model: str = "", class_: str = "", method: str = "gradcam", layer: str = ""
    ) -> tuple[dict[str, Any], gr.FileData]:
        """Where a model's evidence for a class is: a record, and the overlay.

        The record holds the class, the five best, the layer, the box that the network saw, and the map before scaling.

        Args:
            picture: a photograph; from an assistant, as a data URL of at most a megabyte.
            model: one of those that list_models names; its default when empty.
            class_: a label or an index; the best class when empty.
            method: how the evidence is read; list_models names the others.
            layer: where it is read, by the name of a module; found when empty.
        """
        asked = subject(picture, model, class_, method, layer)
        seen = asked.seen(models)
        result = seen.evidence(asked.class_, asked.method)
        buffer = io.BytesIO()
        result.overlay(asked.class_).save(buffer, "PNG")
        overlay = save.saved(buffer, seen, asked, "overlay.png")
        return save.described(seen, asked), gr.FileData(path=overlay)

    api(list_models, api_name="models")
    api(predict, api_name="predict", **DECODES)
    api(explain, api_name="explain", **DECODES)


def _told(endpoint: Callable[P, R]) -> Callable[P, R]:
    """The endpoint, with what is wrong with the question told to who asked."""

    @functools.wraps(endpoint)
    def telling(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return endpoint(*args, **kwargs)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return telling
