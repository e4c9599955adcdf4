"""Serve the page: `python app.py --help`."""

from typing import Annotated

import typer

from gradcam.errors import ModelError
from gradcam.ui import launch


def main(
    model: Annotated[str | None, typer.Option(help="A bundled model, or any of timm's by name.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Your weights for it (.safetensors or .pth).")] = None,
    labels: Annotated[str | None, typer.Option(help="A file with the names of its classes.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps...; the fastest by default.")] = None,
    host: Annotated[str | None, typer.Option(help="0.0.0.0 lets other machines in.")] = None,
    port: Annotated[int | None, typer.Option(help="The first free one from 7860 on by default.")] = None,
) -> None:
    """See why an image classifier said that, and not the other thing, in the browser."""
    try:
        launch(model, labels=labels, checkpoint=checkpoint, device=device, host=host, port=port)
    except ModelError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    typer.run(main)
