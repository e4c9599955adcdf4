"""Somebody's file of weights -> the tensors of one network, with nothing in the file run."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

import safetensors.torch
import torch
from torch import Tensor, nn

from .errors import ModelError, reason


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The one network in a file, as a state dict. Reads tensors only: nothing in the file is executed."""
    try:
        if path.suffix.lower() == ".safetensors":
            content = safetensors.torch.load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):  # timm's own checkpoints hold their arguments
                content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"There is no checkpoint {path}.") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is no checkpoint, or holds more than tensors, and opening the rest could run code: save it again "
            "with torch.save(model.state_dict(), ...) or as .safetensors."
        ) from error
    except Exception as error:  # on a damaged file the readers raise nearly anything
        raise ModelError(
            f"{path} cannot be read as a checkpoint ({reason(error)}): give a .safetensors file, or one written by "
            "torch.save."
        ) from error
    if _is_state(content):
        return content
    entries = content.items() if isinstance(content, Mapping) else ()
    networks = {str(key): value for key, value in entries if _is_state(value)}
    averaged = {key: value for key, value in networks.items() if "ema" in key.lower()}
    candidates = averaged or networks
    if len(candidates) != 1:
        raise ModelError(
            f"{path} holds {'several networks: ' + ', '.join(candidates) if candidates else 'no network'}; "
            "save the one to explain with torch.save(model.state_dict(), ...)."
        )
    return candidates.popitem()[1]


def _is_state(content: object) -> TypeGuard[dict[str, Tensor]]:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def unprefixed(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Take from `state` what lies under the prefix that training tools put before the network's own names."""
    names = model.state_dict().keys()
    first = next(iter(names))
    prefixes = {"", *(key.removesuffix(first) for key in state if key.endswith(f".{first}"))}

    def rank(prefix: str) -> tuple[int, bool, str]:
        return sum(prefix + name in state for name in names), "ema" in prefix, prefix

    prefix = max(prefixes, key=rank)
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def check_fit(state: dict[str, Tensor], model: nn.Module, name: str, path: Path) -> None:
    """Raise ModelError, with what does not fit, unless `state` has every tensor of `model` in its shape."""
    own = model.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in own]
    reshaped = [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the network"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if not (missing or surplus or reshaped):
        return
    kinds = (("missing", missing), ("unknown to the network", surplus), ("of another shape", reshaped))
    found = "; ".join(
        f"{len(keys)} {kind} ({', '.join(keys[:2])}{', ...' if len(keys) > 2 else ''})" for kind, keys in kinds if keys
    )
    cause = "is of another architecture" if missing or surplus else "was trained at another size or width"
    raise ModelError(f"{path} does not fit {name}, with {len(own)} tensors: {found}. Probably it {cause}.")
