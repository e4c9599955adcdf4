"""Saving: what is saved is what was measured, and whatever goes wrong the weights before are still in use."""

import errno
import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from gradcam import classifiers, load
from gradcam.cifar10.data import Split
from gradcam.cifar10.evaluation import evaluate
from gradcam.cifar10.network import Cifar10Net
from gradcam.cifar10.training import Recipe
from gradcam.cifar10.weights import hardware, manifest, save

TOLD = {"data": "noise", "command": "python -m pytest", "minutes": 1.26, "hardware": "an abacus"}


def network(seed: int) -> Cifar10Net:
    torch.manual_seed(seed)
    return Cifar10Net().eval()


@pytest.fixture(scope="module")
def test() -> Split:
    """Sixteen pictures with labels of which the network of seed 1 gets twelve right."""
    pictures = torch.randint(0, 256, (16, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    answers = evaluate(network(1), (pictures, torch.zeros(16).long())).logits.argmax(1)
    return pictures, torch.where(torch.arange(16) % 4 == 0, (answers + 1) % 10, answers)


@pytest.fixture
def folder(tmp_path: Path, test: Split, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights in use, those of seed 1."""
    save(network(1), test, Recipe(), folder=tmp_path, **TOLD)
    monkeypatch.setattr(classifiers, "WEIGHTS", tmp_path)
    return tmp_path


def loaded_seed() -> int | None:
    """Which network `load` gives."""
    head = load("cifar10", device="cpu").model.head.weight
    return next((seed for seed in (1, 2) if torch.equal(head, network(seed).head.weight.half().float())), None)


def test_what_is_saved_is_half_precision_and_small(folder: Path) -> None:
    [path] = folder.glob("*.safetensors")
    assert path.stat().st_size <= 12_000_000
    expected = network(1).state_dict()
    saved = safetensors.torch.load_file(path)
    assert saved.keys() == expected.keys()
    for name, tensor in expected.items():
        assert saved[name].dtype == (torch.float16 if tensor.is_floating_point() else tensor.dtype)
        assert torch.equal(saved[name], tensor.to(saved[name].dtype))


def test_the_manifest_says_what_was_saved_and_how_it_was_made(folder: Path) -> None:
    row = json.loads((folder / "manifest.json").read_text())["cifar10"]
    [path] = folder.glob("*.safetensors")
    assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert row["file"] == path.name == f"cifar10-{row['sha256'][:8]}.safetensors"
    assert {name: row[name] for name in TOLD} == TOLD | {"minutes": 1.3}
    assert (row["seed"], row["epochs"], row["pictures"]) == (Recipe.seed, Recipe.epochs, 16)
    assert row["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert len(row["date"]) == 10


def test_evaluating_what_is_loaded_gives_the_manifests_accuracy_to_the_digit(folder: Path, test: Split) -> None:
    row = manifest(folder)["cifar10"]
    again = evaluate(load("cifar10", device="cpu").model, test)
    assert (again.accuracy, again.accuracy_flips) == (row["accuracy"], row["accuracy_flips"])
    assert row["accuracy"] == pytest.approx(0.75, abs=0.1)


def test_the_accuracy_is_that_of_the_rounded_weights(folder: Path, test: Split) -> None:
    """A head of weights too small for half precision gives every class the same score, once it is saved."""
    tiny = network(1)
    with torch.no_grad():
        tiny.head.weight *= 1e-9
        tiny.head.bias.zero_()
    answers = evaluate(tiny, test).logits.argmax(1)
    row = save(tiny, (test[0], answers), Recipe(), folder=folder, **TOLD)
    assert row["accuracy"] == (answers == 0).double().mean().item() < 1


def test_new_weights_replace_the_old_ones(folder: Path, test: Split) -> None:
    assert loaded_seed() == 1
    (folder / "manifest.json").write_text(json.dumps(manifest(folder) | {"another": {"file": "its.safetensors"}}))
    save(network(2), test, Recipe(), folder=folder, **TOLD)
    assert loaded_seed() == 2
    assert manifest(folder)["another"] == {"file": "its.safetensors"}
    assert len(list(folder.iterdir())) == 2


def test_a_network_of_another_width_is_saved_and_loaded(folder: Path, test: Split) -> None:
    narrow = Cifar10Net((8, 16, 24)).eval()
    row = save(narrow, test, Recipe(), folder=folder, **TOLD)
    loaded = load("cifar10", device="cpu").model
    assert loaded.state_dict().keys() == narrow.state_dict().keys()
    for name, tensor in narrow.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.half().to(tensor.dtype))
    assert evaluate(loaded, test).accuracy == row["accuracy"]


def test_teachers_and_files_that_were_never_in_use_stay(
    folder: Path, test: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    teacher = manifest(folder)["cifar10"]["file"]
    Path("cifar10-another.safetensors").touch()
    save(network(2), test, Recipe(teachers=(teacher,)), folder=folder, **TOLD)
    assert loaded_seed() == 2
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "cifar10-another.safetensors", teacher, manifest(folder)["cifar10"]["file"]
    }  # fmt: skip


def test_the_same_weights_can_be_saved_again(folder: Path, test: Split) -> None:
    save(network(1), test, Recipe(), folder=folder, **TOLD)
    assert loaded_seed() == 1
    assert len(list(folder.iterdir())) == 2


def full_disk(path: Path, *_: object, **__: object) -> None:
    path.touch()
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "failure", "error"),
    [
        ("pathlib.Path.write_bytes", full_disk, OSError),  # the weights cannot be written
        ("gradcam.cifar10.weights.evaluate", interrupted, KeyboardInterrupt),  # between weights and manifest
        ("pathlib.Path.write_text", full_disk, OSError),  # the manifest cannot be written
        ("gradcam.cifar10.weights.versions", interrupted, KeyboardInterrupt),
        ("os.replace", full_disk, OSError),
    ],
)
def test_whatever_fails_the_weights_before_stay_in_use(
    folder: Path, test: Split, place: str, failure: object, error: type[BaseException]
) -> None:
    before = (folder / "manifest.json").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, failure)
        with pytest.raises(error) as caught:
            save(network(2), test, Recipe(), folder=folder, **TOLD)
    if error is OSError:
        assert str(caught.value).endswith(
            " could not be written (No space left on device); what was there before is unchanged."
        )
    assert (folder / "manifest.json").read_bytes() == before
    assert loaded_seed() == 1
    assert not list(folder.glob(".*"))

    save(network(2), test, Recipe(), folder=folder, **TOLD)  # and nothing that was left behind is in the way
    assert loaded_seed() == 2
    assert len(list(folder.iterdir())) == 2


def test_a_folder_without_weights_has_an_empty_manifest(tmp_path: Path) -> None:
    assert manifest(tmp_path) == {}


def test_hardware_is_named() -> None:
    name, cores = hardware(torch.device("cpu")).rsplit(", ", 1)
    assert name
    assert cores.endswith(" cores")
