"""CIFAR-10 as arrays: from a folder of pictures, or from torchvision's download."""

from http.client import HTTPException
from pathlib import Path
from tarfile import TarError

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10

from ..errors import InputError, reason
from ..images import PictureError, read
from .network import CLASSES

Split = tuple[Tensor, Tensor]  # (N, 3, 32, 32) uint8 pictures, (N,) int64 classes
DOWNLOADS = Path.home() / ".cache" / "gradcam" / "cifar10"


class DataError(InputError):
    """The data set is missing, incomplete or not CIFAR-10; the message says what to do."""


def read_split(split: str, folder: Path | None = None, every: int = 1, download: bool = True) -> Split:
    """Read `split` ("train" or "test") from `folder`, or from torchvision's download when it is None.

    A folder holds `<split>/<class>/*` pictures of 32x32 pixels, one sub-folder for each of CLASSES.
    every: only one picture in so many. download: fetch torchvision's, if it is not there already.
    Raises DataError.
    """
    return _read_torchvision(split, every, download) if folder is None else _read_folder(Path(folder) / split, every)


def picture_paths(split_folder: Path) -> list[tuple[Path, int]]:
    """The (path, class index) of every picture below `split_folder`, in a fixed order. Raises DataError."""
    missing = [name for name in CLASSES if not (split_folder / name).is_dir()]
    if len(missing) == len(CLASSES):
        raise DataError(
            f"{split_folder} is not a CIFAR-10 folder: expected one sub-folder for each class "
            f"({', '.join(CLASSES)}). Give --data the folder that holds train/ and test/."
        )
    if missing:
        raise DataError(
            f"{split_folder} has no sub-folder {', '.join(missing)}: every class needs one, with its pictures."
        )
    pairs = []
    for index, name in enumerate(CLASSES):
        files = sorted(path for path in (split_folder / name).iterdir() if not path.name.startswith("."))
        if not files:
            raise DataError(f"{split_folder / name} is empty; every class needs at least one picture.")
        pairs += [(path, index) for path in files]
    return pairs


def _read_folder(split_folder: Path, every: int) -> Split:
    pairs = picture_paths(split_folder)[::every]
    pictures = np.empty((len(pairs), 32, 32, 3), np.uint8)
    for i, (path, _) in enumerate(pairs):
        try:
            picture = read(path)
        except PictureError as error:
            raise DataError(f"{path} cannot be read as a picture; copy it again or remove it.") from error
        if picture.size != (32, 32):
            width, height = picture.size
            raise DataError(
                f"{path} is {width}x{height} pixels; CIFAR-10 pictures are 32x32. Scale it down or remove it."
            )
        pictures[i] = np.asarray(picture)
    return _as_split(pictures, [index for _, index in pairs])


def _read_torchvision(split: str, every: int, download: bool) -> Split:
    try:
        data = CIFAR10(str(DOWNLOADS), train=split == "train", download=download)
    except (OSError, RuntimeError, EOFError, HTTPException, TarError) as error:
        if not download:
            raise DataError(f"CIFAR-10 is not in {DOWNLOADS}, or damaged.") from None
        raise DataError(
            f"CIFAR-10 could not be downloaded to {DOWNLOADS} ({reason(error)}). Check the network and try again "
            "(a broken download is replaced), or give --data a folder with train/ and test/ pictures."
        ) from error
    return _as_split(data.data[::every], data.targets[::every])


def _as_split(pictures: np.ndarray, labels: list[int]) -> Split:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)
