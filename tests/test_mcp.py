"""The tools for assistants: the named endpoints, through the Model Context Protocol and its own client."""

import ast
import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from conftest import Served
from PIL import Image

import gradcam
from gradcam.ui.rail import EXAMPLES

pytest.importorskip("mcp")
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

# Gradio's statistics of its own queue use what pandas has since deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:gradio\.queueing")

LION = EXAMPLES[1]
PICTURE = f"data:image/jpeg;base64,{base64.b64encode(LION.read_bytes()).decode()}"


def ask(url: str, tool: str = "", progress: Any = None, **arguments: Any) -> Any:
    """What a tool answers, with news of its progress; without a tool, the list of them."""

    async def asked() -> Any:
        async with (
            streamable_http_client(f"{url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            if not tool:
                return await session.list_tools()
            return await session.call_tool(tool, arguments, progress_callback=progress)

    with ThreadPoolExecutor(1) as other:  # this thread has the event loop of the browser tests
        return other.submit(anyio.run, asked).result()


async def ignore(*_: Any) -> None:
    """Take no notice."""


@pytest.fixture(scope="module")
def public() -> Iterator[str]:
    """The address of a page for strangers."""
    page = gradcam.launch(public=True, block=False)
    yield page.local_url
    page.close()


def test_the_tools_are_the_named_endpoints(served: Served) -> None:
    tools = {tool.name: tool for tool in ask(served.url).tools}
    assert set(tools) == {"list_models", "predict", "explain"}
    assert tools["predict"].description.startswith("The five classes that a model believes in most: index, label and ")
    properties = tools["explain"].inputSchema["properties"]
    assert set(properties) == {"picture", "model", "class_", "method", "layer"}
    assert properties["class_"]["description"] == "a label or an index; the best class when empty."
    assert tools["explain"].inputSchema["required"] == ["picture"]


def test_a_tool_explains_a_picture(served: Served) -> None:
    # To who wants no news of its progress, Gradio answers with all outputs in one text.
    answer = ask(served.url, "explain", ignore, picture=PICTURE, class_="tiger")
    record, overlay, _ = answer.content
    inspection = gradcam.Inspection(LION, gradcam.load("efficientnet_lite0"))
    expected = inspection.explain([*(prediction.index for prediction in inspection.top()), "tiger"])
    said = ast.literal_eval(record.text)
    assert said["class"]["label"] == "tiger"
    np.testing.assert_allclose(said["map"], expected.map("tiger"), atol=1e-4 * expected.full)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(overlay.data))), int)
    assert np.abs(shown - np.asarray(expected.overlay("tiger"), int)).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"model": "local-dir:/etc"},
            "There is no model 'local-dir:/etc' here: choose one of efficientnet_lite0, ci",
        ),
        ({"class_": "lionn"}, "efficientnet_lite0 has no class 'lionn'; did you mean lion"),
        ({"picture": "/etc/passwd"}, "Invalid file data format, provide a url"),
        ({"picture": "file:///etc/passwd"}, "Invalid file data format, provide a url"),
        ({"picture": "data:image/png;base64,AAAA"}, "is not a picture"),
        ({"picture": "http://127.0.0.1:1/x.png"}, "Pictures are not fetched from addresses: save the "),
        ({"picture": 7}, "Input validation error: 7 is not of type 'string'"),
    ],
)
def test_strangers_have_no_more_through_tools(public: str, arguments: dict[str, Any], sentence: str) -> None:
    answer = ask(public, "explain", **{"picture": PICTURE} | arguments)
    assert answer.isError
    assert sentence in answer.content[0].text
    assert len(answer.content[0].text) < 300


def test_behind_a_password_there_are_no_tools() -> None:
    page = gradcam.launch(auth=("me", "secret"), block=False)
    answer = httpx.post(f"{page.local_url}gradio_api/mcp/", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    page.close()
    assert answer.status_code in (401, 404, 405)
