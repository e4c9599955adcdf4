"""Print the table of targets: the smallest classifier of each of timm's families, with random weights.

    python -m benchmarks.families > docs/families.md  # minutes, most of them to find the smallest models

The alignment check is separate from the search for targets. Each quadrant of a picture of noise is changed in turn, and
each time the change of each quadrant of the map is measured: M[picture, map]. For two quadrants i and j the odds ratio
M_ii M_jj / (M_ij M_ji) says how much more each answers to its own change than to the other's. The table shows the least
of the six ratios: 1 for a map that has lost its place, below 1 for one laid out wrongly.
"""

import sys
import warnings
from collections.abc import Iterator
from itertools import combinations

import timm
import torch
from torch import Tensor, nn

from gradcam.targets import Target, find_target

HEADER = """# Where the evidence lives in each family of timm

The smallest classifier of each family, with random weights (seed 0). Made by `python -m benchmarks.families`, which
explains the alignment check; `tests/test_targets.py` repeats every row.

| family | model | input | layer | layout | grid | prefix | alignment |
|---|---|---|---|---|---|---|---|"""


def alignment(model: nn.Module, target: Target, input_size: tuple[int, int, int]) -> float:
    """The least odds with which a quadrant of the map answers to its own quadrant of the picture, not another's."""
    noise = torch.Generator().manual_seed(1)
    pictures = torch.randn(1, *input_size, generator=noise).repeat(5, 1, 1, 1)
    for picture, place in zip(pictures[1:], range(4), strict=True):
        quadrant = list(_quadrants(picture))[place]
        quadrant.copy_(torch.randn(quadrant.shape, generator=noise))
    outputs: list[Tensor] = []
    module = model.get_submodule(target.module)
    if target.is_given:
        handle = module.register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0]))
    else:
        handle = module.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    with torch.no_grad():
        model(pictures)
    handle.remove()
    cells = target.read(outputs[target.call])
    change = cells[1:] - cells[:1]
    change = change - change.mean(dim=(2, 3), keepdim=True)  # what happens everywhere alike says nothing of place
    answer = torch.stack([quadrant.abs().mean(dim=(1, 2, 3)) for quadrant in _quadrants(change)], dim=1)
    odds = [answer[i, i] * answer[j, j] / (answer[i, j] * answer[j, i]) for i, j in combinations(range(4), 2)]
    return float(torch.stack(odds).min())


def _quadrants(grid: Tensor) -> Iterator[Tensor]:
    h, w = grid.shape[-2] // 2, grid.shape[-1] // 2
    for rows in (slice(None, h), slice(-h, None)):
        for columns in (slice(None, w), slice(-w, None)):
            yield grid[..., rows, columns]


def smallest_classifier(family: str) -> str | None:
    """The name of the family's model with the fewest parameters, among those that classify; None if none does."""
    sizes = {}
    for name in timm.list_models(module=family):
        with torch.device("meta"):
            model = timm.create_model(name)
        if model.num_classes > 0:
            sizes[name] = sum(p.numel() for p in model.parameters())
    return min(sizes, key=sizes.__getitem__) if sizes else None


def build(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The model with random weights, the same each time, and its input size."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    return model, model.pretrained_cfg["input_size"]


def main() -> None:
    """Print the table; families without a classifier are left out."""
    warnings.filterwarnings("ignore")
    print(HEADER)
    for family in timm.list_modules():
        print(family, file=sys.stderr)
        name = smallest_classifier(family)
        if name is None:
            continue
        model, size = build(name)
        target = find_target(model, size)
        cells = [family, name, "x".join(map(str, size[1:])), f"`{target.layer}`", target.layout]
        cells += ["x".join(map(str, target.grid)), str(target.prefix), f"{alignment(model, target, size):.1f}"]
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
