"""The command line, `python -m gradcam COMMAND`: flags in; files, sentences and an exit status out."""

import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperGroup

from .batch import Manifest, find_pictures, left_aside, shown, write_overlays
from .cifar10 import figures, weights
from .cifar10.data import Split, read_split
from .cifar10.evaluation import evaluate
from .cifar10.training import Interrupted, Recipe, train
from .cifar10.training import Progress as Steps
from .classifiers import BUNDLED, WEIGHTS, Classifier, available_models, choose_device, load
from .errors import ModelError
from .files import sha256
from .logits import NO_RIVAL
from .methods import METHODS
from .pipeline import Inspection, Question, Result
from .targets import find_stages, find_target

SOME_FAILED, USAGE, INTERRUPTED = 1, 2, 130  # exit statuses


class _Commands(TyperGroup):
    """Tells what the user can put right in one sentence; everything of ours raises ValueError or OSError for that."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ValueError, OSError) as error:
            sentence = str(error)
            if isinstance(error, OSError) and error.filename:  # the system's words, not ours
                sentence = f"{error.filename}: {error.strerror}."
            print(f"Error: {sentence}", file=sys.stderr)
            raise typer.Exit(USAGE) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Why an image classifier said that, and not the other thing.",
    epilog="Start with: python -m gradcam explain photo.jpg --out evidence",
)

Model = Annotated[str, typer.Option(metavar="NAME", help="A bundled model, or any of timm's.")]
Checkpoint = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Your weights for this timm model: .safetensors or .pth.")
]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps; the fastest by default.")]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="CIFAR-10 as pictures: train/CLASS/* and test/CLASS/*. Without it, it is downloaded once."
    ),
]


@app.command()
def explain(
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE", exists=True, help="Pictures, or folders.")],
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where the results go.")],
    model: Model = "efficientnet_lite0",
    checkpoint: Checkpoint = None,
    labels: Annotated[Path | None, typer.Option(metavar="FILE", help="Its classes' names, one a line.")] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME|INDEX", help="Explain this class; may be repeated.  [default: the best]"),
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Without --class: explain the N best classes.")] = 1,
    versus: Annotated[
        str | None, typer.Option(metavar="NAME|INDEX", help="Explain also this class, and why not this one.")
    ] = None,
    method: Annotated[str, typer.Option(metavar="NAME", help=f"One of {', '.join(METHODS)}.")] = "gradcam",
    layer: Annotated[str | None, typer.Option(metavar="NAME", help="Read the evidence here.  [default: found]")] = None,
    device: Device = None,
) -> None:
    """Show where in pictures a model finds its evidence.

    Writes an overlay a class, a strip of them when they are several, and manifest.json with everything that is said.
    Folders are searched to the bottom. What is already in the manifest is not done again, so a stopped run goes on
    where it was. Exits with 1 if some pictures could not be explained, with 2 if nothing could be done.
    """
    found = find_pictures(pictures, out)
    classifier = load(model, checkpoint, labels, device)
    wanted = [_index(classifier, class_) for class_ in classes or ()]
    rival = None if versus is None else classifier.index(versus)

    def result_for(picture: Path | Image.Image) -> Result:
        inspection = Inspection(picture, classifier, layer)
        best = [prediction.index for prediction in inspection.top(top)]
        return inspection.explain(_questions(wanted or best, rival), method)

    # A wrong layer or method ends the run before the first picture.
    height, width = classifier.input_size[1:]
    target = result_for(Image.new("RGB", (width, height))).inspection.target
    settings = {
        "model": model,
        "checkpoint": _identity(checkpoint),
        "weights": BUNDLED[model].weights()[1] if checkpoint is None and model in BUNDLED else None,
        "labels": _identity(labels),
        "asked": [classifier.labels[index] for index in wanted] or f"top{top}",
        "versus": None if rival is None else classifier.labels[rival],
        "method": method,
        "layer": target.layer,
        "grid": list(target.grid),
    }
    manifest = Manifest(out, settings)
    todo = {picture: name for picture, name in found.items() if not manifest.has(picture)}
    failed = done = 0
    try:
        with _progress("explaining") as report:
            for done, (picture, wish) in enumerate(todo.items()):
                report(done, len(todo))
                name = manifest.name(picture, wish)
                try:
                    result = result_for(picture)
                    outcome = write_overlays(result, out, name)
                except ValueError as error:
                    failed += 1
                    outcome = {"error": str(error)}
                    print(f"{shown(picture)}: {error}", file=sys.stderr)
                else:
                    print(f"{shown(picture)}: {_told(result)} (layer {target.layer})")
                manifest.add(picture, name, outcome)
    except KeyboardInterrupt:
        print(f"Stopped after {done} of {len(todo)} pictures; the same command goes on from there.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    manifest.close()
    earlier = f", {len(found) - len(todo)} before" if len(todo) < len(found) else ""
    print(
        f"{len(todo) - failed} explained{earlier}, {failed} failed; see {shown(out / 'manifest.json')}.",
        file=sys.stderr,
    )
    if aside := left_aside(pictures, out):
        kinds = ", ".join(sorted({file.suffix.lower() for file in aside}))
        print(f"Left aside: {len(aside)} of other kinds ({kinds}); save them as JPEG or PNG.", file=sys.stderr)
    if failed:
        raise typer.Exit(SOME_FAILED)


@app.command()
def models(
    filter_: Annotated[str, typer.Argument(metavar="FILTER", help="Part of a name, or a pattern with * and ?.")] = "",
) -> None:
    """List the models; the bundled ones need no network."""
    names = available_models(filter_)
    if not names:
        raise ValueError(f"There is no model with {filter_!r} in its name.")
    for name in names:
        print(f"{name}  (bundled)" if name in BUNDLED else name)


@app.command()
def layers(model: Annotated[str, typer.Argument(metavar="MODEL")], checkpoint: Checkpoint = None) -> None:
    """List the layers of a model that can be explained.

    One is shown for each grid that the picture passes through, and the one that explain chooses is marked.
    """
    classifier, origin = _with_any_weights(model, checkpoint)
    chosen = find_target(classifier.model, classifier.input_size)
    rows = [("", "layer", "layout", "grid", "channels")]
    for stage in find_stages(classifier.model, classifier.input_size):
        mark = "*" if stage.grid == chosen.grid else ""
        rows.append((mark, stage.layer, stage.layout, "{}x{}".format(*stage.grid), str(stage.channels)))
    width = max(len(layer) for _, layer, *_ in rows)
    print("{} at {}x{} pixels, {}".format(model, *classifier.input_size[1:], origin))
    for mark, layer, layout, grid, channels in rows:
        print(f"{mark:1} {layer:{width}}  {layout:6}  {grid:>7}  {channels:>8}")
    print("* chosen; explain --layer takes any other module's name too")


@app.command()
def train_cifar10(
    data: Data = None,
    epochs: Annotated[int, typer.Option(min=1)] = Recipe.epochs,
    seed: Annotated[int, typer.Option(min=0)] = Recipe.seed,
    batch_size: Annotated[int, typer.Option(min=1)] = Recipe.batch_size,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Weights of an earlier run, which the network learns from; give several, it starts from the first.",
        ),
    ] = None,
    run: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="Where the checkpoint lies; it continues a run.")
    ] = Path("runs/cifar10"),
    validation: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Hold back N training pictures, measure on them, and save no weights."),
    ] = 0,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", file_okay=False, show_default="weights/", help="Where the network goes; weights/ is in use."
        ),
    ] = WEIGHTS,
    device: Device = None,
) -> None:
    """Train the CIFAR-10 network and save it.

    It is measured on the test pictures once, at the end. Ctrl-C stops it after the step under way; the same command
    continues, and ends with the same bits as a run that was never stopped.
    """
    recipe = Recipe(epochs, seed, batch_size, tuple(map(str, teacher or ())))
    place, checkpoint = choose_device(device), run / "checkpoint.pt"
    training = read_split("train", data)
    if validation:
        training, held_out = _hold_back(training, validation)
    else:
        held_out = read_split("test", data)  # now, since hours later is late to find it missing
    if checkpoint.exists():
        print(f"Continuing from {shown(checkpoint)}.", file=sys.stderr)
    try:
        with _progress("training") as bar:
            network = train(training, recipe, checkpoint, place, lambda steps: _report_steps(steps, recipe, bar))
    except Interrupted as interruption:
        print(f"Training {interruption}; the same command continues it.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if validation:
        print(evaluate(network, held_out))
        return
    row = weights.save(
        network,
        held_out,
        recipe,
        data=f"a folder of pictures: {data}" if data else "torchvision.datasets.CIFAR10",
        command=_command(),
        minutes=torch.load(checkpoint, weights_only=True)["seconds"] / 60,
        hardware=weights.hardware(place),
        folder=out,
    )
    print(
        f"Accuracy {row['accuracy']:.2%} ({row['accuracy_flips']:.2%} with test-time flips) on {row['pictures']:,} "
        f"test pictures; saved as {shown(out / row['file'])}."
    )


@app.command()
def evaluate_cifar10(data: Data = None) -> None:
    """Measure the CIFAR-10 network on the test pictures.

    Prints accuracy, calibration and confusion. Runs on the CPU, where anybody gets the digits that the manifest has.
    """
    network = load("cifar10", device="cpu").model
    test = read_split("test", data)
    with _progress("evaluating") as report:
        evaluation = evaluate(network, test, report)
    row = weights.manifest()["cifar10"]
    print(evaluation)
    print(f"\nweights/manifest.json says {row['accuracy']:.2%} of {row['pictures']:,} pictures ({row['data']}).")


@app.command("figures")
def draw_figures(
    data: Data = None,
    out: Annotated[Path, typer.Option(metavar="DIR", file_okay=False, help="Where they go.")] = Path("docs"),
) -> None:
    """Draw what the CIFAR-10 network looks at.

    Two figures, of right and of wrong answers, and a table of numbers over all test pictures.
    """
    classifier, test = load("cifar10"), read_split("test", data)
    with _progress("measuring") as report:
        written = figures.draw(classifier, test, out, command=_command(), report=report)
    for path in written:
        print(shown(path))


def _index(classifier: Classifier, class_: str) -> int:
    """The index of a class that was given to --class."""
    try:
        return classifier.index(class_)
    except ModelError:
        if best := re.fullmatch(r"top(\d+)", class_.strip()):
            raise ValueError(f"--class takes one class; for the best {best[1]} give --top {best[1]} instead.") from None
        raise


def _questions(classes: Sequence[int], rival: int | None) -> list[Question]:
    """What to ask of one picture: each class, and the rival and why not the rival unless it is that class itself."""
    questions: list[Question] = []
    for class_ in classes:
        questions.append(class_)
        if rival is not None and rival != class_:
            questions += [rival, (class_, rival)]
    return questions


def _told(result: Result) -> str:
    """The classes explained, with their probabilities."""
    predictions = [result.inspection.prediction(class_) for class_, rival in result.asked if rival == NO_RIVAL]
    return ", ".join(f"{prediction.label} {prediction.probability:.1%}" for prediction in predictions)


def _identity(path: Path | None) -> dict[str, str] | None:
    """A file's name and what tells whether it is still the same."""
    return None if path is None else {"file": str(path), "sha256": sha256(path)}


