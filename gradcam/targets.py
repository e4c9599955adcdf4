"""Find the layer whose output is the evidence, and read that output as a grid over the picture.

The target is the last output, in execution order, that is still a grid aligned with the picture and that the score
still depends on. It is found by experiment. One forward pass over five pictures of noise, which
differ from the first in the left, right, upper and lower half, records the output of every module:

- *aligned*: read as a grid, the output changes in the half in which the picture changed;
- *the score depends on it*: the gradient of the highest logit, or of all where that one is a constant, is not zero on
  the grid (after the last block of a class-token transformer it is zero everywhere but on the token);
- the insides of attention modules, known by their names, are passed over: queries, keys and values lie on the grid,
  but are no feature maps;
- what a branch adds to the grid, or weighs its cells with, gives way to the sum, where a module is given that
  (`x = x + block(x)` in a network's own forward), or else to what the branch was made of: a map of it would show a part
  of the evidence, and of weights that a softmax makes sum to 1 none at all;
- what a layer without parameters only enlarges (VGG's pooling to 7x7, of less) is passed over for what it was made of;
- when the grid is smaller than 4 cells on a side, the search goes on to an earlier, larger one.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from .errors import InputError, reason, suggest
from .logits import Output, logits_of
from .networks import GradientsStayOn, run, tensor_like, tensor_of

LEAST_SIDE = 4  # cells; a smaller grid says too little when there is a larger one
MOST_OTHER_TOKENS = 16
MOST_STRETCH = 4  # of a map whose cells are counted; of tokens the proportions are all there is to go by
LEAST_CORRELATION = 0.5  # between where a cell lies and which half of the picture it answers to

NO_GRADIENT = (
    "no gradient leads from the score to a map: the network is quantised, runs its layers in inference_mode() or a "
    "reentrant checkpoint, or detaches what they return. Explain it without that; its weights and their gradients are "
    "left as they are."
)
UNSEEN = "where it can be seen; explain the network before it is compiled, scripted or spread over devices."
GIVEN = ":input"  # at the end of a layer's name: not what the module returns, but what it is given


class TargetError(InputError):
    """No output of the network can be read as a map of the picture; the message says what was seen."""


class NoGradientError(TargetError):
    """No gradient leads from the score to any map."""


@dataclass(frozen=True)
class Target:
    """Which output of the network holds the evidence, and how to read it.

    `layer` is the module's name in `model.named_modules()`, or that name and ":input" for what the module is given,
    where the network's own forward made it and no module returns it; `layout` is "NCHW", "NHWC", "NLC" or "LNC" (tokens
    first); `grid` is (h, w) in cells; `prefix` and `suffix` count the tokens before and after the grid (class, register
    and distillation tokens); `call` says which run of the module is meant when there are several in a forward pass.
    """

    layer: str
    layout: str
    grid: tuple[int, int]
    channels: int
    prefix: int = 0
    suffix: int = 0
    call: int = 0

    @property
    def module(self) -> str:
        """The name of the module that returns it, or is given it."""
        return self.layer.removesuffix(GIVEN)

    @property
    def is_given(self) -> bool:
        """Whether it is what the module is given, not what it returns."""
        return self.layer.endswith(GIVEN)

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
                f"layer {self.layer!r} has the shape {tuple(output.shape)}; expected {self.layout} with "
                f"{self.channels} channels on a grid of {self.grid[0]}x{self.grid[1]}."
            )
        return cells


def find_target(model: nn.Module, input_size: tuple[int, int, int], layer: str | None = None) -> Target:
    """Choose the target of `model` for pictures of `input_size` (channels, height, width).

    With `layer` only that module's output is considered, or with "NAME:input" what it is given. Costs one forward pass
    over five pictures and the backward pass of what lies above the target; the model is left as it was. Raises
    TargetError.
    """
    if isinstance(layer, nn.Module):
        raise TargetError("layer is a module; give its name, as in model.named_modules().")
    modules = {name: module for name, module in model.named_modules() if name}
    if layer is not None and str(layer).removesuffix(GIVEN) not in modules:
        hint = suggest(str(layer), list(modules)) or "; model.named_modules() lists them."
        raise TargetError(f"the network has no layer {str(layer)[:80]!r}{hint}")
    with torch.inference_mode(False), torch.enable_grad():
        probe = _Probe(model, input_size)
        return probe.choose() if layer is None else probe.read(layer)


def find_stages(model: nn.Module, input_size: tuple[int, int, int]) -> list[Target]:
    """The target on each grid the picture passes through, from the largest grid to the smallest.

    Those that `layer` can name: of a module that runs several times, the last run. Costs what `find_target` costs, with
    a backward pass down to the first grid. Raises TargetError.
    """
    with torch.inference_mode(False), torch.enable_grad():
        probe = _Probe(model, input_size)
        probe.choose()  # raises where there is none
        return [target for target in probe.stages() if probe.read(target.layer) == target][::-1]


@dataclass(frozen=True)
class _Moment:
    """A tensor during the probe; an in-place operation later makes another of it."""

    tensor: Tensor
    version: int
    edge: GradientEdge | None  # where it stands in the graph; None where no gradient leads to it

    @classmethod
    def of(cls, tensor: Tensor) -> "_Moment":
        return cls(tensor, tensor._version, get_gradient_edge(tensor) if tensor.requires_grad else None)

    @cached_property
    def memory(self) -> tuple[int, int, int]:
        """The same for all views of one tensor that show the whole of it."""
        return self.tensor.untyped_storage().data_ptr(), self.version, self.tensor.numel()


@dataclass(frozen=True, eq=False)
class _Record:
    """A tensor that one module returned during the probe, made of what it was `given`, or that it was given."""

    layer: str
    call: int
    moment: _Moment
    given: _Moment | None = None

    @property
    def node(self) -> Node | None:
        return self.moment.edge.node if self.moment.edge else None

    @property
    def is_given(self) -> bool:
        return self.layer.endswith(GIVEN)

    def same_output(self, other: "_Record") -> bool:
        return self.moment.tensor is other.moment.tensor and self.moment.version == other.moment.version


class _Probe:
    """The forward pass over five pictures of noise, and what it tells about each module's output."""

    def __init__(self, model: nn.Module, input_size: tuple[int, int, int]) -> None:
        self.size = input_size[1:]
        self.picture = _noise_with_changed_halves(model, input_size).requires_grad_()
        if self.picture.is_meta:
            raise TargetError("the network has no weights, it is on the meta device; load them first, then explain it.")
        try:
            with torch.no_grad():
                run(model, self.picture[:1].clone())  # what networks keep for later passes is kept without a graph
            self.modules = dict(model.named_modules())  # now, since some networks make layers in their first pass
            # With gradients on, since the grid may lie in a frozen part, and only a branch of it in another.
            with GradientsStayOn(), _recording(model) as self.records:
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
            raise NoGradientError(NO_GRADIENT)
        shape = self.picture.shape
        self.given_pictures = {r.layer for r in self.records if r.given is not None and r.given.tensor.shape == shape}
        self.targets: dict[_Record, Target | None] = {}  # those looked at so far
        self.output, self.weights = self._score(logits)

    def _score(self, logits: Tensor) -> tuple[Output, Tensor]:
        """The highest logits, by weights; under a last layer of zeros, as some start, what that is given instead."""
        output = Output.of(logits)
        highest = torch.zeros_like(output.logits).scatter_(1, output.logits.argmax(dim=1, keepdim=True), 1)
        features = next((record.given for record in self.records if record.moment.tensor is logits), None)
        if features is None or features.edge is None:
            return output, highest
        gradient = output.gradient(highest, features.edge)
        if gradient is None or gradient.any():
            return output, highest
        flat = features.tensor.flatten(1)
        # Not all alike, since a normalisation layer keeps the plain sum constant.
        return Output.of(flat), torch.linspace(-1, 1, flat.shape[1]).to(flat).expand_as(flat)

    def choose(self) -> Target:
        """The target of the whole network."""
        if not self.records and len(self.modules) > 1:
            raise TargetError(f"no part of the network ran {UNSEEN}")
        smallest_first = list(self.stages(until=LEAST_SIDE))
        if not smallest_first:  # the highest logit may be a constant, such as that of a class "unknown"
            self.weights = torch.linspace(-1, 1, self.weights.shape[1]).to(self.weights).expand_as(self.weights)
            smallest_first = list(self.stages(until=LEAST_SIDE))
        if not smallest_first:
            aligned = [record for record in self.records if not record.is_given and self._aligned(record)]
            if aligned and all(self._gradient(record.moment) is None for record in aligned):
                raise NoGradientError(NO_GRADIENT)
            raise TargetError(
                "no output of the network is a grid aligned with the picture that the score depends on; "
                f"seen, last first: {self._seen()}. Name one with layer= if one of them is."
            )
        return smallest_first[-1]

    def stages(self, until: int | None = None) -> Iterator[Target]:
        """The target on the last grid, then the one on the last larger grid before it, and so on back.

        Ends after the first grid of at least `until` cells on its shorter side.
        """
        records, area = self.records, 0
        while (found := self._last(records, area)) is not None:
            record, target = found
            owner = self._owner(record)
            yield replace(target, layer=owner.layer, call=owner.call)
            if until is not None and min(target.grid) >= until:
                return
            records, area = records[: records.index(record)], _area(target)

    def read(self, layer: str) -> Target:
        """The target at a given layer."""
        records = [record for record in self.records if record.layer == layer]
        if not self.records:
            raise TargetError(f"layer {layer!r} did not run {UNSEEN}")
        if not records:
            raise TargetError(f"layer {layer!r} does not run, or has no tensor, in the network's forward pass.")
        for record in reversed(records):
            if (target := self._aligned(record)) and self._score_depends_on(record.moment, target):
                return target
        if not any(record.moment.edge for record in records):
            raise NoGradientError(NO_GRADIENT)
        shape = tuple(records[-1].moment.tensor.shape)[1:]
        why = "the score does not depend on its grid" if self._aligned(records[-1]) else "no grid of the picture"
        raise TargetError(
            f"layer {layer!r} cannot be explained: {why} (shape {shape} a picture, input "
            f"{self.size[0]}x{self.size[1]}). Leave layer= out to have one found, or choose an earlier layer."
        )

    def _last(self, records: list[_Record], area: int) -> tuple[_Record, Target] | None:
        """The last output the score depends on, on more than `area` cells; inside attention only where no other is.

        Where it is a branch: the last that is none, on the same grid, of outputs and of what modules are given. Where
        all are branches, as in networks with several trunks, the last stays.
        """
        for inside in (False, True):
            last = next(self._candidates(records, inside, area), None)
            if last is None:
                continue
            if not self._is_branch(*last):
                return last
            branches = [self._owner(last[0]).layer]
            for record, target in self._candidates(records, inside, area, given_too=True):
                within = any(f"{record.layer}.".startswith(f"{branch}.") for branch in branches)
                if within or target.grid != last[1].grid:
                    continue
                if not self._is_branch(record, target):
                    return record, target
                branches.append(self._owner(record).layer)
            return last
        return None

    def _candidates(
        self, records: list[_Record], inside: bool, area: int, given_too: bool = False
    ) -> Iterator[tuple[_Record, Target]]:
        """Those of more than `area` cells that the score depends on, last first, `inside` attention or outside it."""
        for record in reversed(records):
            if (
                (self._is_new(record) if record.is_given and given_too else not record.is_given)
                and self._inside_attention(record) is inside
                and (target := self._aligned(record))
                and _area(target) > area
                and not self._merely_enlarges(record, target)
                and self._score_depends_on(record.moment, target)
            ):
                yield record, target

    def _is_new(self, given: _Record) -> bool:
        """Whether it was made, of what modules returned, by none of them, and is no grid by any other name."""
        if given.node is None:
            return False
        before = self.records[: self.records.index(given)]
        if any(given.moment.memory == record.moment.memory and self._aligned(record) for record in before):
            return False
        made_of = _behind(given.node)
        return any(record.node in made_of for record in before if not record.is_given)

    def _is_branch(self, record: _Record, target: Target) -> bool:
        """Whether a grid joins the one it was made of (a sum, a product, beside it), and the score depends on both."""
        assert record.node is not None  # since the score depends on it
        end = self.output.end.node
        past, made_of = _behind(end, without=record.node), _behind(record.node)
        for before in reversed(self.records[: self.records.index(record)]):
            if before.node is not None and before.node in past and before.node in made_of:
                earlier = self._aligned(before)
                if earlier and earlier.grid == target.grid:
                    one, other = _between(end, record.node), _between(end, before.node, without=record.node)
                    if not _meet(one, other, record.moment.tensor.shape, target.layout.index("C")):
                        return False  # their means do, as those of several scales, or single tokens
                    with _cut(record.moment):
                        return self._score_depends_on(before.moment, earlier)
        return False

    def _aligned(self, record: _Record) -> Target | None:
        """The reading of a record as a grid that answers best where the picture changed; None if none does."""
        if record not in self.targets:
            self.targets[record] = self._read_as_grid(record)
        return self.targets[record]

    def _read_as_grid(self, record: _Record) -> Target | None:
        output = record.moment.tensor.detach()
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
        given = record.given
        if given is None or given.tensor.ndim != 4 or given.tensor.numel() >= record.moment.tensor.numel():
            return False
        if any(True for _ in self.modules[record.layer].parameters()):
            return False
        before = self._read_as_grid(replace(record, moment=given))
        return before is not None and _area(before) < _area(target)

    def _gradient(self, moment: _Moment) -> Tensor | None:
        return self.output.gradient(self.weights, moment.edge) if moment.edge else None

    def _score_depends_on(self, moment: _Moment, target: Target) -> bool:
        gradient = self._gradient(moment)
        return gradient is not None and bool(target.read(gradient).any())

    def _inside_attention(self, record: _Record) -> bool:
        """Whether the module is a part of an attention module.

        One that is given pictures is a network, whatever its name. A list's name is that of each of its modules.
        """
        path = name = ""
        for part in record.layer.split(".")[:-1]:
            path, name = f"{path}.{part}".removeprefix("."), f"{name} {part}"
            module = self.modules[path]
            if isinstance(module, nn.ModuleList | nn.ModuleDict):
                continue
            if path not in self.given_pictures and re.search(
                r"attention|attn|m(h|s|hs)a\b", f"{name} {type(module).__name__}", re.I
            ):
                return True
            name = ""
        return False

    def _owner(self, record: _Record) -> _Record:
        """The record of the outermost module that returns this output: layer4 rather than layer4.2.act3.

        But of the first that has a hook of the caller's: what that keeps may be used past the modules around it.
        """
        if record.is_given:
            return record
        same = [other for other in self.records if other.same_output(record) and not other.is_given]
        around = [r for r in same if r.layer == same[0].layer or same[0].layer.startswith(r.layer + ".")]
        return next((r for r in around if _has_hook_of_the_caller(self.modules[r.layer])), around[-1])

    def _seen(self) -> str:
        outputs = [record for record in reversed(self.records) if not record.is_given]
        shapes = dict.fromkeys(f"{r.layer} {tuple(r.moment.tensor.shape[1:])}" for r in outputs)
        return ", ".join(list(shapes)[:8]) or "no module that returns a tensor"


