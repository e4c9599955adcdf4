"""From a network's output to logits, and from logits to the scores of classes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn import functional as F

from .errors import InputError

Classes = int | Sequence[int] | Tensor | str | None
NO_RIVAL = -1  # in `versus`: the score of this class alone, not a difference

# Steps of the graph, by the names that autograd gives them, that leave each number as it is, ...
_PASSES_ON = re.compile("((Unsafe)?View|ReshapeAlias|(Uns|S)queeze|Alias|Clone|ToCopy|Clamp(Min|Max)?)Backward")
# ... and that make probabilities of probabilities: a part of them, several beside each other, a mean.
_COMBINES = re.compile(
    f"{_PASSES_ON.pattern}|(Select|Slice|Split|Unbind|Index(Select)?|Gather|Stack|Cat|Permute|T|Transpose|Expand|"
    "Add|Sum|Mean|Mul|Div|Rsub)Backward"
)


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
    Where probabilities come out in another way, their logarithms are the logits (the mean of several softmaxes), or
    their log-odds (one column of a softmax, the mean of several sigmoids).

    `probabilities` are (B, class_count) float32 in 0..1, the network's own where it returns some: those of several
    sigmoids, as many questions of yes or no, need not sum to 1.
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
        while _PASSES_ON.match(node.name()):
            node = node.next_functions[0][0]
        given = logits.detach()
        match node.name():
            case "SoftmaxBackward0":
                values = given.float().clamp(min=torch.finfo(torch.float32).tiny).log()
            case "SigmoidBackward0":
                values = _log_odds(given)
            case "LogSoftmaxBackward0":
                values = given
            case _:
                return cls._of_no_plain_end(logits, node)
        as_given = given.shape[1] > 1 and node.name() != "LogSoftmaxBackward0"
        chances = given.float() if as_given else probabilities(values)
        result = node._saved_result
        return cls(values, chances, GradientEdge(*node.next_functions[0]), result.shape, result.dtype)

    @classmethod
    def _of_no_plain_end(cls, logits: Tensor, node: Node) -> "Output":
        """As `of`, where no softmax or sigmoid of as many numbers stands at the `node` to which they lead."""
        given, sources, single = logits.detach(), _sources(node), logits.shape[1] == 1
        if sources and sources <= {"SigmoidBackward0", "SoftmaxBackward0"} and _within_0_and_1(given):
            as_odds = single or sources == {"SigmoidBackward0"}
        elif _sum_to_1(given):
            as_odds = False
        else:
            return cls(given, probabilities(given), get_gradient_edge(logits), logits.shape, logits.dtype)
        if as_odds:
            values = _log_odds(given)
            slope = 2 + values.exp() + (-values).exp()  # 1 / (p (1 - p)), also where p is rounded to 0 or 1
        else:
            positive = given.float().clamp(min=1e-12)
            values, slope = positive.log(), positive.reciprocal()
        chances = probabilities(values) if single else given.float()
        return cls(values, chances, get_gradient_edge(logits), logits.shape, logits.dtype, slope)

    def gradient(self, weights: Tensor, of: Tensor | GradientEdge) -> Tensor | None:
        """The gradient of the logits' sum with (B, N) weights, in the shape of `of`; None where `of` has no part."""
        scaled = weights if self.slope is None else weights * self.slope
        given = scaled.to(self.dtype).reshape(self.shape)
        try:
            (gradient,) = torch.autograd.grad(self.end, of, given, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if "inplace operation" not in str(error):
                raise
            raise InputError(
                "the network changes in place what its own gradient needs (x += f(x) where f keeps x), so that it "
                "could not be trained either; write x = x + f(x)."
            ) from error
        return gradient


def _log_odds(chances: Tensor) -> Tensor:
    """log(p / (1 - p)) of probabilities, float32."""
    return chances.cpu().double().logit(eps=1e-12).float().to(chances.device)  # MPS has no float64


def _sources(node: Node) -> set[str]:
    """The names of the steps from which probabilities come if all there is between them and `node` combines such."""
    names: set[str] = set()
    seen: set[Node] = set()
    ahead = [node]
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        if _COMBINES.match(node.name()):
            ahead += [before for before, _ in node.next_functions if before is not None]
        else:
            names.add(node.name())
    return names


def _within_0_and_1(values: Tensor) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


def _sum_to_1(values: Tensor) -> bool:
    """Whether (B, N) values are probabilities for every picture, as closely as no logits would be by chance."""
    rounding = max(1e-5, torch.finfo(values.dtype).eps)
    sums = values.float().sum(1)
    return values.shape[1] > 1 and bool((values >= 0).all()) and bool(((sums - 1).abs() < rounding).all())


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
