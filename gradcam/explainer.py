"""Explainer: one forward pass of any image classifier -> where the evidence for each class is."""

from contextlib import suppress
from dataclasses import dataclass
from threading import Lock, get_ident
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .errors import reason
from .logits import Classes, Output, choose_classes, choose_rivals, logits_of, score_weights
from .methods import method_named
from .networks import (
    GradientsStayOn,
    check_mode,
    checked_size,
    run,
    switch_gradients_on,
    tensor_like,
    tensor_of,
    unwrapped,
)
from .targets import NO_GRADIENT, NoGradientError, Target, TargetError, find_target

MOST_GRADIENTS = 8  # of as many classes at a time: those of all 1,000 may be larger than the network


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the network said of a batch of B pictures, and where its evidence is for K classes of each.

    `logits` (B, N): raw scores before softmax, also of a network that ends in one. `classes` (B, K) int64: the
    classes explained. `signed` (B, K, h, w) float32: evidence for (positive) and against (negative) the class, in units
    of the score. `target`: the layer and grid it was read from.
    """

    logits: Tensor
    classes: Tensor
    signed: Tensor
    target: Target

    @property
    def maps(self) -> Tensor:
        """(B, K, h, w) float32: the evidence for each class, ReLU(signed); not normalised."""
        return self.signed.relu()


class ForwardPass:
    """One forward pass over a batch, held with the graph above its target: explains any class without another pass.

    `logits` (B, N) and `probabilities` (B, class_count), float32 in 0..1, are detached. Safe to use from many threads.
    """

    def __init__(self, output: Output, activations: Tensor, place: Tensor | GradientEdge, target: Target) -> None:
        self._output, self._activations, self._place = output, activations, place
        self.logits, self.probabilities, self.target = output.logits, output.probabilities, target

    def explain(self, classes: Classes = None, versus: Classes = None, method: str = "gradcam") -> Explanation:
        """Explain `classes`, given as for `Explainer`, at the cost of a backward pass down to the target for each."""
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(self.logits.device.type, enabled=False):
            chosen = choose_classes(self.logits, classes)
            rivals = choose_rivals(self.logits, versus, chosen)
            weights = score_weights(self.logits, chosen, rivals)
            activations = self.target.read(self._activations.detach())[:, None].float()
            maps = []
            for some in weights.split(MOST_GRADIENTS, dim=1):
                gradients = [self._gradient(one) for one in some.unbind(1)]
                maps.append(method_named(method)(activations, torch.stack(gradients, dim=1).float()))
        return Explanation(self.logits, chosen, torch.cat(maps, dim=1), self.target)

    def _gradient(self, weights: Tensor) -> Tensor:
        """(B, C, h, w): the gradient of the sum over the batch of one score each, weights (B, N) of the logits."""
        gradient = self._output.gradient(weights, self._place)
        if gradient is None:
            raise TargetError(
                f"the score depends on layer {self.target.layer!r} only past its output (something inside it was kept "
                "aside); choose another with layer=."
            )
        return self.target.read(gradient)


class Explainer:
    """Explains the answers of an image classifier, any `torch.nn.Module` that maps (B, C, H, W) to logits.

    `layer` names the module whose output is explained, or with ":input" behind the name the one whose input is; by
    default it is found (see `targets`). `method` is a key of METHODS. `input_size` (C, H, W), where it is not known
    from the model's own configuration (timm's), tells the size of the pictures to come, so that `target` is known at
    once.

    The model is read, never changed, and may be shared between threads. One that was compiled, or spread over GPUs, is
    explained without that. Raises ValueError for an unknown method or a model in training mode, and TargetError when
    the network has no layer that can be read as a map.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | None = None,
        method: str = "gradcam",
        input_size: tuple[int, int, int] | None = None,
    ) -> None:
        method_named(method)
        self.model, self.layer, self.method = unwrapped(model), layer, method
        self._targets: dict[tuple[int, ...], Target] = {}
        self._lock = Lock()
        self._latest: Target | None = None
        self._switches_gradients = False
        if input_size is not None:
            self._latest = self._target_for(checked_size(input_size))
        elif (configured := _configured_input_size(self.model)) is not None:
            # A network built for another size than its configuration names fails here; its pictures will tell.
            with suppress(TargetError):
                self._latest = self._target_for(configured)

    @property
    def target(self) -> Target:
        """Where the evidence is read, for the input size seen last. Raises TargetError while no size is known."""
        if self._latest is None:
            raise TargetError("the target depends on the size of the pictures: give input_size=, or explain one first.")
        return self._latest

    def __call__(self, images: Tensor, classes: Classes = None, versus: Classes = None) -> Explanation:
        """Explain preprocessed `images` (B, C, H, W), on the model's device.

        `classes` says what to explain: None, each image's best class; an int, that class for all; a sequence of B
        ints; a (B, K) tensor; "top5", the best five of each (any number). With `versus`, given the same way, the
        difference y_class - y_versus is explained: why this class *rather than* that; -1 in it means no rival.

        Raises ValueError for images, classes or a model that cannot be explained (a model in training mode too).
        """
        return self.forward(images).explain(classes, versus, self.method)

    def forward(self, images: Tensor) -> ForwardPass:
        """Run the network once over `images`, to explain class after class from the same pass."""
        self._check(images)
        target = self._latest = self._target_for(tuple(images.shape[1:]))
        with torch.inference_mode(False), torch.no_grad():
            if not self._switches_gradients:
                with suppress(NoGradientError):
                    return self._run(images, target)
            with GradientsStayOn():
                forward = self._run(images, target)
            self._switches_gradients = True  # seen by what failed: the next pass is not run twice
            return forward

    @staticmethod
    def _check(images: Tensor) -> None:
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point() or 0 in images.shape:
            given = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(
                f"images are {given}; expected a float tensor of shape (B, C, H, W), already preprocessed."
            )

    def _target_for(self, input_size: tuple[int, ...]) -> Target:
        """The target for one input size: searched for once, by one thread."""
        check_mode(self.model)
        with self._lock:
            if input_size not in self._targets:
                channels, height, width = input_size
                self._targets[input_size] = find_target(self.model, (channels, height, width), self.layer)
            return self._targets[input_size]

    def _run(self, images: Tensor, target: Target) -> ForwardPass:
        """One pass whose graph begins at the target, or at the pictures where that is what a module is given.

        Gradients are off until an output is reached and on from there, so the graph holds only what lies above it. An
        output is copied twice: an in-place operation that follows must reach neither what the layer keeps of it nor
        the leaf of the graph. Of what a module is given the network may have made something before, which counts too.
        """
        held: tuple[Tensor, Tensor | GradientEdge] | None = None  # the activations, and their place in the graph
        calls, thread = 0, get_ident()

        def is_reached(tensor: Any) -> TypeGuard[Tensor]:
            nonlocal calls
            if get_ident() != thread or not isinstance(tensor, Tensor):  # another thread runs the same model
                return False
            calls += 1
            if calls != target.call + 1:
                return False
            _check_all_there(tensor, len(images), target)
            switch_gradients_on()
            return True

        def start_at_output(module: nn.Module, inputs: Any, returned: Any) -> Any:
            nonlocal held
            output = tensor_of(returned)
            if not is_reached(output):
                return None
            leaf = output.detach().clone().requires_grad_()
            held = leaf, leaf
            if not isinstance(returned, tuple):
                return leaf.clone()
            first, rest = leaf.clone(), returned[1:]
            return type(returned)(first, *rest) if hasattr(returned, "_fields") else (first, *rest)

        def start_at_input(module: nn.Module, inputs: Any) -> None:
            nonlocal held
            given = inputs[0] if inputs else None
            if not is_reached(given):
                return
            if not given.requires_grad:
                raise NoGradientError(NO_GRADIENT)
            held = given.detach().clone(), get_gradient_edge(given)

        module = self.model.get_submodule(target.module)
        if target.is_given:
            switch_gradients_on()
            images = images.clone().requires_grad_().clone()  # no leaf, since a network may work in place on its input
            handle = module.register_forward_pre_hook(start_at_input)
        else:  # first of the layer's hooks, so that those of the caller see and keep what the graph is made of
            handle = module.register_forward_hook(start_at_output, prepend=True)
        try:
            returned = run(self.model, images)
        except TargetError:
            raise
        except Exception as error:  # whatever the network raises
            own = tensor_like(self.model)
            if (images.dtype, images.device) == (own.dtype, own.device):
                raise
            raise ValueError(
                f"images are {images.dtype} on {images.device}, the network is {own.dtype} on {own.device}, and fails "
                f"({reason(error)}); move one to the other with .to()."
            ) from error
        finally:
            handle.remove()
        logits = logits_of(returned, batch=len(images))
        if held is None:
            raise TargetError(
                f"layer {target.layer!r} ran when it was found, but not for these images: the network takes another "
                "way for them. Choose a layer that always runs, with layer=."
            )
        if not logits.requires_grad:
            raise NoGradientError(
                f"the score does not depend on layer {target.layer!r}, or gradients are switched off above it; choose "
                "another with layer=, or explain the network without the switch."
            )
        return ForwardPass(Output.of(logits), *held, target)


def _check_all_there(tensor: Tensor, count: int, target: Target) -> None:
    """Raise TargetError unless the target holds each of so many pictures."""
    there = tensor.shape[1 if target.layout == "LNC" else 0]
    if there != count:
        raise TargetError(
            f"layer {target.layer!r} was reached by {there} of {count} pictures: the network sends them different "
            "ways. Explain one picture at a time, or choose a layer that all of them pass, with layer=."
        )


def _configured_input_size(model: nn.Module) -> tuple[int, int, int] | None:
    """The (C, H, W) that timm's configuration of the model names, if it has one."""
    configuration = getattr(model, "pretrained_cfg", None)
    size = configuration.get("input_size") if isinstance(configuration, dict) else None
    return tuple(size) if size else None
