import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio
import numpy as np
import pytest
import timm
import torch
from packaging.requirements import Requirement
from PIL import Image
from typer.testing import CliRunner, Result

from gradcam import __main__ as main
from gradcam import classifiers, explain, load, render
from gradcam.cifar10 import figures, weights
from gradcam.cifar10.network import CLASSES
from gradcam.classifiers import BUNDLED, Classifier
from gradcam.images import Framing
from gradcam.methods import METHODS
from gradcam.targets import find_target

PHOTOS = Path(gradio.__file__).parent / "media_assets" / "images"
CHEETAH = PHOTOS / "cheetah1.jpg"
LABELS = ["cat", "dog", "either/or: ..\\this", "either-or-this"]


def run(*arguments: str | Path | int) -> Result:
    return CliRunner().invoke(main.app, [str(argument) for argument in arguments])


def lines(text: str) -> list[str]:
    return text.splitlines()


def manifest_of(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def noise_picture(path: Path, width: int = 200, height: int = 160, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pixels_of(picture: Path | Image.Image) -> np.ndarray:
    return np.asarray(picture if isinstance(picture, Image.Image) else Image.open(picture))


@pytest.fixture(scope="module")
def bundled() -> Classifier:
    return load("efficientnet_lite0")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags for a small network with four classes."""
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", num_classes=len(LABELS)).state_dict(), folder / "own.pth")
    (folder / "labels.txt").write_text("\n".join(LABELS))
    return ["--model", "test_resnet", "--checkpoint", str(folder / "own.pth"), "--labels", str(folder / "labels.txt")]


# explain


def test_a_photograph_is_explained(tmp_path: Path, bundled: Classifier) -> None:
    result = run("explain", CHEETAH, "--out", tmp_path)
    tensor, _ = bundled.preprocess(Image.open(CHEETAH).convert("RGB"))
    with torch.no_grad():
        probability = bundled.model(bundled.as_batch(tensor)).softmax(1)[0, 293].item()
    target = find_target(bundled.model, bundled.input_size)
    assert result.exit_code == 0
    assert result.stdout == f"{CHEETAH}: cheetah {probability:.1%} (layer {target.layer})\n"
    assert result.stderr == f"1 explained, 0 failed; see {tmp_path / 'manifest.json'}.\n"
    overlay = "cheetah1.jpg--293-cheetah.png"
    assert files_in(tmp_path) == {overlay, "manifest.json"}
    np.testing.assert_array_equal(
        pixels_of(tmp_path / overlay), pixels_of(explain(CHEETAH, bundled).overlay("cheetah"))
    )
    (record,) = manifest_of(tmp_path)
    assert record.pop("classes") == [
        {
            "class": "cheetah",
            "index": 293,
            "probability": pytest.approx(probability, abs=1e-6),
            "versus": None,
            "overlay": overlay,
        }
    ]
    assert record == {
        "file": str(CHEETAH),
        "name": "cheetah1.jpg",
        "modified": CHEETAH.stat().st_mtime,
        "model": "efficientnet_lite0",
        "checkpoint": None,
        "weights": BUNDLED["efficientnet_lite0"].weights()[1],
        "labels": None,
        "asked": "top1",
        "versus": None,
        "method": "gradcam",
        "layer": target.layer,
        "grid": list(target.grid),
        "strip": None,
    }


def test_classes_method_and_layer_are_those_asked_for(tmp_path: Path, bundled: Classifier) -> None:
    flags = ("--class", "LION", "--class", 293, "--method", "layercam", "--layer", "blocks.4", "--device", "cpu")
    result = run("explain", CHEETAH, "--out", tmp_path, *flags)
    expected = explain(CHEETAH, bundled, ["lion", "cheetah"], "layercam", "blocks.4")
    probabilities = [expected.inspection.prediction(index).probability for index in (291, 293)]
    assert result.stdout == "{}: lion {:.1%}, cheetah {:.1%} (layer blocks.4)\n".format(CHEETAH, *probabilities)
    names = ["cheetah1.jpg--291-lion.png", "cheetah1.jpg--293-cheetah.png"]
    for index, name in zip((291, 293), names, strict=True):
        np.testing.assert_array_equal(pixels_of(tmp_path / name), pixels_of(expected.overlay(index)))
    np.testing.assert_array_equal(pixels_of(tmp_path / "cheetah1.jpg--strip.png"), pixels_of(expected.strip()))
    (record,) = manifest_of(tmp_path)
    assert [row["class"] for row in record["classes"]] == ["lion", "cheetah"]
    assert [row["overlay"] for row in record["classes"]] == names
    assert record["strip"] == "cheetah1.jpg--strip.png"
    assert (record["asked"], record["method"], record["layer"]) == (["lion", "cheetah"], "layercam", "blocks.4")


def test_the_best_classes_are_explained_beside_each_other(tmp_path: Path, bundled: Classifier) -> None:
    run("explain", CHEETAH, "--out", tmp_path, "--top", 3)
    expected = explain(CHEETAH, bundled, "top3")
    (record,) = manifest_of(tmp_path)
    assert [row["index"] for row in record["classes"]] == [class_ for class_, _ in expected.asked]
    assert record["asked"] == "top3"
    np.testing.assert_array_equal(pixels_of(tmp_path / "cheetah1.jpg--strip.png"), pixels_of(expected.strip()))
    flags = ("--class", "lion", "--top", 3)
    run("explain", CHEETAH, "--out", tmp_path / "one", *flags)
    assert [row["class"] for row in manifest_of(tmp_path / "one")[0]["classes"]] == ["lion"]


def test_a_rival_gives_three_maps_on_one_scale(tmp_path: Path, bundled: Classifier) -> None:
    result = run("explain", CHEETAH, "--out", tmp_path, "--versus", "lion")
    questions = [293, 291, (293, 291)]
    expected = explain(CHEETAH, bundled, questions)
    assert ": cheetah " in result.stdout
    assert ", lion " in result.stdout
    names = [
        "cheetah1.jpg--293-cheetah.png",
        "cheetah1.jpg--291-lion.png",
        "cheetah1.jpg--293-cheetah--not-291-lion.png",
    ]
    assert files_in(tmp_path) == {*names, "cheetah1.jpg--strip.png", "manifest.json"}
    maps = {index: expected.map(index).max() for index in (293, 291)}
    framing = expected.inspection.framing
    for question, name in zip(questions, names, strict=True):
        overlay = render.overlay(
            expected.inspection.picture, expected.map(question), framing, full=float(max(maps.values()))
        )
        np.testing.assert_array_equal(pixels_of(tmp_path / name), pixels_of(overlay))
    (record,) = manifest_of(tmp_path)
    assert [(row["class"], row["versus"]) for row in record["classes"]] == [
        ("cheetah", None),
        ("lion", None),
        ("cheetah", "lion"),
    ]
    assert record["classes"][2]["probability"] == record["classes"][0]["probability"]


def test_a_class_is_not_its_own_rival(tmp_path: Path) -> None:
    assert run("explain", PHOTOS / "lion.jpg", "--out", tmp_path, "--versus", "lion").exit_code == 0
    assert files_in(tmp_path) == {"lion.jpg--291-lion.png", "manifest.json"}


def test_small_pictures_are_enlarged_and_large_ones_keep_their_size(tmp_path: Path, own: list[str]) -> None:
    sizes = {"small.png": (32, 24), "large.png": (640, 300)}
    pictures = [noise_picture(tmp_path / name, *size) for name, size in sizes.items()]
    assert run("explain", *pictures, "--out", tmp_path / "out", *own, "--class", "dog").exit_code == 0
    assert pixels_of(tmp_path / "out" / "small.png--1-dog.png").shape == (192, 256, 3)
    assert pixels_of(tmp_path / "out" / "large.png--1-dog.png").shape == (300, 640, 3)


def test_a_folder_goes_on_after_bad_pictures(tmp_path: Path, own: list[str]) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    good = [noise_picture(folder / name, seed=i) for i, name in enumerate(("a.jpg", "a.png", "sub/a.jpg"))]
    (folder / "b.jpg").write_text("no picture")
    (folder / "c.png").touch()
    (folder / "notes.txt").touch()
    result = run("explain", folder, "--out", out, *own, "--class", "cat")
    assert result.exit_code == 1
    assert [line.partition(": cat ")[0] for line in lines(result.stdout)] == [str(path) for path in good]
    first, second, last = lines(result.stderr)
    assert first.startswith(f"{folder / 'b.jpg'}: The file 'b.jpg' is not a picture of a known format")
    assert second == f"{folder / 'c.png'}: The file 'c.png' is empty: save or upload it again."
    assert last == f"3 explained, 2 failed; see {out / 'manifest.json'}."
    overlays = ["a.jpg--0-cat.png", "a.png--0-cat.png", "sub/a.jpg--0-cat.png"]
    assert files_in(out) == {*overlays, "manifest.json"}
    records = manifest_of(out)
    assert [Path(record["file"]).relative_to(folder).as_posix() for record in records] == [
        *("a.jpg", "a.png", "b.jpg", "c.png", "sub/a.jpg")
    ]
    assert [record["error"] for record in records if "error" in record] == [
        first.partition(": ")[2],
        second.partition(": ")[2],
    ]
    assert [record["classes"][0]["overlay"] for record in records if "classes" in record] == overlays
    assert [record["classes"][0]["probability"] for record in records if "classes" in record] == pytest.approx(
        [explain(path, classifier_of(own)).inspection.probabilities[0] for path in good], abs=1e-6
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_folder_goes_on_after_a_map_that_is_not_finite(
    method: str, tmp_path: Path, own: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = classifier_of(own)

    def spoilt(picture: Image.Image) -> tuple[torch.Tensor, Framing]:
        tensor, framing = preprocess(picture)
        return (tensor * float("nan"), framing) if picture.size == (50, 50) else (tensor, framing)

    preprocess, classifier.preprocess = classifier.preprocess, spoilt
    monkeypatch.setattr(main, "load", lambda *_: classifier)
    pictures = [noise_picture(tmp_path / name, 50, height) for name, height in (("a.png", 50), ("b.png", 60))]
    result = run("explain", *pictures, "--out", tmp_path / "out", "--top", 2, "--method", method)
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{pictures[1]}: ")
    sentence = "The map holds NaN or infinite values, which cannot be shown; check the network's weights and its input."
    assert lines(result.stderr)[0] == f"{pictures[0]}: {sentence}"
    assert lines(result.stderr)[1].startswith("1 explained, 1 failed;")
    assert not [file for file in files_in(tmp_path / "out") if file.startswith("a.png")]


def classifier_of(own: list[str]) -> Classifier:
    return load(own[1], checkpoint=own[3], labels=own[5])


def test_pictures_of_other_kinds_are_counted(tmp_path: Path, own: list[str]) -> None:
    folder, out = tmp_path / "photos", tmp_path / "photos" / "out"
    picture = noise_picture(folder / "a.png")
    for name in ("b.HEIC", "sub/c.heic", "d.avif", "notes.txt", ".hidden.heic", "out/e.heic"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    result = run("explain", folder, folder / "sub" / "c.heic", "--out", out, *own)
    assert result.exit_code == 1  # the one that was named is tried
    assert lines(result.stderr)[-2:] == [
        f"1 explained, 1 failed; see {out / 'manifest.json'}.",
        "Left aside: 3 of other kinds (.avif, .heic); save them as JPEG or PNG.",
    ]
    assert "Left aside" not in run("explain", picture, "--out", tmp_path / "other", *own).stderr


def test_pictures_of_one_name_and_labels_of_any_text_stay_apart(tmp_path: Path, own: list[str]) -> None:
    pictures = [noise_picture(tmp_path / folder / "a.png", seed=i) for i, folder in enumerate("xy")]
    flags = [flag for index in (2, 3) for flag in ("--class", str(index))]
    assert run("explain", *pictures, "--out", tmp_path / "out", *own, *flags).exit_code == 0
    files = {
        f"{name}--{end}.png"
        for name in ("a.png", "a.png.2")
        for end in ("2-either-or-..-this", "3-either-or-this", "strip")
    }
    assert files_in(tmp_path / "out") == {*files, "manifest.json"}
    assert files_in(tmp_path) == {f"out/{file}" for file in (*files, "manifest.json")} | {"x/a.png", "y/a.png"}


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_picture_whose_name_is_no_text_is_explained(tmp_path: Path, own: list[str]) -> None:
    picture = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.png"))
    noise_picture(picture)
    result = run("explain", picture, "--out", tmp_path / "out", *own, "--class", "cat")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{tmp_path}/\ufffd.png: cat ")
    assert manifest_of(tmp_path / "out")[0]["file"] == str(picture)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--class", "kat"], "test_resnet has no class 'kat'; did you mean cat? (a label or an index from 0 to 3)."),
        (["--class", "top3"], "--class takes one class; for the best 3 give --top 3 instead."),
        (["--versus", "4"], "test_resnet has no class 4: its 4 classes are 0 to 3."),
        (["--method", "magic"], "there is no method 'magic'; choose one of gradcam, gradcam++"),
        (["--layer", "layer5"], "the network has no layer 'layer5'; did you mean layer4"),
        (["--model", "test_resnets"], "There is no model 'test_resnets'; did you mean test_resnet"),
        (["--checkpoint", "nowhere.pth"], "There is no checkpoint nowhere.pth."),
        (["--labels", "nowhere.txt"], "The labels nowhere.txt cannot be opened (No such file or directory)."),
        (["--device", "abacus"], "There is no device 'abacus' here: use cpu"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_sentence(
    flags: list[str], sentence: str, tmp_path: Path, own: list[str]
) -> None:
    result = run("explain", CHEETAH, "--out", tmp_path / "out", *own, *flags)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(lines(result.stderr)) == 1
    assert result.stderr.startswith(f"Error: {sentence}")
    assert not (tmp_path / "out").exists()


def test_a_picture_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    result = run("explain", CHEETAH, tmp_path / "nowhere.jpg", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"path '{tmp_path / 'nowhere.jpg'}' does not exist" in result.stderr


def test_a_folder_that_cannot_be_written_ends_the_run(tmp_path: Path, own: list[str]) -> None:
    (tmp_path / "file").touch()
    result = run("explain", CHEETAH, "--out", tmp_path / "file" / "out", *own)
    assert result.exit_code == 2
    assert len(lines(result.stderr)) == 1
    assert "could not be written (Not a directory)" in result.stderr


# explain, again


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(4):
        noise_picture(tmp_path / "photos" / f"{i}.png", seed=i)
    return tmp_path / "photos"


def interrupt_at(call: int, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the `call`-th call of a function in __main__ be interrupted by Ctrl-C, as often as this is done."""
    function, calls = getattr(main, name), iter(range(1, 1000))

    def interrupted(*arguments: Any) -> Any:
        if next(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return function(*arguments)

    monkeypatch.setattr(main, name, interrupted)


def test_an_interrupted_run_goes_on_where_it_was(
    photos: Path, tmp_path: Path, own: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run("explain", photos, "--out", tmp_path / "whole", *own).exit_code == 0
    with monkeypatch.context() as context:
        interrupt_at(3, context, "write_overlays")
        result = run("explain", photos, "--out", out, *own)
    assert result.exit_code == 130
    assert result.stderr == "Stopped after 2 of 4 pictures; the same command goes on from there.\n"
    assert not (out / "manifest.json").exists()
    with (out / "manifest.jsonl").open("a") as journal:
        journal.write('\n{"file": "photos/2.png", "na')  # as when the power fails

    result = run("explain", photos, "--out", out, *own)
    assert result.exit_code == 0
    assert [line.partition(": ")[0] for line in lines(result.stdout)] == [str(photos / "2.png"), str(photos / "3.png")]
    assert result.stderr == f"2 explained, 2 before, 0 failed; see {out / 'manifest.json'}.\n"
    assert manifest_of(out) == manifest_of(tmp_path / "whole")
    assert files_in(out) == files_in(tmp_path / "whole")


def test_only_what_is_new_changed_or_failed_is_done_again(photos: Path, tmp_path: Path, own: list[str]) -> None:
    out = tmp_path / "out"
    (photos / "1.png").write_text("no picture")
    assert run("explain", photos, "--out", out, *own).exit_code == 1
    before = (out / "manifest.json").read_text()
    result = run("explain", photos, "--out", out, *own)
    assert (result.exit_code, result.stdout) == (1, "")
    assert (out / "manifest.json").read_text() == before

    noise_picture(photos / "1.png", seed=1)
    os.utime(photos / "2.png", (1, 1))
    noise_picture(photos / "0-new.png", seed=4)
    result = run("explain", photos, "--out", out, *own)
    assert result.exit_code == 0
    assert [Path(line.partition(": ")[0]).name for line in lines(result.stdout)] == ["0-new.png", "1.png", "2.png"]
    assert [Path(record["file"]).name for record in manifest_of(out)] == [
        *("0-new.png", "0.png", "1.png", "2.png", "3.png")
    ]
    assert all("error" not in record for record in manifest_of(out))
    assert manifest_of(out)[3]["modified"] == 1


def test_one_folder_holds_results_of_one_kind(photos: Path, tmp_path: Path, own: list[str]) -> None:
    out = tmp_path / "out"
    assert run("explain", photos, "--out", out, *own, "--class", "cat").exit_code == 0
    before = {file: (out / file).read_bytes() for file in files_in(out)}
    result = run("explain", photos, "--out", out, *own, "--class", "dog")
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: {out} holds a run with other settings (asked ['cat'], now ['dog']); give another folder.\n"
    )
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(["cat", "hound", "c", "d"]))
    result = run("explain", photos, "--out", out, *own[:4], "--labels", labels, "--class", "cat")
    assert result.exit_code == 2
    assert "other settings (labels {'file': " in result.stderr
    assert {file: (out / file).read_bytes() for file in files_in(out)} == before


def test_a_run_is_not_continued_with_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("explain", CHEETAH, "--out", tmp_path).exit_code == 0
    path, _ = BUNDLED["efficientnet_lite0"].weights()
    other = replace(BUNDLED["efficientnet_lite0"], weights=lambda: (path, "of another file"))
    monkeypatch.setitem(BUNDLED, "efficientnet_lite0", other)
    monkeypatch.setattr(main, "load", lambda *_: Classifier(other.network({}).eval()))
    result = run("explain", CHEETAH, "--out", tmp_path)
    assert result.exit_code == 2
    assert "other settings (weights '" in result.stderr


@pytest.mark.parametrize("content", ["[]]", '{"a": 1}', "[1]", '[{"file": "a"}]'])
def test_the_manifest_of_something_else_is_left_alone(content: str, tmp_path: Path, own: list[str]) -> None:
    (tmp_path / "manifest.json").write_text(content)
    result = run("explain", CHEETAH, "--out", tmp_path, *own)
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: {tmp_path / 'manifest.json'} is the manifest of something else; give another folder.\n"
    )
    assert (tmp_path / "manifest.json").read_text() == content


# models and layers


def test_models_lists_the_bundled_ones_first_and_marks_them() -> None:
    names = lines(run("models").stdout)
    assert names[:2] == ["efficientnet_lite0  (bundled)", "cifar10  (bundled)"]
    assert "resnet18.a1_in1k" in names
    assert not any("bundled" in name for name in names[2:])
    assert lines(run("models", "*lite0").stdout) == ["efficientnet_lite0  (bundled)"]
    result = run("models", "perceptron")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: There is no model with 'perceptron' in its name.\n"


def test_a_reader_that_has_enough_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(filter: str) -> list[str]:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")  # as in `models | head`

    monkeypatch.setattr(main, "available_models", closed)
    result = run("models")
    assert (result.exit_code, result.output) == (1, "")


def test_layers_of_any_architecture_are_listed_without_its_weights() -> None:
    result = run("layers", "resnet18")
    assert result.exit_code == 0
    assert result.stdout == (
        "resnet18 at 224x224 pixels, random weights (layers hardly depend on them)\n"
        "  layer   layout     grid  channels\n"
        "  act1    NCHW    112x112        64\n"
        "  layer1  NCHW      56x56        64\n"
        "  layer2  NCHW      28x28       128\n"
        "  layer3  NCHW      14x14       256\n"
        "* layer4  NCHW        7x7       512\n"
        "* chosen; explain --layer takes any other module's name too\n"
    )


def test_layers_uses_the_weights_that_are_at_hand(own: list[str]) -> None:
    assert "pixels, bundled weights\n" in run("layers", "efficientnet_lite0").stdout
    assert f"pixels, weights {own[3]}\n" in run("layers", *own[1:4]).stdout


@pytest.mark.parametrize("name", ["resnet", "resnet18.nosuch"])
def test_layers_of_no_model_are_told(name: str) -> None:
    result = run("layers", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: There is no model {name!r}; did you mean ")


# CIFAR-10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in the layout of CIFAR-10: 40 to train on, 20 to test."""
    folder = tmp_path_factory.mktemp("cifar10")
    for split, count in (("train", 4), ("test", 2)):
        for index, name in enumerate(CLASSES):
            for i in range(count):
                noise_picture(folder / split / name / f"{i}.png", 32, 32, seed=10 * index + i)
    return folder


@pytest.fixture
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    monkeypatch.setattr(classifiers, "WEIGHTS", folder)
    monkeypatch.setattr(weights.manifest, "__defaults__", (folder,))
    return folder


TRAIN = ("--epochs", 2, "--batch-size", 10, "--seed", 3, "--device", "cpu")


def test_cifar10_is_trained_saved_and_evaluated(
    data: Path, weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["__main__.py", "train-cifar10", "--data", "my pictures"])
    result = run("train-cifar10", "--data", data, "--run", tmp_path / "run", "--out", weights_folder, *TRAIN)
    assert result.exit_code == 0
    first, second = lines(result.stderr)
    assert first.startswith("epoch 1 of 2: loss ")
    assert second.startswith("epoch 2 of 2: loss ")
    assert second.endswith(", 0:00:00 left")
    row = json.loads((weights_folder / "manifest.json").read_text())["cifar10"]
    assert (row["epochs"], row["seed"], row["pictures"]) == (2, 3, 20)
    assert row["command"] == "python -m gradcam train-cifar10 --data 'my pictures'"
    assert row["data"] == f"a folder of pictures: {data}"
    assert (weights_folder / row["file"]).exists()
    assert result.stdout.startswith(
        f"Accuracy {row['accuracy']:.2%} ({row['accuracy_flips']:.2%} with test-time flips) on 20 test pictures; "
        f"saved as {weights_folder / row['file']}."
    )

    result = run("evaluate-cifar10", "--data", data)
    assert result.exit_code == 0
    assert lines(result.stdout)[0].split()[:2] == ["Accuracy", f"{row['accuracy']:.2%}"]
    assert lines(result.stdout)[-1] == (
        f"weights/manifest.json says {row['accuracy']:.2%} of 20 pictures (a folder of pictures: {data})."
    )


def test_interrupted_training_ends_as_if_it_had_not_been(
    data: Path, weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("train-cifar10", "--data", data, "--validation", 20, *TRAIN)
    whole = run(*flags, "--run", tmp_path / "whole")
    assert whole.exit_code == 0
    assert "(20 pictures)" in whole.stdout
    with monkeypatch.context() as context:
        interrupt_at(3, context, "_report_steps")
        result = run(*flags, "--run", tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    assert result.exit_code == 130
    assert result.stdout == ""
    assert lines(result.stderr)[-1] == (
        f"Training stopped after step 3 of 4; saved to {checkpoint}; the same command continues it."
    )
    result = run(*flags, "--run", tmp_path / "run")
    assert result.exit_code == 0
    assert lines(result.stderr)[0] == f"Continuing from {checkpoint}."
    assert result.stdout == whole.stdout
    assert not weights_folder.exists()
    result = run(*flags, "--run", tmp_path / "run", "--seed", 4)
    assert result.exit_code == 2
    assert "belongs to another run" in lines(result.stderr)[-1]


def test_pictures_held_back_are_no_longer_trained_on() -> None:
    pictures, labels = torch.arange(30).view(30, 1, 1, 1), torch.arange(30)
    (kept, kept_labels), (held, held_labels) = main._hold_back((pictures, labels), 10)
    assert (len(kept), len(held)) == (20, 10)
    assert sorted([*kept.flatten().tolist(), *held.flatten().tolist()]) == list(range(30))
    assert torch.equal(kept.flatten(), kept_labels)
    assert torch.equal(held.flatten(), held_labels)
    assert held_labels.tolist() != sorted(held_labels.tolist())
    with pytest.raises(ValueError, match="30 pictures cannot be held back of 30"):
        main._hold_back((pictures, labels), 30)


@pytest.mark.parametrize("command", ["train-cifar10", "evaluate-cifar10", "figures"])
def test_a_folder_that_is_not_cifar10_is_told(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "load", lambda *_, **__: SimpleNamespace(model=None))
    result = run(command, "--data", tmp_path)
    assert result.exit_code == 2
    assert "is not a CIFAR-10 folder" in result.stderr
    assert len(lines(result.stderr)) == 1


def test_figures_are_drawn_of_the_test_pictures(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def draw(classifier: object, split: Any, out: Path, command: str, report: Callable[..., None]) -> list[Path]:
        drawn.update(classifier=classifier, labels=split[1].tolist(), out=out, command=command)
        report(20, 20)
        return [out / "right.png"]

    monkeypatch.setattr(figures, "draw", draw)
    monkeypatch.setattr(main, "load", lambda name: name)
    monkeypatch.setattr(sys, "argv", ["__main__.py", "figures"])
    result = run("figures", "--data", data, "--out", tmp_path)
    assert result.exit_code == 0
    assert result.stdout == f"{tmp_path / 'right.png'}\n"
    assert drawn == {
        "classifier": "cifar10",
        "labels": [index for index in range(10) for _ in range(2)],
        "out": tmp_path,
        "command": "python -m gradcam figures",
    }


# The program


def test_what_is_imported_is_required_and_what_is_required_is_pinned() -> None:
    root = Path(main.__file__).parent.parent
    required = map(Requirement, tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"])
    ranges = {requirement.name: requirement.specifier for requirement in required}
    lines = (root / "requirements.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins.keys() == ranges.keys()
    assert all(ranges[name].contains(version) for name, version in pins.items())
    assert not ranges["gradio"].contains("7.0.0")
    sources = [path.read_text("utf-8") for path in (root / "gradcam").rglob("*.py")]
    imported = {name for source in sources for name in re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)}
    packages = {package for name in imported for package in packages_distributions().get(name, ())}
    indirect = {"fastapi", "gradio_client", "starlette"}  # in gradio's own interface
    assert packages - {"gradcam", "spaces"} - indirect <= ranges.keys()


def test_the_commands_of_the_readme_work_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = Path(main.__file__).parent.parent / "README.md"
    commands = re.findall(r"^python -m gradcam (.*)$", readme.read_text("utf-8"), re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/cheetah.jpg"):
        shutil.copy(CHEETAH, name)
    for command in commands:
        result = run(*shlex.split(command, comments=True))
        assert result.exit_code == 0, (command, result.stderr)
    assert len(commands) == 4


def test_help_names_every_command() -> None:
    result = run()
    assert "Usage: " in result.output
    for command in ("explain", "models", "layers", "train-cifar10", "evaluate-cifar10", "figures"):
        assert f"\n  {command} " in result.output
        assert run(command, "--help").exit_code == 0


def test_the_program_tells_results_and_errors_apart(tmp_path: Path) -> None:
    shutil.copy(CHEETAH, tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_text("no picture")
    command = [sys.executable, "-m", "gradcam", "explain", tmp_path, "--out", tmp_path / "out"]
    root = Path(main.__file__).parent.parent
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 1
    assert result.stdout.startswith(f"{tmp_path / 'good.jpg'}: cheetah ")
    first, last = lines(result.stderr)
    assert first.startswith(f"{tmp_path / 'bad.jpg'}: The file 'bad.jpg' is not a picture")
    assert last == f"1 explained, 1 failed; see {tmp_path / 'out' / 'manifest.json'}."