def _has_hook_of_the_caller(module: nn.Module) -> bool:
    """Whether a hook that is not one of ours, in whatever thread, sees what the module returns."""
    hooks = module._forward_hooks.values()
    return any(not str(getattr(hook, "__module__", "")).startswith(f"{__package__}.") for hook in hooks)


def _behind(start: Node, without: Node | None = None) -> set[Node]:
    """The nodes of the graph that `start` was made of, itself among them; not those that only `without` leads to."""
    seen: set[Node] = set()
    ahead = [start]
    while ahead:
        node = ahead.pop()
        if node not in seen and node is not without:
            seen.add(node)
            ahead += [after for after, _ in node.next_functions if after is not None]
    return seen


def _between(end: Node, start: Node, without: Node | None = None) -> set[Node]:
    """The nodes of the graph that are made of `start`, itself among them, and that `end` is made of."""
    users: defaultdict[Node, list[Node]] = defaultdict(list)
    for node in _behind(end, without):
        for before, _ in node.next_functions:
            if before is not None:
                users[before].append(node)
    seen: set[Node] = set()
    ahead = [start]
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            ahead += users[node]
    return seen


def _meet(one: set[Node], other: set[Node], shape: torch.Size, channels: int) -> bool:
    """Whether a step of the graph takes a tensor from each that has the cells of this shape, maybe in one dimension."""
    batch, *cells = [size for dimension, size in enumerate(shape) if dimension != channels]

    def is_grid(given: torch.Size) -> bool:
        wanted = [batch, *cells] if len(given) == 4 else [batch, prod(cells)]
        return len(given) in (3, 4) and Counter(given) >= Counter(wanted)

    for node in one & other:
        grids = [
            before
            for before, number in node.next_functions
            if (before in one or before in other) and is_grid(before._input_metadata[number].shape)
        ]
        if len(grids) > 1 and not one.isdisjoint(grids) and not other.isdisjoint(grids):
            return True
    return False


