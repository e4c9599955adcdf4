"""Save trained weights with what is known of them, so that the two always belong together."""

import hashlib
import json
import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..classifiers import WEIGHTS
from ..files import replacing
from .data import Split
from .evaluation import evaluate
from .network import Cifar10Net, network_for
from .training import Recipe


def save(
    network: Cifar10Net,
    test: Split,
    recipe: Recipe,
    *,
    data: str,
    command: str,
    minutes: float,
    hardware: str,
    folder: Path = WEIGHTS,
) -> dict[str, Any]:
    """Save `network` in half precision, measure on `test` what was saved, and return its new row of the manifest.

    data, command, minutes and hardware say what it was trained and tested on, how, and for how long. The accuracy
    is measured on the CPU in single precision, with what is read back from the file, where anybody can repeat it.

    The file's name holds its hash, so new weights never overwrite old ones; the manifest, which is replaced last and
    as a whole, decides which are in use; those that were are removed, unless they taught. Whenever this is interrupted,
    it names whole weights that are there. Raises OSError.
    """
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = safetensors.torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()})
    sha256 = hashlib.sha256(content).hexdigest()
    path = folder / f"cifar10-{sha256[:8]}.safetensors"
    with replacing(path) as temporary:
        temporary.write_bytes(content)

    saved = network_for(state).eval()
    saved.load_state_dict(safetensors.torch.load_file(path))
    measured = evaluate(saved, test)
    before = manifest(folder)
    row = {
        "file": path.name,
        "sha256": sha256,
        "accuracy": measured.accuracy,
        "accuracy_flips": measured.accuracy_flips,
        "pictures": len(measured.labels),
        "data": data,
        "command": command,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "minutes": round(minutes, 1),
        "date": date.today().isoformat(),
        "hardware": hardware,
        "versions": versions(),
    }
    with replacing(folder / "manifest.json") as temporary:
        temporary.write_text(json.dumps(before | {"cifar10": row}, indent=2) + "\n", "utf-8")
    replaced = folder / before.get("cifar10", row)["file"]
    if replaced.resolve() not in [kept.resolve() for kept in (path, *map(Path, recipe.teachers))]:
        replaced.unlink(missing_ok=True)
    return row


def manifest(folder: Path = WEIGHTS) -> dict[str, Any]:
    """What is known of the weights in `folder`, by name; empty when there are none."""
    path = folder / "manifest.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def versions() -> dict[str, str]:
    """The versions of what decides the bits of a result."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "torchvision")}


def hardware(device: torch.device) -> str:
    """What `device` is, in words: the GPU's name, or the processor's and how many cores there are of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = next(filter(None, [*models, platform.processor(), platform.machine()]))
    return f"{model}, {os.cpu_count()} cores"
