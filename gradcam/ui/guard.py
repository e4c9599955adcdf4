"""What strangers may send: nothing large, nothing to be fetched for them, and every answer is a sentence."""

import asyncio
import logging
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.exceptions import RequestValidationError
from gradio.context import LocalContext
from gradio.route_utils import FnIndexInferError
from gradio.utils import LRUCache, get_upload_folder
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like, traverse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_UPLOAD = 32 * 2**20  # bytes of one picture
LEAST_FREE = 2**30  # bytes that uploads leave on the disk
MOST_JSON = 2**20  # bytes of any other request
DECODES: dict[str, Any] = {"concurrency_id": "pictures"}  # of events that read pictures: together as few as one alone
MOST_SESSIONS = 256  # visitors whose states, and answers that are not fetched, are kept
KEPT = 3600  # seconds that a file stays
SWEEP = 600  # seconds from one search for old files to the next

FAILED = "That went wrong here, and was noted. Reload the page, or try another picture or model."
ABSENT = "The picture did not arrive: upload it again."
ADDRESS = "Pictures are not fetched from addresses: save the picture, and upload the file."
STRANGE = "That is not a request this page makes: reload the page, or see how its API is asked."
TOO_LARGE = (
    f"The picture has more than the {MOST_UPLOAD // 2**20} MB that are accepted: save it smaller, as JPEG or PNG."
)
TOO_LONG = f"That is more than the {MOST_JSON // 2**20} MB that a request may have: upload the picture as a file."
FULL = "There is no room for more pictures now: they are deleted within the hour, so try again later."
UNUSED = "This page has no use for that."
GONE = "Nobody waits for this any more."

# What Gradio serves beyond what the page asks for: fetching for others, converting videos, writing states to disk.
UNUSED_ROUTES = re.compile(
    r"/gradio_api/(proxy=|file[=/]https?:|stream/|process_recording|component_server|deep_link|dev/|vibe)",
    re.IGNORECASE,
)


class Blocks(gr.Blocks):
    """Gradio's, but it fetches nothing from the network, and whatever goes wrong is told in one sentence."""

    def queue(self, *args: Any, **kwargs: Any) -> gr.Blocks:
        """Who waits for what, without statistics that nobody reads, and with few answers that nobody fetches."""
        super().queue(*args, **kwargs)
        # Else every event is counted anew, with pandas, after each of them.
        self._queue.ANAYLTICS_CACHE_FREQUENCY, self._queue.ANALYTICS_MAX_EVENTS = sys.maxsize, 1
        self._queue.pending_messages_per_session = LRUCache(MOST_SESSIONS)
        return self

    async def preprocess_data(self, *args: Any, **kwargs: Any) -> list[Any]:
        """What was sent, made ready for its handler."""
        _, inputs, *_ = args
        try:
            traverse(inputs, _refuse, is_file_obj_with_meta)
            return await super().preprocess_data(*args, **kwargs)
        except gr.Error:
            raise
        except Exception:
            raise gr.Error(STRANGE, print_exception=False) from None

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """All of an event: preparation, handler and answer."""
        try:
            return await super().process_api(*args, **kwargs)
        except gr.Error:
            raise
        except Exception:
            logging.getLogger(__name__).exception("An event failed.")
            raise gr.Error(FAILED, print_exception=False) from None


def _refuse(file: dict[str, Any]) -> dict[str, Any]:
    """Keep from gradio what it would download, and a folder: that would end its schedule of deletions."""
    if is_http_url_like(file["path"]):
        raise gr.Error(ADDRESS, print_exception=False)
    if not is_uploaded(file["path"]):
        raise gr.Error(ABSENT, print_exception=False)
    return file


def is_uploaded(path: Any) -> bool:
    """Whether a path is that of a file that a visitor uploaded, and of no other on this machine."""
    try:
        file = Path(path).resolve()
        return file.is_file() and file.is_relative_to(Path(get_upload_folder()).resolve())
    except (TypeError, ValueError, OSError):  # no text, a null byte, too long a name
        return False


class Limits:
    """ASGI middleware: requests are small, and the routes of Gradio that the page has no use for are closed."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if UNUSED_ROUTES.search(scope["path"]):
            return await JSONResponse({"detail": UNUSED}, 404)(scope, receive, send)
        # A picture comes in an envelope; gradio itself looks only at each of the files in it.
        uploads = scope["path"].rstrip("/").endswith("/upload")
        if uploads and _free() < LEAST_FREE:
            return await JSONResponse({"detail": FULL}, 507)(scope, receive, send)
        most = MOST_UPLOAD + 2**16 if uploads else MOST_JSON
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                while message.get("more_body"):  # a client that is still sending would not see the answer
                    message = await receive()
                raise HTTPException(413, TOO_LARGE if uploads else TOO_LONG)
            return message

        await self.app(scope, bounded, send)


def _free() -> int:
    """Bytes free where uploads are kept."""
    folder = Path(get_upload_folder())
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def go_on() -> None:
    """Called before each long step of an event. Raises gr.Error when nobody waits for it: the page was closed."""
    blocks, event = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    waiting = blocks._queue.event_ids_to_events.get(event) if blocks and event else None
    if waiting and (waiting.closed or not waiting.alive):
        raise gr.Error(GONE, print_exception=False)


def sweep(folder: Path) -> None:
    """Remove what uploads that were cut short have left, and empty folders: gradio's own schedule knows neither."""
    for entry in folder.iterdir():
        with suppress(OSError):  # a folder that is not empty
            if entry.lstat().st_mtime < time.time() - KEPT:
                entry.rmdir() if entry.is_dir() else entry.unlink()


@asynccontextmanager
async def _sweeping(_: Any) -> AsyncIterator[None]:
    async def sweep_on() -> None:
        while True:
            await asyncio.sleep(SWEEP)
            with suppress(OSError):  # until something is uploaded, there is no folder
                await asyncio.to_thread(sweep, Path(get_upload_folder()))

    task = asyncio.create_task(sweep_on())
    yield
    task.cancel()


async def _strange(_: Request, __: Exception) -> Response:
    return JSONResponse({"detail": STRANGE}, 422)


async def _failed(_: Request, __: Exception) -> Response:
    return JSONResponse({"detail": FAILED}, 500)


def app_kwargs() -> dict[str, Any]:
    """Arguments for the FastAPI application below the page."""
    return {
        "middleware": [Middleware(Limits)],
        # The second and third are what gradio raises when it is asked for an event that does not exist.
        "exception_handlers": {
            RequestValidationError: _strange,
            FnIndexInferError: _strange,
            KeyError: _strange,
            Exception: _failed,
        },
        "lifespan": _sweeping,
    }