@contextmanager
def _cut(moment: _Moment) -> Iterator[None]:
    """Let no gradient through a tensor."""
    assert moment.edge is not None
    number = moment.edge.output_nr

    def silence(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        return tuple(g if g is None or i != number else torch.zeros_like(g) for i, g in enumerate(gradients))

    handle = moment.edge.node.register_prehook(silence)
    try:
        yield
    finally:
        handle.remove()


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
    """Record what every module that runs in this thread is given and returns."""
    records: list[_Record] = []
    calls: Counter[str] = Counter()
    under_way: defaultdict[str, list[_Moment | None]] = defaultdict(list)  # what the runs of a module were given
    thread = get_ident()

    def moment_of(tensor: Any) -> _Moment | None:
        if not isinstance(tensor, Tensor):
            return None
        if tensor.is_inference():
            raise TargetError(NO_GRADIENT)
        return _Moment.of(tensor)

    def add(layer: str, moment: _Moment, given: _Moment | None = None) -> None:
        records.append(_Record(layer, calls[layer], moment, given))
        calls[layer] += 1

    def before(layer: str, inputs: tuple[Any, ...]) -> None:
        if get_ident() == thread:
            given = moment_of(inputs[0] if inputs else None)
            under_way[layer].append(given)
            if given is not None:
                add(layer + GIVEN, given)

    def after(layer: str, inputs: tuple[Any, ...], returned: Any) -> None:
        if get_ident() != thread:
            return
        given, output = under_way[layer].pop(), moment_of(tensor_of(returned))
        if output is None or (isinstance(returned, tuple) and any(output.tensor is one for one in inputs)):
            return  # handed on, not made here
        add(layer, output, given)

    with ExitStack() as handles:
        for name, module in model.named_modules():
            if name and not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                handle = module.register_forward_pre_hook(lambda _, inputs, layer=name: before(layer, inputs))
                handles.callback(handle.remove)
                handle = module.register_forward_hook(
                    lambda _, inputs, output, layer=name: after(layer, inputs, output)
                )
                handles.callback(handle.remove)
        yield records
