"""The names of classes: given by the caller, or known to timm; always different from each other."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from timm.data.dataset_info import CustomDatasetInfo
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import nn

from .errors import ModelError, reason


def read_labels(path: Path) -> list[str]:
    """The names in a file, one a line or as .json. Raises ModelError."""
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() != ".json":
            return [line.strip() for line in text.splitlines() if line.strip()]
        return in_order(json.loads(text))
    except OSError as error:
        raise ModelError(f"The labels {path} cannot be opened ({error.strerror}).") from error
    except ValueError as error:
        raise ModelError(f"{path} does not hold labels, one a line in UTF-8 or as .json ({reason(error)}).") from error


def in_order(labels: object) -> list[str]:
    """The names of a list, of {index: name} or of {name: index}, by index. Raises ModelError."""
    try:
        if isinstance(labels, Mapping):
            if all(isinstance(value, int) for value in labels.values()):
                labels = {index: name for name, index in labels.items()}
            by_index = {int(index): name for index, name in labels.items()}
            labels = [by_index[index] for index in range(len(labels))]
        if isinstance(labels, Sequence) and not isinstance(labels, str) and all(isinstance(n, str) for n in labels):
            return [name.strip() for name in labels]
    except (KeyError, TypeError, ValueError):
        pass
    raise ModelError("Labels are a list of names, {index: name} or {name: index}, with indices from 0 without gaps.")


def known_labels(model: nn.Module, count: int) -> tuple[str, ...]:
    """The names that timm's configuration of the model stands for, where it was made for as many classes."""
    config = getattr(model, "pretrained_cfg", {})
    if config.get("num_classes") == count:
        if config.get("label_names"):
            info = CustomDatasetInfo(config["label_names"], config.get("label_descriptions"))
            return distinct(
                [[info.index_to_description(i) if info.has_label(i) else f"class {i}"] for i in range(count)]
            )
        if subset := infer_imagenet_subset(config):
            return imagenet_labels(subset)
    return tuple(f"class {i}" for i in range(count))


@lru_cache
def imagenet_labels(subset: str) -> tuple[str, ...]:
    """The first synonym; classes that share it get another synonym or the start of their definition in brackets."""
    info = ImageNetInfo(subset)
    candidates = []
    for i in range(info.num_classes()):
        description = info.index_to_description(i)
        name, *synonyms = description.split(", ")
        definition = info.index_to_description(i, detailed=True).removeprefix(f"{description}: ")
        definition = re.sub(r"^\([^)]*\) |^(an?|the) ", "", definition)
        phrase = re.split(r"[;:,(]| (?:of|for|that|which|with|having|used|in|on|from) ", definition)[0].strip()
        candidates.append([name, *(f"{name} ({qualifier})" for qualifier in (*synonyms, phrase) if qualifier)])
    return distinct(candidates)


def distinct(candidates: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Give each class the first of its candidates that sets it apart, at last "name (index)"; case is no difference."""
    ladders = [[*names, f"{names[0]} ({i})"] for i, names in enumerate(candidates)]
    steps = [0] * len(ladders)
    while True:
        labels = [ladder[step] for ladder, step in zip(ladders, steps, strict=True)]
        uses = Counter(label.casefold() for label in labels)
        climbing = [
            i for i, label in enumerate(labels) if uses[label.casefold()] > 1 and steps[i] + 1 < len(ladders[i])
        ]
        if not climbing:
            return tuple(labels)
        for i in climbing:
            steps[i] += 1
