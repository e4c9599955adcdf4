"""Find the layer whose output is the evidence, and read that output as a grid over the picture.

The target is the last output, in execution order, that is still a grid aligned with the picture and that the score
still depends on. It is found by experiment. One forward pass over five pictures of noise, which
differ from the first in the left, right, upper and lower half, records the output of every module:

- *aligned*: read as a grid, the output changes in the half in which the picture changed;
- *the score depends on it*: the gradient of the highest logit, or of all where that one is a constant, is not zero on
  the grid (after the last block of a class-token transformer it is zero everywhere but on the token);
- the insides of attention modules, known by their names, are passed over: queries, keys and values lie on the grid,
  but are no feature maps;
- what a branch adds to the grid, which reaches the score past the branch too, gives way to what the branch was given;
- what a layer without parameters only enlarges (VGG's pooling to 7x7, of less) is passed over for what it was made of;
- when the grid is smaller than 4 cells on a side, the search goes on to an earlier, larger one.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from .errors import InputError, reason, suggest
from .logits import Output, logits_of
from .networks import run, tensor_like, tensor_of

LEAST_SIDE = 4  # cells; a smaller grid says too little when there is a larger one
MOST_OTHER_TOKENS = 16
MOST_STRETCH = 4  # of a map whose cells are counted; of tokens the proportions are all there is to go by
LEAST_CORRELATION = 0.5  # between where a cell lies and which half of the picture it answers to

NO_GRADIENT = (
    "no gradient leads from the score to a map: the network runs its layers under torch.no_grad() or inference_mode() "
    "(a reentrant checkpoint does), or detaches what they return. Explain it without that; its weights and their "
    "gradients are left as they are."
)
UNSEEN = "where it can be seen; explain the network before it is compiled, scripted or spread over devices."


class TargetError(InputError):
    """No output of the network can be read as a map of the picture; the message says what was seen."""


@dataclass(frozen=True)
class Target:
    """Which output of the network holds the evidence, and how to read it.

    `layer` is the module's name in `model.named_modules()`; `layout` is "NCHW", "NHWC", "NLC" or "LNC" (tokens first);
    `grid` is (h, w) in cells; `prefix` and `suffix` count the tokens before and after the grid (class, register and
    distillation tokens); `call` says which run of the module is meant when it runs more than once in a forward pass.
    """

    layer: str
    layout: str
    grid: tuple[int, int]
    channels: int
    prefix: int = 0
    suffix: int = 0
    call: int = 0

    def read(self, output: Tensor) -> Tensor:
        """Lay out the layer's output, or its gradient, as (B, C, h, w); a view. Raises TargetError if it cannot."""
        cells = output
        if self.layout == "NHWC" and output.ndim == 4:
            cells = output.permute(0, 3, 1, 2)
        elif self.layout in ("NLC", "LNC") and output.ndim == 3:
            tokens = output if self.layout == "NLC" else output.transpose(0, 1)
            tokens = tokens[:, self.prefix : tokens.shape[1] - self.suffix]
            if tokens.shape[1] == self.grid[0] * self.grid[1]:
                cells = tokens.mT.unflatten(-1, self.grid)
        if cells.shape[1:] != (self.channels, *self.grid):
            raise TargetError(
                f"layer {self.layer!r} gave an output of shape {tuple(output.shape)}; expected {self.layout} with "
                f"{self.channels} channels on a grid of {self.grid[0]}x{self.grid[1]}."
            )
        return cells


def find_target(model: nn.Module, input_size: tuple[int, int, int], layer: str | None = None) -> Target:
    """Choose the target of `model` for pictures of `input_size` (channels, height, width).

    With `layer` only that module's output is considered. Costs one forward pass over five pictures and the backward
    pass of what lies above the target; the model is left as it was. Raises TargetError.
    """
    if isinstance(layer, nn.Module):
        raise TargetError("layer is a module; give its name, as in model.named_modules().")
    modules = {name: module for name, module in model.named_modules() if name}
    if layer is not None and layer not in modules:
        hint = suggest(str(layer), list(modules)) or "; model.named_modules() lists them."
        raise TargetError(f"the network has no layer {str(layer)[:80]!r}{hint}")
    with torch.inference_mode(False), torch.enable_grad():
        probe = _Probe(model, input_size)
        return probe.choose() if layer is None else probe.read(layer)


def find_stages(model: nn.Module, input_size: tuple[int, int, int]) -> list[Target]:
    """The target on each grid the picture passes through, from the largest grid to the smallest.

    Those that `layer` can name: of a module that runs several times, the last run. Costs what `find_target` costs, with
    a backward pass down to the first grid.
    """
    with torch.inference_mode(False), torch.enable_grad():
        probe = _Probe(model, input_size)
        return [target for target in probe.stages() if probe.read(target.layer) == target][::-1]


