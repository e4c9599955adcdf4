"""Fixtures that several modules share."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

if TYPE_CHECKING:
    import gradio as gr
    from gradio_client import Client
    from playwright.sync_api import Browser, Page

    from gradcam.ui.models import Models

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
# Chromium itself asks its maker for updates and the like, unless it is told not to.
CHROMIUM_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync "
    "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"  # a camera that everybody may use
)


class Served(NamedTuple):
    """A page that is being served by this process."""

    url: str
    models: "Models"
    blocks: "gr.Blocks"


META = {"_type": "gradio.FileData"}  # what marks a file in a request


class Visitor:
    """Speaks to the server without gradio_client, which would mend or refuse much of what is sent here."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=f"{url}gradio_api/", timeout=120)

    def upload(self, content: bytes, name: str = "picture.png") -> dict[str, Any]:
        answer = self.http.post("upload", files={"files": (name, content)})
        assert answer.status_code == 200
        return {"path": answer.json()[0], "meta": META}

    def call(self, endpoint: str, *data: Any) -> Any:
        """What a named endpoint answers: its result, or a sentence."""
        body = json.dumps({"data": data})  # in ASCII, so that any text can be sent
        joined = self.http.post(f"call/{endpoint}", content=body, headers={"Content-Type": "application/json"})
        if joined.status_code != 200:
            return joined.json()["detail"]
        lines = self.http.get(f"call/{endpoint}/{joined.json()['event_id']}").text.strip().split("\n")
        answer = json.loads(lines[-1].removeprefix("data: "))
        return answer["error"] if lines[-2] == "event: error" else answer[0]

    def trigger(self, session: str, event: int, data: list[Any], happened: Any = None) -> str:
        """All that the page is told when it triggers one of its own events."""
        body = {"fn_index": event, "data": data, "session_hash": session, "event_data": happened}
        joined = self.http.post("queue/join", json=body)
        if joined.status_code != 200:
            return joined.text
        return self.http.get("queue/data", params={"session_hash": session}).text


def connected(url: str, **options: Any) -> "Client":
    """A program that speaks through gradio_client, which by itself gives a busy server five seconds for an answer."""
    from gradio_client import Client

    return Client(url, verbose=False, httpx_kwargs={"timeout": 300}, **options)


def installed(*names: str) -> str:
    """The path of the first of these programs that is here. Without any the test is skipped; under CI it fails."""
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{names[0]} is not installed")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of sample pictures that are not part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the sample data in ../shared/data is absent")
    return SHARED_DATA


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """The page as `python app.py` serves it."""
    from gradcam.ui import page
    from gradcam.ui.launch import serve
    from gradcam.ui.models import Models

    models = Models()
    blocks = serve(page.build(models))
    yield Served(blocks.local_url, models, blocks)
    blocks.close()


@pytest.fixture(scope="session")
def visitor(served: Served) -> Iterator[Visitor]:
    """A program that speaks to the page."""
    visitor = Visitor(served.url)
    yield visitor
    visitor.http.close()


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    playwright.expect.set_options(timeout=120_000)
    chromium = installed("chromium", "google-chrome")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: "Browser", served: Served) -> Iterator[Callable[..., "Page"]]:
    """Opens the page for a visitor. Fails when it asks anything of another machine, or logs an error."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(120_000)
    strangers: list[str] = []
    errors: list[str] = []
    context.on("request", lambda request: strangers.append(request.url) if _leaves(request.url) else None)
    context.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: errors.append(str(error.error)))

    def open_(query: str = "") -> "Page":
        page = context.new_page()
        page.goto(served.url + query)
        page.get_by_role("group", name="Examples").wait_for()
        return page

    yield open_
    context.close()
    assert strangers == []
    assert errors == []


@pytest.fixture
def page(visit: Callable[..., "Page"]) -> "Page":
    """The page as a visitor finds it."""
    return visit()


def _leaves(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1"
