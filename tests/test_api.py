"""The endpoints for programs, asked through gradio_client."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import Served
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
    return Client(served.url, verbose=False)


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


LAYERS = "the network has no layer 'no.such'"
ARRIVE = "The picture did not arrive: upload it again."
PLAIN = "The model, the method and the layer are given by name, as text."


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"model": "resnet1"}, "There is no model 'resnet1'; did you mean "),
        ({"model": "<script>alert(1)</script>"}, "There is no model '<script>alert(1)</script>' "),
        ({"model": "x" * 100_000}, f"There is no model '{'x' * 80}' "),
        ({"model": 7}, PLAIN),
        ({"model": ["cifar10"]}, PLAIN),
        ({"class_": "lionn"}, "efficientnet_lite0 has no class 'lionn'; did you mean lion"),
        ({"class_": "1000"}, "efficientnet_lite0 has no class 1000: its 1000 classes are 0 to 999."),
        ({"class_": -1}, "efficientnet_lite0 has no class -1: its 1000 classes are 0 to 999."),
        ({"class_": 10**30}, f"efficientnet_lite0 has no class {10**30}: its 1000 classes are 0 to 999."),
        ({"class_": "9" * 5000}, f"efficientnet_lite0 has no class {'9' * 80}: its 1000 classes are 0 to 999."),
        ({"class_": 1.5}, "The class is given by its label or index."),
        ({"class_": {"path": "x"}}, "The class is given by its label or index."),
        ({"method": "no such"}, "There is no method 'no such': choose one of gradcam, "),
        ({"layer": "no.such"}, LAYERS),
        ({"layer": 4}, PLAIN),
        ({"picture": None}, ARRIVE),
        ({"picture": "/etc/passwd"}, ARRIVE),
        ({"picture": {"path": "/etc/passwd"}}, ARRIVE),
        ({"picture": {"path": "../../../etc/passwd"}}, ARRIVE),
        ({"picture": {"path": ["x"]}}, ARRIVE),
        ({"picture": {"url": "data:image/png;base64," + "A" * 1_000_000}}, ARRIVE),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_bad_input_is_answered_in_one_sentence(client: Client, asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AppError) as caught:
        client.predict(**{"picture": handle_file(LION)} | asked, api_name="/explain")
    answer = str(caught.value).strip("'\"")
    assert sentence in answer
    assert len(answer) < 500
    assert "\n" not in answer
    assert client.predict(handle_file(LION), api_name="/predict")[0]["label"] == "lion"


@pytest.mark.parametrize("content", [b"", b"no picture", LION.read_bytes()[:2000]])
def test_a_file_that_is_no_picture(client: Client, tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(content)
    with pytest.raises(AppError, match=r"^[^/]*'broken.jpg' (is empty|is not a picture|cannot be decoded)"):
        client.predict(handle_file(broken), api_name="/predict")


def test_no_file_of_the_server_is_read_or_told_of(served: Served, tmp_path: Path) -> None:
    """gradio_client would upload such a file: a program that speaks to the server directly does not."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64)).save(secret)
    address = f"{served.url}gradio_api/call/predict"
    for path in (str(secret), "file:///etc/passwd", "/proc/self/environ"):
        picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
        event = httpx.post(address, json={"data": [picture, ""]}).json()["event_id"]
        assert httpx.get(f"{address}/{event}", timeout=60).text == 'event: error\ndata: {"error": null}\n\n'
