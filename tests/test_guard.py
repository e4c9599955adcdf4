"""What protects a page that strangers visit, and the machine below it."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from conftest import Served, Visitor
from gradio.queueing import Event
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from test_bad_input import encoded

from gradcam.errors import ModelError
from gradcam.explainer import ForwardPass
from gradcam.targets import Target
from gradcam.ui import guard
from gradcam.ui.models import Loaded, Models
from gradcam.ui.rail import EXAMPLES


@contextmanager
def held(models: Models) -> Iterator[tuple[list[int], threading.Event]]:
    """The forward passes that the default network has begun, and what lets them end."""
    begun: list[int] = []
    go = threading.Event()

    def wait(*_: object) -> None:
        begun.append(1)
        assert go.wait(60)

    handle = models.get(models.default).classifier.model.register_forward_pre_hook(wait)
    try:
        yield begun, go
    finally:
        go.set()
        handle.remove()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Its result; in a thread, since playwright has its event loop run in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def until(condition: Callable[[], bool]) -> None:
    """Wait for what other threads do."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The maps that are asked of forward passes meanwhile."""
    counted: list[int] = []
    explain = ForwardPass.explain
    monkeypatch.setattr(ForwardPass, "explain", lambda *args: counted.append(1) or explain(*args))
    return counted


def test_what_nobody_waits_for_is_not_done(served: Served, visitor: Visitor, explained: list[int]) -> None:
    """Four of six programs are served at once. One of these and one that waits go away, and cost nothing more."""
    queue = served.blocks._queue
    pictures = [visitor.upload(encoded(Image.new("RGB", (64, 64), (index, 0, 0)), "PNG")) for index in range(6)]
    with ExitStack() as stack, held(served.models) as (begun, go):
        events: list[Event] = []
        streams: list[httpx.Response] = []
        for picture in pictures:
            id_ = visitor.http.post("call/explain", json={"data": [picture, "", "", "gradcam", ""]}).json()["event_id"]
            events.append(queue.event_ids_to_events[id_])
            streams.append(stack.enter_context(visitor.http.stream("GET", f"call/explain/{id_}")))
        until(lambda: len(begun) == 4)
        assert len(queue) == 2
        streams[0].close()
        streams[5].close()
        until(lambda: len(queue) == 1 and not events[0].alive)
        go.set()
        for stream in streams[1:5]:
            told = (line for line in stream.iter_lines() if line.startswith("event: "))
            assert next(event for event in told if event != "event: heartbeat") == "event: complete"
        until(lambda: not any(queue.active_jobs))
    assert len(begun) == 5
    assert len(explained) == 4


def test_a_page_that_is_closed_is_not_worked_for(
    visit: Callable[..., Any], served: Served, explained: list[int], tmp_path: Path
) -> None:
    queue = served.blocks._queue
    Image.new("RGB", (64, 64), (0, 1, 0)).save(tmp_path / "new.png")
    with held(served.models) as (begun, go):
        page = visit()
        page.locator("#picture input[type=file]").set_input_files(tmp_path / "new.png")
        until(lambda: len(begun) == 1)
        (event,) = [event for job in queue.active_jobs if job for event in job]
        page.close()
        until(lambda: event.closed)
        go.set()
        until(lambda: not any(queue.active_jobs))
    assert explained == []


def test_gradio_is_told_when_to_delete_and_how_many_visitors_to_remember(served: Served) -> None:
    assert served.blocks.delete_cache == (600, 3600)
    assert served.blocks.state_session_capacity == 256


