"""From arguments to a page that is being served."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from torch import nn

from ..classifiers import BUNDLED, Classifier, load
from ..labels import read_labels
from . import page
from .models import Models
from .rail import EXAMPLES


def launch(
    model: nn.Module | Classifier | str | None = None,
    preprocess: Callable[[Image.Image], Any] | None = None,
    labels: str | Path | Sequence[str] | Mapping[int, str] | None = None,
    *,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    host: str | None = None,
    port: int | None = None,
    block: bool = True,
) -> gr.Blocks:
    """Open the page.

    model: any network that classifies pictures, with `preprocess` and `labels` as for `Classifier`; or the name of
        one, with `checkpoint` and `labels` as for `load`; by default the first of the bundled ones.
    device: for models loaded by name. host, port: where to serve; by default this machine alone can see it.
    block: return when the page is closed. Otherwise at once; `close()` of what is returned ends it.

    Raises ModelError.
    """
    own, default, code = None, None, "Classifier(model, labels, preprocess)"
    if isinstance(model, Classifier):
        own, code = model, "classifier"
    elif isinstance(model, nn.Module):
        names = read_labels(Path(labels)) if isinstance(labels, str | Path) else labels
        own = Classifier(model, names, preprocess)
    elif model is not None and (checkpoint or labels or model not in BUNDLED):
        own = load(model, checkpoint, labels, device)
        given = {"checkpoint": checkpoint, "labels": labels}
        code = f"load({', '.join([repr(model), *(f'{k}={str(v)!r}' for k, v in given.items() if v)])})"
    else:
        default = model
    return serve(page.build(Models(own, default, device, own_code=code)), host, port, block)


def serve(blocks: gr.Blocks, host: str | None = None, port: int | None = None, block: bool = True) -> gr.Blocks:
    """Start the server of a page."""
    blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=not block,
        allowed_paths=[str(path) for path in EXAMPLES],
        max_file_size="32mb",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        pwa=True,
        ssr_mode=False,
        **page.look(),
    )
    return blocks
