"""Serve the page: `python app.py --help`."""

from pathlib import Path
from typing import Annotated

import typer


def main(
    model: Annotated[str | None, typer.Option(help="A bundled model, or any of timm's by name.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Your weights for it (.safetensors or .pth).")] = None,
    labels: Annotated[str | None, typer.Option(help="A file with the names of its classes.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps...; the fastest by default.")] = None,
    host: Annotated[str | None, typer.Option(help="0.0.0.0 lets other machines in.")] = None,
    port: Annotated[int | None, typer.Option(help="The first free one from 7860 on by default.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Also make a link for others; implies --public.")] = False,
    auth: Annotated[str | None, typer.Option(metavar="USER:PASS", help="Ask visitors for a password.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Strangers visit: no model but those on the list.")] = False,
    data: Annotated[Path | None, typer.Option(help="A folder with CIFAR-10's pictures, to click on.")] = None,
    desktop: Annotated[bool, typer.Option("--desktop", help="Open a window; closing it ends the program.")] = False,
) -> None:
    """See why an image classifier said that, and not the other thing, in the browser."""
    user, _, password = (auth or "").partition(":")
    if auth is not None and not (user and password):
        raise SystemExit("--auth takes a name and a password with a colon between them, such as --auth me:secret.")
    try:
        from gradcam.ui import launch  # which takes seconds: an interrupt meanwhile is answered below

        launch(
            model,
            labels=labels,
            checkpoint=checkpoint,
            device=device,
            host=host,
            port=port,
            share=share,
            auth=(user, password) if auth else None,
            public=public,
            desktop=desktop,
            data=data,
        )
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    typer.run(main)