@dataclass(frozen=True)
class _Record:
    """One output of one module during the probe."""

    layer: str
    call: int
    input: Tensor | None
    output: Tensor
    version: int  # an in-place operation later makes another output of the same tensor

    def same_output(self, other: "_Record") -> bool:
        return self.output is other.output and self.version == other.version


class _Probe:
    """The forward pass over five pictures of noise, and what it tells about each module's output."""

    def __init__(self, model: nn.Module, input_size: tuple[int, int, int]) -> None:
        self.size = input_size[1:]
        self.modules = dict(model.named_modules())
        self.picture = _noise_with_changed_halves(model, input_size).requires_grad_()
        try:
            with torch.no_grad():
                run(model, self.picture[:1].clone())  # what networks keep for later passes is kept without a graph
            with _recording(model) as self.records:
                # A copy, since a network may work in place on its input, which a leaf of the graph does not allow.
                returned = run(model, self.picture.clone())
        except TargetError:
            raise
        except Exception as error:  # whatever the network raises
            raise TargetError(
                f"the network fails on a batch of shape {tuple(self.picture.shape)} ({reason(error)}); it must take "
                "batches of any size, and pictures of that shape."
            ) from error
        logits = logits_of(returned, batch=len(self.picture))
        if not logits.requires_grad:
            raise TargetError(NO_GRADIENT)
        shape = self.picture.shape
        self.given_pictures = {r.layer for r in self.records if r.input is not None and r.input.shape == shape}
        self.output, self.weights = self._score(logits)

    def _score(self, logits: Tensor) -> tuple[Output, Tensor]:
        """The highest logits, by weights; under a last layer of zeros, as some start, what that is given instead."""
        output = Output.of(logits)
        highest = torch.zeros_like(output.logits).scatter_(1, output.logits.argmax(dim=1, keepdim=True), 1)
        features = next((record.input for record in self.records if record.output is logits), None)
        if features is None or not features.requires_grad:
            return output, highest
        gradient = output.gradient(highest, features)
        if gradient is None or gradient.any():
            return output, highest
        features = features.flatten(1)
        # Not all alike, since a normalisation layer keeps the plain sum constant.
        return Output.of(features), torch.linspace(-1, 1, features.shape[1]).to(features).expand_as(features)

    def choose(self) -> Target:
        """The target of the whole network."""
        if not self.records and len(self.modules) > 1:
            raise TargetError(f"no part of the network ran {UNSEEN}")
        smallest_first = list(self.stages(until=LEAST_SIDE))
        if not smallest_first:  # the highest logit may be a constant, such as that of a class "unknown"
            self.weights = torch.linspace(-1, 1, self.weights.shape[1]).to(self.weights).expand_as(self.weights)
            smallest_first = list(self.stages(until=LEAST_SIDE))
        if not smallest_first:
            aligned = [record for record in self.records if self._aligned(record)]
            if aligned and not any(record.output.requires_grad for record in aligned):
                raise TargetError(NO_GRADIENT)
            raise TargetError(
                "no output of the network is a grid aligned with the picture that the score depends on; "
                f"seen, last first: {self._seen()}. Name one with layer= if one of them is."
            )
        return smallest_first[-1]

    def stages(self, until: int | None = None) -> Iterator[Target]:
        """The target on the last grid, then the one on the last larger grid before it, and so on back.

        Ends after the first grid of at least `until` cells on its shorter side.
        """
        aligned = [
            (record, target)
            for record in self.records
            if (target := self._aligned(record)) and not self._merely_enlarges(record, target)
        ]
        while (found := self._last(aligned)) is not None:
            record, target = found
            owner = self._owner(record)
            yield replace(target, layer=owner.layer, call=owner.call)
            if until is not None and min(target.grid) >= until:
                return
            aligned = [(r, t) for r, t in aligned[: aligned.index(found)] if _area(t) > _area(target)]

    def read(self, layer: str) -> Target:
        """The target at a given layer."""
        records = [record for record in self.records if record.layer == layer]
        if not self.records:
            raise TargetError(f"layer {layer!r} did not run {UNSEEN}")
        if not records:
            raise TargetError(f"layer {layer!r} does not run, or returns no tensor, in the network's forward pass.")
        for record in reversed(records):
            if (target := self._aligned(record)) and self._score_depends_on(record, target):
                return target
        shape = tuple(records[-1].output.shape)[1:]
        why = "the score does not depend on its grid" if self._aligned(records[-1]) else "no grid of the picture"
        raise TargetError(
            f"layer {layer!r} cannot be explained: {why} (output shape {shape} a picture, input "
            f"{self.size[0]}x{self.size[1]}). Leave layer= out to have one found, or choose an earlier layer."
        )

    def _last(self, aligned: list[tuple[_Record, Target]]) -> tuple[_Record, Target] | None:
        """The last output the score depends on; inside an attention module only where there is no other.

        When the score sees the grid past it too, it is a branch: then the last output before, on the same grid, that
        is none. Where all are, as in networks with several trunks, the last stays.
        """
        for inside in (False, True):
            last: tuple[_Record, Target] | None = None
            branches: list[str] = []
            for record, target in reversed(aligned):
                if (
                    self._inside_attention(record) is not inside
                    or (last is not None and target.grid != last[1].grid)
                    or any(f"{record.layer}.".startswith(f"{branch}.") for branch in branches)
                    or not self._score_depends_on(record, target)
                ):
                    continue
                last = last or (record, target)
                owner = self._owner(record)
                if not self._is_branch(owner):
                    return record, target
                branches.append(owner.layer)
            if last is not None:
                return last
        return None

    def _is_branch(self, record: _Record) -> bool:
        """Whether the score depends on the grid that a module was given even without what the module made of it."""
        given = record.input
        if given is None or given is record.output or not given.requires_grad:
            return False
        if not _leads_past(self.output.end.node, get_gradient_edge(record.output).node, get_gradient_edge(given).node):
            return False
        before = replace(record, output=given)
        if (target := self._aligned(before)) is None:
            return False
        cut = record.output.register_hook(torch.zeros_like)
        try:
            return self._score_depends_on(before, target)
        finally:
            cut.remove()

    def _aligned(self, record: _Record) -> Target | None:
        """The reading of an output as a grid that answers best where the picture changed; None if none does."""
        output = record.output.detach()
        if not output.is_floating_point():
            return None
        shape, batch = tuple(output.shape), len(self.picture)
        readings = [Target(record.layer, *reading, call=record.call) for reading in _readings(shape, batch, self.size)]
        cells = [target.read(output).float() for target in readings]
        alignments = [_alignment(pictures[1:] - pictures[:1]) for pictures in cells]
        best = max(alignments, default=0.0)
        # Tokens read one place off still answer nearly in place, so the best reading counts, not the first.
        return readings[alignments.index(best)] if best > LEAST_CORRELATION else None

    def _merely_enlarges(self, record: _Record, target: Target) -> bool:
        """Whether the module made the grid of a smaller one, without anything of its own: it says no more than that."""
        given = record.input
        if given is None or given.ndim != 4 or given.numel() >= record.output.numel():
            return False
        if any(True for _ in self.modules[record.layer].parameters()):
            return False
        before = self._aligned(replace(record, output=given))
        return before is not None and _area(before) < _area(target)

    def _score_depends_on(self, record: _Record, target: Target) -> bool:
        if not record.output.requires_grad:
            return False
        gradient = self.output.gradient(self.weights, record.output)
        return gradient is not None and bool(target.read(gradient).any())

    def _inside_attention(self, record: _Record) -> bool:
        """Whether the module is a part of an attention module.

        One that is given pictures is a network, whatever its name.
        """
        parts = record.layer.split(".")
        owners = {".".join(parts[:end]): name for end, name in enumerate(parts[:-1], start=1)}
        named = (f"{owners[path]} {type(self.modules[path]).__name__}" for path in owners.keys() - self.given_pictures)
        return any(re.search("attention|attn", text, re.IGNORECASE) for text in named)

    def _owner(self, record: _Record) -> _Record:
        """The record of the outermost module that returns this output: layer4 rather than layer4.2.act3."""
        same = [other for other in self.records if other.same_output(record)]
        return [r for r in same if r.layer == same[0].layer or same[0].layer.startswith(r.layer + ".")][-1]

    def _seen(self) -> str:
        shapes = dict.fromkeys(f"{r.layer} {tuple(r.output.shape[1:])}" for r in reversed(self.records))
        return ", ".join(list(shapes)[:8]) or "no module that returns a tensor"


