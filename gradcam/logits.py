"""From a network's output to logits, and from logits to the scores of classes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F

Classes = int | Sequence[int] | Tensor | str | None
NO_RIVAL = -1  # in `versus`: the score of this class alone, not a difference


def logits_of(output: Any, batch: int) -> Tensor:
    """The (B, N) logits in whatever the network returned: a tensor, or the one that fits in a tuple or mapping.

    A mapping's or result object's `logits` come first. Where several fit they must be equally wide, as those of an
    auxiliary head are, and the first is taken. (B, N, 1, 1) is accepted, and (B,) where nothing else is returned.
    Raises ValueError.
    """
    tensors = _tensors(output)
    fitting = []
    for tensor in tensors:
        if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            tensor = tensor.flatten(1)
        if len(tensors) == 1 and tensor.ndim < 2 and (batch == 1 or tensor.numel() == batch):
            tensor = tensor.reshape(batch, -1)  # squeezed: one logit for each picture, or the only picture's logits
        if tensor.ndim == 2 and tensor.shape[0] == batch and tensor.is_floating_point():
            fitting.append(tensor)
    if len({tensor.shape for tensor in fitting}) == 1:
        return fitting[0]
    shapes = [tuple(tensor.shape) for tensor in tensors]
    raise ValueError(
        f"the network returned {type(output).__name__} with shapes {shapes}; expected one row of logits for each of "
        f"the {batch} pictures, shape ({batch}, N). Wrap the network so that it returns its class scores."
    )


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(getattr(output, "logits", None), Tensor):
        return [output.logits]
    if isinstance(output, Mapping):
        named = output.get("logits")
        return [named] if isinstance(named, Tensor) else [v for v in output.values() if isinstance(v, Tensor)]
    if isinstance(output, Sequence):
        return [v for v in output if isinstance(v, Tensor)]
    return []


@dataclass(frozen=True)
class Output:
    """The end of one forward pass: its (B, N) `logits`, detached, and where they stand in the graph.

    A network that ends in a softmax, log-softmax or sigmoid is read before it: the score of a class is its logit, not
    its probability, whose gradient fades as the network grows sure. The values then come from the probabilities, which
    leave a softmax's logits open by a constant for each picture: no probability, order or gradient depends on it.
    Where probabilities come out in another way (the mean of several softmaxes), their logarithms are the logits.

    `probabilities` are (B, class_count) float32 in 0..1. Several sigmoids are as many questions of yes or no: only then
    they need not sum to 1.
    """

    logits: Tensor
    probabilities: Tensor
    end: GradientEdge
    shape: torch.Size  # of what stands at the end, with as many elements as the logits
    dtype: torch.dtype
    slope: Tensor | None = None  # (B, N), of the logits by what stands at the end, where that is no logits

    @classmethod
    def of(cls, logits: Tensor) -> "Output":
        """Find the end of the graph that leads to the (B, N) tensor a network returned."""
        node: Any = get_gradient_edge(logits).node  # of which each kind has attributes of its own
        while re.match("(Unsafe)?View|ReshapeAlias|(Uns|S)queeze|Alias|Clone|ToCopy", node.name()):
            node = node.next_functions[0][0]
        given = logits.detach()
        match node.name():
            case "SoftmaxBackward0":
                values = given.float().clamp(min=torch.finfo(torch.float32).tiny).log()
            case "SigmoidBackward0":
                values = given.cpu().double().logit(eps=1e-12).float().to(given.device)  # MPS has no float64
            case "LogSoftmaxBackward0":
                values = given
            case _:
                values, slope = given, None
                if _are_probabilities(given):
                    positive = given.float().clamp(min=1e-12)
                    values, slope = positive.log(), positive.reciprocal()
                return cls(values, probabilities(values), get_gradient_edge(logits), logits.shape, logits.dtype, slope)
        several_sigmoids = node.name() == "SigmoidBackward0" and given.shape[1] > 1
        chances = given.float() if several_sigmoids else probabilities(values)
        result = node._saved_result
        return cls(values, chances, GradientEdge(*node.next_functions[0]), result.shape, result.dtype)

    def gradient(self, weights: Tensor, of: Tensor) -> Tensor | None:
        """The gradient of the logits' sum with (B, N) weights, in the shape of `of`; None where `of` has no part."""
        scaled = weights if self.slope is None else weights * self.slope
        given = scaled.to(self.dtype).reshape(self.shape)
        (gradient,) = torch.autograd.grad(self.end, of, given, retain_graph=True, allow_unused=True)
        return gradient


