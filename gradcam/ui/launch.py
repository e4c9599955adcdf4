"""From arguments to a page that is being served."""

import ctypes
import io
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.http_server import LOCALHOST_NAME
from gradio.utils import get_space, is_zero_gpu_space
from PIL import Image
from torch import nn

from ..classifiers import BUNDLED, Classifier, choose_device, load
from ..errors import ModelError, reason
from ..labels import read_labels
from . import desktop as window
from . import guard, page
from .models import Loaded, Models, here
from .rail import EXAMPLES
from .zero import Lender

NO_LINK = "A share link could not be had (is there a network connection?); the page stays up on this machine."


def launch(
    model: nn.Module | Classifier | str | None = None,
    *,
    labels: str | Path | Sequence[str] | Mapping[int, str] | None = None,
    preprocess: Callable[[Image.Image], Any] | None = None,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    auth: tuple[str, str] | None = None,
    public: bool = False,
    desktop: bool = False,
    data: str | Path | None = None,
    block: bool = True,
) -> gr.Blocks:
    """Open the page.

    model: any network that classifies pictures, with `preprocess` and `labels` as for `Classifier`; or the name of
        one, with `checkpoint` and `labels` as for `load`; by default the first of the bundled ones.
    device: for models loaded by name. host, port: where to serve; by default this machine alone can see it.
    share: also make a link through Gradio's servers, for a week. auth: a name and a password that visitors must give.
    public: strangers visit, who may have the bundled models and `model`, and nothing else; so it is with `share`, and
        on a Hugging Face Space.
    desktop: open a window, and return when it is closed.
    data: a folder with `test/<class>/*` pictures of CIFAR-10, to start with; by default torchvision's download.
    block: return when the page is closed. Otherwise, and in a notebook, at once; `close()` of what is returned ends it.

    Raises ModelError, DataError; OSError where nothing can be served at `host` and `port`.
    """
    _check_address(host or LOCALHOST_NAME, port)
    if device is not None:
        choose_device(device)  # a wrong one is told now rather than to the first visitor
    _check_given(model, checkpoint=checkpoint, labels=labels, preprocess=preprocess)
    public = public or share or get_space() is not None
    place: Callable[[Classifier], Loaded] = here
    if is_zero_gpu_space():
        device, place = "cpu", Lender()
    own, default, code = None, None, "Classifier(model, labels, preprocess)"
    if isinstance(model, Classifier):
        own, code = model, "classifier"
    elif isinstance(model, nn.Module):
        names = read_labels(Path(labels)) if isinstance(labels, str | Path) else labels
        own = Classifier(model, names, preprocess)
    elif model is not None and (checkpoint or labels or model not in BUNDLED):
        own = load(model, checkpoint, labels, device)
        if public and model.lower().startswith("local-dir:"):
            own.name, model = type(own.model).__name__, "local-dir:folder"
        code = _code(model, public, checkpoint=checkpoint, labels=labels)
    else:
        default = model
    models = Models(own, default, device, public, code, place)
    if is_zero_gpu_space():
        for name in models.names:  # a fork knows only those that were loaded before it
            models.get(name)
    blocks = serve(page.build(models, Path(data) if data else None), host, port, share, auth)
    print(f"The page is at {blocks.local_url}", flush=True)
    if share:
        print(f"For others it is at {blocks.share_url}" if blocks.share_url else NO_LINK, flush=True)
    if desktop and window.show(str(blocks.local_url)):
        blocks.close()
    elif block and not hasattr(sys, "ps1"):  # a notebook shows the page, and goes on
        blocks.block_thread()
    return blocks


def _check_given(model: Any, **given: Any) -> None:
    """Raise ModelError for what `model` has no use for: without it, another network than was meant would be shown."""
    takes: tuple[str, ...]
    if model is None:
        takes, told = (), "without a model: name its architecture, such as resnet18."
    elif isinstance(model, Classifier):
        takes, told = (), "with a Classifier, which has its own."
    elif isinstance(model, nn.Module):
        takes, told = ("labels", "preprocess"), "with a network of your own, which takes labels and preprocess."
    else:
        takes, told = ("checkpoint", "labels"), "with the name of a model, which takes checkpoint and labels."
    if surplus := [name for name, value in given.items() if value is not None and name not in takes]:
        raise ModelError(f"{' and '.join(surplus)} came {told}")


def _code(model: str, public: bool, **given: Any) -> str:
    """The Python that loads a model. Where its files lie is no visitor's business."""
    arguments = [repr(model)]
    for name, value in given.items():
        if isinstance(value, str | Path):
            arguments.append(f"{name}={Path(value).name if public else str(value)!r}")
        elif value:
            arguments.append(f"{name}={name}")
    return f"load({', '.join(arguments)})"


def _check_address(host: str, port: int | None) -> None:
    """Raise OSError unless a page can be served there; Gradio would go on trying for minutes."""
    try:
        family = socket.getaddrinfo(host.strip("[]"), None)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host.strip("[]"), port or 0))
    except (OSError, OverflowError, UnicodeError) as error:
        place = host if port is None else f"{host}, port {port}"
        why = getattr(error, "strerror", None) or reason(error)
        raise OSError(f"The page cannot be served at {place} ({why}): choose another host or port.") from error


def _share_heaps() -> None:
    """Have threads share two heaps: glibc gives each its own otherwise, and with 16 visitors memory grew by a tenth."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").mallopt(-8, 2)  # M_ARENA_MAX


def serve(
    blocks: gr.Blocks,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    auth: tuple[str, str] | None = None,
) -> gr.Blocks:
    """Start the server of a page, and return."""
    _share_heaps()
    with redirect_stdout(io.StringIO()):  # where no link can be had, gradio tells of a binary to be downloaded by hand
        blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=auth,
            prevent_thread_lock=True,
            allowed_paths=[str(path) for path in EXAMPLES],
            max_file_size=guard.MOST_UPLOAD,
            app_kwargs=guard.app_kwargs(),
            state_session_capacity=guard.MOST_SESSIONS,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            pwa=True,
            mcp_server=auth is None and find_spec("mcp") is not None,  # it would ask nobody for the password
            ssr_mode=False,
            **page.look(),
        )
    return blocks