def _leads_past(start: Node, gate: Node, goal: Node) -> bool:
    """Whether a path in the graph leads from `start` back to `goal` without passing the `gate`."""
    seen, ahead = {gate}, [start]
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        if node is goal:
            return True
        seen.add(node)
        ahead += [after for after, _ in node.next_functions if after is not None]
    return False


def _noise_with_changed_halves(model: nn.Module, input_size: tuple[int, int, int]) -> Tensor:
    """Five pictures of the same noise, but for the left, right, upper and lower half of the second to the fifth."""
    channels, height, width = input_size
    generator = torch.Generator("cpu").manual_seed(0)
    # Wherever the caller has new tensors made, and of whatever type: the same noise for everybody.
    noise, other = torch.randn(
        2, channels, height, width, generator=generator, device=generator.device, dtype=torch.float32
    )
    pictures = noise.repeat(5, 1, 1, 1)
    pictures[1, :, :, : width // 2] = other[:, :, : width // 2]
    pictures[2, :, :, width // 2 :] = other[:, :, width // 2 :]
    pictures[3, :, : height // 2] = other[:, : height // 2]
    pictures[4, :, height // 2 :] = other[:, height // 2 :]
    return pictures.to(tensor_like(model))


def _alignment(change: Tensor) -> float:
    """How well (4, C, h, w) changes lie where the picture changed, in the left, right, upper and lower half: -1 to 1.

    What a change does everywhere alike (global attention, squeeze and excitation) is taken off. Each cell then says by
    how much it answers to one half rather than the other, from -1 to 1, and the correlation of that with the side
    on which the cells lie is returned: the lesser of across and down, 0 where there is none.
    """
    correlations = []
    answer = (change - change.mean(dim=(2, 3), keepdim=True)).abs().mean(dim=1)
    for one, other, axis in ((answer[0], answer[1], 1), (answer[2], answer[3], 0)):
        preference = ((one - other) / (one + other)).nan_to_num(0.0)
        cells = torch.arange(answer.shape[1 + axis], device=answer.device)
        side = torch.sign(len(cells) - 1 - 2 * cells).float()
        side = (side if axis == 1 else side[:, None]).expand_as(preference)
        correlation = torch.corrcoef(torch.stack([preference.flatten(), side.flatten()]))[0, 1]
        correlations.append(correlation.nan_to_num(0.0).item())
    return min(correlations)


def _readings(
    shape: tuple[int, ...], batch: int, size: tuple[int, int]
) -> Iterator[tuple[str, tuple[int, int], int, int, int]]:
    """The (layout, grid, channels, prefix, suffix) that a shape admits, for `batch` pictures of `size` (h, w)."""
    match shape:
        case (first, a, b, c) if first == batch:
            if _fits((b, c), size, stretch=MOST_STRETCH):
                yield "NCHW", (b, c), a, 0, 0
            if _fits((a, b), size, stretch=MOST_STRETCH):
                yield "NHWC", (a, b), c, 0, 0
        case (first, second, channels):
            for layout, pictures, tokens in (("NLC", first, second), ("LNC", second, first)):
                if pictures == batch:
                    for grid, prefix, suffix in _grids(tokens, size):
                        yield layout, grid, channels, prefix, suffix


def _grids(tokens: int, size: tuple[int, int]) -> Iterator[tuple[tuple[int, int], int, int]]:
    """The (grid, prefix, suffix) that so many tokens may be."""
    for others in range(min(MOST_OTHER_TOKENS + 1, tokens)):
        cells = tokens - others
        for h in range(2, cells // 2 + 1):
            if cells % h == 0 and _fits((h, cells // h), size):
                for suffix in range(others + 1):
                    yield (h, cells // h), others - suffix, suffix


def _fits(grid: tuple[int, int], size: tuple[int, int], stretch: float = 1) -> bool:
    """Whether a grid has the picture's proportions, but for a cell lost at the borders, or a stretch."""
    (h, w), (height, width) = grid, size
    across, down = h * width, w * height
    alike = abs(across - down) < max(height, width) or max(across, down) <= stretch * min(across, down)
    return 2 <= h <= height and 2 <= w <= width and alike


def _area(target: Target) -> int:
    return target.grid[0] * target.grid[1]


@contextmanager
def _recording(model: nn.Module) -> Iterator[list[_Record]]:
    """Record the output of every module that runs in this thread."""
    records: list[_Record] = []
    calls: Counter[str] = Counter()
    thread = get_ident()

    def hook(layer: str, inputs: tuple[Any, ...], returned: Any) -> None:
        output = tensor_of(returned)
        if get_ident() != thread or output is None:
            return
        if isinstance(returned, tuple) and any(output is given for given in inputs):
            return  # handed on, not made here
        if output.is_inference():
            raise TargetError(NO_GRADIENT)
        given = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
        records.append(_Record(layer, calls[layer], given, output, output._version))
        calls[layer] += 1

    with ExitStack() as handles:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                handle = module.register_forward_hook(lambda _, inputs, output, layer=name: hook(layer, inputs, output))
                handles.callback(handle.remove)
        yield records