def _with_any_weights(name: str, checkpoint: Path | None) -> tuple[Classifier, str]:
    """A model with the weights that are at hand, and which those are: no download only to list layers."""
    if checkpoint is None and name not in BUNDLED and ":" not in name:
        with suppress(RuntimeError):  # an unknown name, of which `load` says more
            torch.manual_seed(0)
            network = timm.create_model(name).eval()
            return Classifier(network, name=name), "random weights (layers hardly depend on them)"
    origin = "bundled weights" if name in BUNDLED else "its own weights"
    return load(name, checkpoint), origin if checkpoint is None else f"weights {checkpoint}"


def _hold_back(data: Split, count: int) -> tuple[Split, Split]:
    """Part `count` pictures from the rest, the same ones whatever the recipe."""
    pictures, labels = data
    if count >= len(labels):
        raise ValueError(f"{count} pictures cannot be held back of {len(labels)}; give --validation a smaller number.")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    held_out, rest = order[:count], order[count:]
    return (pictures[rest], labels[rest]), (pictures[held_out], labels[held_out])


def _report_steps(steps: Steps, recipe: Recipe, bar: Callable[..., None]) -> None:
    """Move the bar, and write a line after every epoch, for those who read it in a file."""
    bar(steps.step, steps.steps, f"loss {steps.loss:.3f}")
    epoch, within = divmod(steps.step * recipe.epochs, steps.steps)
    if not within:
        left = timedelta(seconds=round(steps.seconds / steps.step * (steps.steps - steps.step)))
        print(f"epoch {epoch} of {recipe.epochs}: loss {steps.loss:.3f}, {left} left", file=sys.stderr)


@contextmanager
def _progress(what: str) -> Iterator[Callable[..., None]]:
    """A bar on a terminal, moved by report(done, total[, what]), that other output passes by."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # what goes to a file stays out of the terminal
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(what, total=None)

        def report(done: int, total: int, what: str = what) -> None:
            progress.update(task, completed=done, total=total, description=what)

        yield report


def _command() -> str:
    return shlex.join(["python", "-m", "gradcam", *sys.argv[1:]])


if __name__ == "__main__":
    app()