def _are_probabilities(values: Tensor) -> bool:
    """Whether (B, N) values sum to 1 for every picture, as closely as no logits would by chance."""
    return values.shape[1] > 1 and bool((values >= 0).all()) and bool(((values.float().sum(1) - 1).abs() < 1e-5).all())


def class_count(logits: Tensor) -> int:
    """How many classes (B, N) logits tell apart: N, but 2 when a single logit decides between yes and no."""
    return max(logits.shape[1], 2)


def per_class(logits: Tensor) -> Tensor:
    """(B, N) logits -> (B, class_count) scores: with a single logit y, class 1 scores +y and class 0 scores -y."""
    return torch.cat([-logits, logits], dim=1) if logits.shape[1] == 1 else logits


def probabilities(logits: Tensor) -> Tensor:
    """(B, N) logits -> (B, class_count) float32 summing to 1: softmax, or the sigmoid of a single logit."""
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return logits.float().softmax(dim=1)


def choose_classes(logits: Tensor, classes: Classes) -> Tensor:
    """Read `classes` as a (B, K) int64 tensor of class indices for (B, N) logits.

    None: each picture's best class; an int: that class for all; "top5" (any number): each picture's best five, or
    all when there are fewer; a sequence of B ints: one for each picture; a (B, K) tensor: as it is.
    Raises ValueError for anything else and for indices outside the range.
    """
    batch, count = logits.shape[0], class_count(logits)
    if classes is None:
        classes = "top1"
    if isinstance(classes, str):
        match = re.fullmatch(r"top([1-9]\d*)", classes)
        if match is None:
            raise ValueError(f'classes={classes!r} is not understood; give indices, or "top5" for the best five.')
        return per_class(logits).topk(min(int(match[1]), count), dim=1).indices
    chosen = _indices(classes, logits.device)
    if chosen.ndim == 0:
        chosen = chosen.expand(batch, 1)
    elif chosen.ndim == 1 and len(chosen) == batch:
        chosen = chosen[:, None]
    elif chosen.ndim != 2 or len(chosen) != batch:
        raise ValueError(
            f"classes have shape {tuple(chosen.shape)} for {batch} pictures; expected one index, a sequence of "
            f"{batch} indices, or a tensor of shape ({batch}, K) for K classes a picture."
        )
    outside = chosen[(chosen < 0) | (chosen >= count)]
    if len(outside):
        raise ValueError(f"class {outside[0].item()} does not exist: the network has classes 0 to {count - 1}.")
    return chosen


def _indices(given: int | Sequence[int] | Tensor, device: torch.device) -> Tensor:
    """An int64 tensor that shares nothing with the caller's. Raises ValueError for what holds no whole numbers."""
    try:
        indices = torch.as_tensor(given, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"classes={given!r} are not understood; give indices, equally many for each picture."
        ) from error
    if indices.numel() == 0:
        raise ValueError("no classes were given; expected at least one for each picture.")
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise ValueError(f"classes are {indices.dtype}; expected whole numbers.")
    return indices.to(torch.int64, copy=True)


def choose_rivals(logits: Tensor, versus: Classes, classes: Tensor) -> Tensor | None:
    """Read `versus` like classes, widened to the shape (B, K) of `classes`; NO_RIVAL is allowed. Raises ValueError."""
    if versus is None or isinstance(versus, str):
        rivals = None if versus is None else choose_classes(logits, versus)
    else:
        given = _indices(versus, logits.device)
        rivals = choose_classes(logits, given.where(given != NO_RIVAL, 0))
        given = given[:, None] if given.ndim == 1 else given
        rivals = rivals.where(given != NO_RIVAL, NO_RIVAL)
    if rivals is not None and rivals.shape[1] not in (1, classes.shape[1]):
        raise ValueError(
            f"versus has {rivals.shape[1]} classes a picture for {classes.shape[1]} classes; expected one, or as many."
        )
    return None if rivals is None else rivals.expand(classes.shape)


def score_weights(logits: Tensor, classes: Tensor, rivals: Tensor | None = None) -> Tensor:
    """What the scores y_class, or y_class - y_rival where there is a rival, are made of: (B, N), (B, K) -> (B, K, N).

    The score is the logits' sum with these float32 weights.
    """
    count = class_count(logits)
    weights = F.one_hot(classes, count).float()
    if rivals is not None:
        against = F.one_hot(rivals.clamp(min=0), count)
        weights -= against.masked_fill(rivals[..., None] == NO_RIVAL, 0)
    return weights[..., 1:] - weights[..., :1] if logits.shape[1] == 1 else weights
