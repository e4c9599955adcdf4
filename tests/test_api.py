"""The endpoints for programs, asked through gradio_client."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Served, connected
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import gradcam
from gradcam.ui.rail import EXAMPLES

# Gradio's statistics of its own queue use what pandas has since deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:gradio\.queueing")

LION = EXAMPLES[1]


@pytest.fixture(scope="module")
def client(served: Served) -> Client:
    return connected(served.url)


def test_the_endpoints_have_names(client: Client) -> None:
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/models", "/predict", "/explain"}


def test_models(client: Client, served: Served) -> None:
    answer = client.predict(api_name="/models")
    assert answer == {"models": served.models.names, "default": "efficientnet_lite0", "methods": list(gradcam.METHODS)}


@pytest.mark.parametrize("model", ["efficientnet_lite0", "cifar10"])
def test_predict(client: Client, model: str) -> None:
    answer = client.predict(handle_file(LION), model, api_name="/predict")
    expected = gradcam.explain(LION, gradcam.load(model)).inspection.top()
    assert [row["label"] for row in answer] == [prediction.label for prediction in expected]
    np.testing.assert_allclose([row["probability"] for row in answer], [p.probability for p in expected], rtol=1e-4)


@pytest.mark.parametrize(
    ("asked", "class_", "method", "layer"),
    [
        ({}, "lion", "gradcam", None),
        ({"class_": "Teapot"}, "teapot", "gradcam", None),
        ({"class_": "292", "method": "layercam"}, "tiger", "layercam", None),
        ({"class_": 292, "layer": "blocks.5"}, "tiger", "gradcam", "blocks.5"),
    ],
)
def test_explain(client: Client, asked: dict[str, Any], class_: str, method: str, layer: str | None) -> None:
    record, overlay = client.predict(handle_file(LION), **asked, api_name="/explain")
    classifier = gradcam.load("efficientnet_lite0")
    best = [prediction.index for prediction in gradcam.explain(LION, classifier).inspection.top()]
    expected = gradcam.explain(LION, classifier, [*best, class_], method, layer)
    assert record["class"]["label"] == class_
    assert record["layer"] == expected.inspection.target.layer
    peak = expected.full
    np.testing.assert_allclose(record["map"], expected.map(class_), atol=1e-4 * peak)
    shown = np.asarray(Image.open(overlay), int)
    assert np.abs(shown - np.asarray(expected.overlay(class_), int)).max() <= 1


def test_a_bad_argument_is_told(client: Client) -> None:
    """Of all that can be wrong, see test_bad_input."""
    with pytest.raises(AppError, match="efficientnet_lite0 has no class 'lionn'; did you mean lion"):
        client.predict(handle_file(LION), class_="lionn", api_name="/explain")


@pytest.mark.parametrize("content", [b"", b"no picture", LION.read_bytes()[:2000]])
def test_a_file_that_is_no_picture(client: Client, tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(content)
    with pytest.raises(AppError, match=r"^[^/]*'broken.jpg' (is empty|is not a picture|cannot be decoded)"):
        client.predict(handle_file(broken), api_name="/predict")
