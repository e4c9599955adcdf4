"""What can be asked of any network: what it is, what it takes and returns, and how it is run."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .errors import ModelError


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, of which torch.compile, DataParallel and DistributedDataParallel run copies or traces.

    Raises ModelError when it is none.
    """
    while True:
        if not isinstance(model, nn.Module):
            raise ModelError(
                f"the model is {type(model).__name__} {str(model)[:80]!r}; expected a torch.nn.Module, such as "
                'gradcam.load("resnet50") wraps.'
            )
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model


def check_mode(model: nn.Module) -> None:
    """Raise ModelError, naming the part, when any part of the network is in training mode."""
    if (part := _in_training(model)) is not None:
        name = next(name for name, module in model.named_modules() if module is part)
        what = f"its part {name!r}" if name else "the model"
        raise ModelError(f"{what} is in training mode, where answers are random or change it; call model.eval().")


def _in_training(model: nn.Module) -> nn.Module | None:
    """A module of the tree in training mode. By hand, since model.modules() takes ten times as long."""
    stack = [model]
    while stack:
        module = stack.pop()
        if module.training:
            return module
        stack.extend(child for child in module._modules.values() if child is not None)
    return None


def tensor_like(model: nn.Module) -> Tensor:
    """A tensor on the device and of the type that the network computes with; of the CPU's where it has none."""
    tensors = (tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
    return next(tensors, torch.empty(0, device="cpu", dtype=torch.float32))


def checked_size(input_size: Any) -> tuple[int, int, int]:
    """The (channels, height, width) that was given for `input_size`. Raises ModelError when it is something else."""
    match input_size:
        case (int(channels), int(height), int(width)) if min(channels, height, width) > 0:
            return channels, height, width
    raise ModelError(f"input_size is {repr(input_size)[:80]}; expected (C, H, W) in pixels, such as (3, 224, 224).")


def run(model: nn.Module, pictures: Tensor) -> Any:
    """Call the network as it was written, also after `model.compile()`: of compiled code hooks see nothing."""
    own_call = type(model).__call__ is not nn.Module.__call__
    return model(pictures) if own_call else model._call_impl(pictures)


class GradientsStayOn(TorchFunctionMode):
    """Runs a network as if it did not switch gradients off or on, as one with a frozen part may."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Ignore the switch; do everything else."""
        return None if func is torch._C._set_grad_enabled else func(*args, **(kwargs or {}))


def switch_gradients_on() -> None:
    """Switch them on from here, also where they are said to stay as they are."""
    with torch._C.DisableTorchFunction():
        torch.set_grad_enabled(True)


def tensor_of(output: Any) -> Tensor | None:
    """What a module returned, if it is a tensor, or the first item if it is a tuple that begins with one."""
    first = output[0] if isinstance(output, tuple) and output else output
    return first if isinstance(first, Tensor) else None
