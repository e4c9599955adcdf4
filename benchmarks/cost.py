"""Print what a map costs on the CPU, here and with the alternatives, as a multiple of the network's plain forward pass.

    pip install -r benchmarks/requirements.txt
    python -m benchmarks.cost

One picture (3x224x224 noise), networks with random weights (seed 0), every tool at the same layer. Each repetition runs
the plain forward pass (`torch.no_grad()`) and every tool once, in random order, so that a slow moment of the machine
meets all of them; the table shows medians. Each tool has its own copy of the network, which keeps its hooks apart, and
before it is timed its map must correlate with ours. What a tool sets up once a network is not timed. Five classes cost
what a user of the tool pays: one forward pass here and with torch-cam, five with captum and pytorch-grad-cam.
"""

import argparse
import copy
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradcam.cifar10.weights import hardware
from gradcam.explainer import Explainer
from gradcam.targets import Target

LAYERS = {
    "resnet50": "layer4",
    "efficientnet_b0": "bn2",
    "convnext_tiny": "stages.3",
    "mobilenetv3_large_100": "blocks.6",
    "vit_small_patch16_224": "blocks.11.norm1",
}
CLASSES = (1, 5)

Maps = Callable[[Tensor, list[int]], list[Tensor]]  # (1, 3, H, W) picture, classes -> a (h, w) map for each


def gradcam_(model: nn.Module, target: Target) -> Maps:
    explainer = Explainer(model, target.layer)
    return lambda picture, classes: list(explainer(picture, [classes]).maps[0])


def captum_(model: nn.Module, target: Target) -> Maps:
    from captum.attr import LayerGradCam

    if target.layout != "NCHW":
        raise NotImplementedError("captum's LayerGradCam takes the second dimension for the channels")
    layer_gradcam = LayerGradCam(model, model.get_submodule(target.layer))
    return lambda picture, classes: [
        layer_gradcam.attribute(picture, target=class_, relu_attributions=True)[0, 0] for class_ in classes
    ]


def torchcam_(model: nn.Module, target: Target) -> Maps:
    from torchcam.methods import GradCAM

    extractor = GradCAM(model, target.layer, reshape_transform=target.read)

    def maps(picture: Tensor, classes: list[int]) -> list[Tensor]:
        scores = model(picture)
        return [extractor(class_, scores, retain_graph=True)[0][0] for class_ in classes]

    return maps


def pytorch_grad_cam_(model: nn.Module, target: Target) -> Maps:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = GradCAM(model, [model.get_submodule(target.layer)], reshape_transform=target.read)
    return lambda picture, classes: [
        torch.from_numpy(cam(picture, [ClassifierOutputTarget(class_)])[0]) for class_ in classes
    ]


TOOLS = {  # by the name of the package
    "gradcam": gradcam_,
    "captum": captum_,
    "torchcam": torchcam_,
    "grad-cam": pytorch_grad_cam_,
}


def measure(name: str, tools: list[str], repetitions: int) -> dict[tuple[str, int], float]:
    """Median seconds by (tool, number of classes); ("forward", 0) is the plain pass."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    picture = torch.randn(1, *model.pretrained_cfg["input_size"])
    target = Explainer(model, LAYERS.get(name)).target
    with torch.no_grad():
        best = model(picture)[0].topk(max(CLASSES)).indices.tolist()

    def forward() -> None:
        with torch.no_grad():
            model(picture)

    runs: dict[tuple[str, int], Callable[[], object]] = {("forward", 0): forward}
    expected = gradcam_(model, target)(picture, best)
    for tool in tools:
        try:
            maps = TOOLS[tool](copy.deepcopy(model), target)
        except NotImplementedError as error:
            print(f"{name}: no {tool}, since {error}.", file=sys.stderr)
            continue
        check(tool, maps(picture, best), expected)
        for count in CLASSES:
            runs[tool, count] = lambda maps=maps, count=count: maps(picture, best[:count])

    seconds: dict[tuple[str, int], list[float]] = {run: [] for run in runs}
    order = list(runs)
    shuffle = random.Random(0).shuffle
    for _ in range(repetitions):
        shuffle(order)
        for run in order:
            start = time.perf_counter()
            runs[run]()
            seconds[run].append(time.perf_counter() - start)
    return {run: statistics.median(times) for run, times in seconds.items()}


def check(tool: str, maps: list[Tensor], expected: list[Tensor]) -> None:
    """Stop when a tool explains something else: then its cost says nothing. Scales and sizes may differ."""
    for ours, theirs in zip(expected, maps, strict=True):
        ours = F.interpolate(ours[None, None], theirs.shape, mode="bilinear")[0, 0]
        correlation = torch.corrcoef(torch.stack([ours.flatten(), theirs.detach().flatten()]))[0, 1].item()
        if not correlation > 0.98:
            raise SystemExit(f"{tool} gives another map: it correlates with ours by {correlation:.3f}.")


def installed(package: str) -> str | None:
    """Its version, if it is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(LAYERS), help="timm models; default: %(default)s")
    parser.add_argument("--repetitions", type=int, default=30, metavar="N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    tools = [tool for tool in TOOLS if tool == "gradcam" or installed(tool)]
    for tool in TOOLS.keys() - set(tools):
        print(f"{tool} is skipped: it is not installed.")
    packages = ", ".join(
        f"{package} {installed(package)}" for package in ("torch", "timm", *tools) if installed(package)
    )
    print(f"{hardware(torch.device('cpu'))}, {arguments.threads} threads, load {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, {packages}; n = {arguments.repetitions}\n")
    columns = [(tool, count) for tool in tools for count in CLASSES]
    print("| model | forward |", " | ".join(f"{tool}, {count}" for tool, count in columns), "|")
    print("|---|--:|" + "--:|" * len(columns))
    for name in arguments.models:
        median = measure(name, tools, arguments.repetitions)
        forward = median["forward", 0]
        ratios = [f"{median[column] / forward:.2f}" if column in median else "–" for column in columns]
        print(f"| {name} | {1000 * forward:.1f} ms |", " | ".join(ratios), "|", flush=True)


if __name__ == "__main__":
    main()
