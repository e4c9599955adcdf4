"""From a picture to what the network is fed, together with the box of the picture that it shows."""

import pickle
import random
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor

from .errors import ModelError, reason
from .images import Framing, framing_of

Preprocess = Callable[[Image.Image], tuple[Tensor, Framing]]


def timm_preprocess(config: Mapping[str, Any]) -> Preprocess:
    """Timm's evaluation transform for a data configuration, with the framing that goes with it."""
    transform = create_transform(**config, is_training=False)

    def preprocess(picture: Image.Image) -> tuple[Tensor, Framing]:
        framing = framing_of(picture.size, config["input_size"], config["crop_pct"], config["crop_mode"])
        return transform(picture), framing

    return preprocess


def framed(transform: Callable[[Image.Image], Any]) -> tuple[Preprocess, tuple[int, int, int]]:
    """The caller's preprocessing, with a framing measured where it gives none, and the shape of what it makes."""

    def made(picture: Image.Image) -> tuple[Tensor, Framing | None]:
        try:
            result = transform(picture)
        except Exception as error:  # whatever the caller's code raises
            width, height = picture.size
            raise ModelError(f"preprocess fails on an RGB picture of {width} x {height} ({reason(error)}).") from error
        tensor, framing = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
        if not isinstance(tensor, Tensor) or tensor.ndim != 3 or not isinstance(framing, Framing | None):
            shown = tuple(result.shape) if hasattr(result, "shape") else type(result).__name__
            raise ModelError(
                f"preprocess must make one (C, H, W) tensor of a picture, or (tensor, Framing); it made {shown}."
            )
        return tensor.to("cpu", torch.float32), framing

    @lru_cache(maxsize=64)
    def measured(size: tuple[int, int]) -> Framing:
        return _measure(lambda picture: made(picture)[0], size)

    def preprocess(picture: Image.Image) -> tuple[Tensor, Framing]:
        tensor, framing = made(picture)
        return tensor, framing or measured(picture.size)

    slope = Image.linear_gradient("L")
    picture = Image.merge("RGB", (slope, slope.rotate(90), slope.rotate(180)))  # 256x256, no two parts alike
    before = _random_states()
    tensor, _ = made(picture)
    # Some draw numbers without an effect, and some draw from a generator of their own.
    tries = 7 if _random_states() == before else 63
    if not all(torch.equal(tensor, made(picture)[0]) for _ in range(tries)):
        raise ModelError(
            "preprocess makes another tensor of the same picture every time: take out what is random, or give the "
            "transform for evaluation."
        )
    channels, height, width = tensor.shape
    return preprocess, (channels, height, width)


def _random_states() -> bytes:
    """Where the generators stand that transforms draw from: Python's, NumPy's and torch's."""
    return pickle.dumps((random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state().numpy()))


def _measure(transform: Callable[[Image.Image], Tensor], size: tuple[int, int]) -> Framing:
    """Find the box of a picture that `transform` shows, from what becomes of two ramps, by a straight-line fit.

    Each is shown at half its contrast too, where a transform that depends on what is in the picture gives itself away.
    """

    def shown(picture: Image.Image) -> Tensor:
        return transform(picture).double()

    black, white = shown(Image.new("RGB", size, "black")), shown(Image.new("RGB", size, "white"))
    contrast = white - black  # next to none in what the transform pads, and in the pixels at the edge of that
    contrast[contrast.abs() < 0.5 * contrast.abs().amax()] = np.nan

    def shades(grey: NDArray[np.uint8]) -> Tensor:
        """What is shown of a grey picture, with black as 0 and white as 1."""
        return (shown(Image.fromarray(grey).convert("RGB")) - black) / contrast

    def ends(axis: int) -> tuple[float, float]:
        """First and last edge of the box along `axis` of the picture, 0 for x and 1 for y."""
        length = size[axis]
        step = 255 / (length - 1) if length > 256 else 255 // max(length - 1, 1)  # whole steps where they fit
        ramp = np.rint(step * np.arange(length)).astype(np.uint8)
        grey = np.broadcast_to(ramp if axis == 0 else ramp[:, None], size[::-1])
        places, again = (
            (shade * (255 / step) + 0.5).movedim(2 - axis, -1).flatten(0, 1).numpy()
            for shade in (shades(grey), 2 * shades(grey // 2))
        )
        seen = ~np.isnan(places).all(0)
        mean = np.full(len(seen), np.nan)
        mean[seen] = np.nanmean(places[:, seen], 0)
        inner = np.flatnonzero((mean > 1.5) & (mean < length - 1.5))  # beyond, an enlarged ramp is flat
        if len(inner) < 2:
            raise ModelError("nothing to measure")
        slope, start = np.polyfit(inner + 0.5, mean[inner], 1)
        end = start + slope * len(seen)
        errors = places[:, inner] - (start + slope * (inner + 0.5)), places[:, inner] - again[:, inner]
        if end - start < 1 or np.nanmax(np.abs(errors)) > 0.02 * length:
            raise ModelError("not a crop")
        at_edge = 0.005 * length  # the measurement is no better; a whole picture must not look cropped
        return (
            0.0 if abs(start) < at_edge else float(start),
            float(length if abs(end - length) < at_edge else end),
        )

    try:
        (left, right), (top, bottom) = ends(0), ends(1)
    except ModelError as error:
        width, height = size
        raise ModelError(
            f"What preprocess shows of a {width} x {height} picture cannot be measured; "
            "let it return (tensor, Framing)."
        ) from error
    return Framing(size, (left, top, right, bottom))