def test_uploads_cut_short_are_swept_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is no folder yet when it is looked at first."""
    uploads, tmp_path = tmp_path / "uploads", tmp_path / "prepared"
    tmp_path.mkdir()
    long_ago = time.time() - guard.KEPT - 60
    for name, age in (("old", long_ago), ("new", None)):
        (tmp_path / f"tmp{name}").write_bytes(b"half a picture")
        for folder in (f"empty-{name}", f"full-{name}"):
            (tmp_path / folder).mkdir()
        (tmp_path / f"full-{name}" / "lion.jpg").write_bytes(b"a picture")
        if age:
            for path in tmp_path.glob(f"*{name}"):
                os.utime(path, (age, age))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    monkeypatch.setattr(guard, "SWEEP", 0)
    swept: list[Path] = []
    sweep = guard.sweep

    def watched(folder: Path) -> None:
        try:
            sweep(folder)
        finally:
            swept.append(folder)

    monkeypatch.setattr(guard, "sweep", watched)

    async def serve_for_a_while() -> None:
        async with guard.app_kwargs()["lifespan"](None):
            while not swept:
                await asyncio.sleep(0)
            tmp_path.rename(uploads)
            while (uploads / "tmpold").exists() or (uploads / "empty-old").exists():
                await asyncio.sleep(0)

    run(asyncio.wait_for(serve_for_a_while(), 60))
    assert {path.name for path in uploads.iterdir()} == {"tmpnew", "empty-new", "full-new", "full-old"}


def test_a_full_disk_takes_no_more_pictures(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LEAST_FREE", 2**60)
    answer = visitor.http.post("upload", files={"files": ("lion.jpg", b"a picture")})
    assert (answer.status_code, answer.json()) == (507, {"detail": guard.FULL})
    monkeypatch.undo()
    assert visitor.http.post("upload", files={"files": ("lion.jpg", b"a picture")}).status_code == 200


def test_a_visitor_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    for name in (f"local-dir:{tmp_path}", f"LOCAL-DIR:{tmp_path}"):
        with pytest.raises(ModelError, match=r"^Folders of this machine cannot be named here: start the page with"):
            Models().get(name)


def test_passes_at_earlier_layers_are_kept_for_the_latest_picture_only() -> None:
    loaded = Models().get("cifar10")
    cheetah, lion = EXAMPLES[:2]
    whole, early = loaded.see(cheetah), loaded.see(cheetah, "stage1")
    assert loaded.see(cheetah, "stage1") is early
    loaded.see(cheetah, "stage2")
    assert loaded.see(cheetah, "stage1") is early
    loaded.see(lion, "stage1")
    assert loaded.see(cheetah) is whole
    assert loaded.see(cheetah, "stage1") is not early


@pytest.mark.parametrize(("layer", "kept"), [("stage3", True), ("stage3:input", False)])
def test_passes_with_a_graph_of_the_whole_network_are_kept_for_the_latest_picture_only(layer: str, kept: bool) -> None:
    """As at what a module is given, where that is the layer that is found."""
    loaded = Loaded(Models().get("cifar10").classifier, Target(layer, "NCHW", (8, 8), 480))
    cheetah, lion = EXAMPLES[:2]
    first = loaded.see(cheetah)
    loaded.see(lion)
    assert (loaded.see(cheetah) is first) is kept


def test_stages_are_found_once_for_each_model_and_hold_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Loaded(Models().get("cifar10").classifier) for _ in range(2))
    begun: list[Loaded] = []
    go, find = threading.Event(), Loaded.find_stages

    def slow(loaded: Loaded) -> list[Target]:
        begun.append(loaded)
        assert loaded is second or go.wait(60)
        return find(loaded)

    monkeypatch.setattr(Loaded, "find_stages", slow)
    with ThreadPoolExecutor(3) as visitors:
        both = [visitors.submit(lambda: first.stages) for _ in range(2)]
        until(lambda: begun == [first])
        assert visitors.submit(lambda: second.stages).result(60) == find(second)
        go.set()
        assert both[0].result(60) is both[1].result(60)
    assert begun == [first, second]


def test_the_server_outlives_an_upload_cut_short(served: Served, visitor: Visitor) -> None:
    def half() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nhalf a pict'
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        httpx.post(
            f"{served.url}gradio_api/upload",
            content=half(),
            headers={"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "1000"},
        )
    assert visitor.call("models")["default"] == "efficientnet_lite0"


def test_a_bug_is_told_in_a_sentence_too() -> None:
    with guard.Blocks() as page:
        gr.api(lambda: {}["secret"], api_name="bug")  # type: ignore[return-value]
    with pytest.raises(gr.Error, match="went wrong here, and was noted"):
        run(page.process_api(0, []))


async def length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.mark.parametrize(
    ("path", "most", "sentence"),
    [
        ("/gradio_api/call/predict", 2**20, "That is more than the 1 MB that a request may have: "),
        ("/gradio_api/upload", 32 * 2**20 + 2**16, "The picture has more than the 32 MB that are accepted: "),
        ("/gradio_api/upload/", 32 * 2**20 + 2**16, "The picture has more than the 32 MB that are accepted: "),
    ],
)
def test_a_request_may_be_so_large_and_no_larger(path: str, most: int, sentence: str) -> None:
    """However it is cut into parts, and whatever it says of its length."""
    app = Starlette(routes=[Route("/{path:path}", length, methods=["POST"])], middleware=[Middleware(guard.Limits)])

    async def ask(size: int) -> httpx.Response:
        async def parts() -> AsyncIterator[bytes]:
            for part in (size // 2, size - size // 2):
                yield bytes(part)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.post(path, content=parts())

    accepted, refused = run(ask(most)), run(ask(most + 1))
    assert (accepted.status_code, accepted.text) == (200, str(most))
    assert refused.status_code == 413
    assert refused.text.startswith(sentence)


def test_how_many_are_served_wait_and_are_remembered(served: Served) -> None:
    """What reads pictures is counted together, wherever it is asked for."""
    queue = served.blocks._queue
    assert (queue.default_concurrency_limit, queue.max_size, queue.pending_messages_per_session.max_size) == (
        4,
        64,
        256,
    )
    shared = {event.api_name for event in served.blocks.fns.values() if event.concurrency_id == "pictures"}
    assert {"predict", "explain"} < shared
    own = [event for event in served.blocks.fns.values() if event.name == "ask_or_stay"]
    assert [event.concurrency_id for event in own] == ["pictures"]
