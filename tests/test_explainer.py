"""explainer.py against captum and a slow oracle; the caller's model stays what it was; many threads at once."""

import copy
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from threading import Barrier, BrokenBarrierError
from typing import Any, NamedTuple

import captum.attr
import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from gradcam.explainer import MOST_GRADIENTS, Explainer
from gradcam.logits import NO_RIVAL
from gradcam.methods import METHODS
from gradcam.targets import Target, TargetError, find_target

CLASSES = 10
IMAGE = (3, 64, 64)


def convolutions(inplace: bool = False) -> nn.Sequential:
    """A hand-written network: features.0 to .5 make an 8x8 grid of a 32x32 picture."""
    features = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(inplace),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(inplace),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(inplace),
    )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES))
    return nn.Sequential(features, head)


def tiny_densenet() -> nn.Module:
    return torchvision.models.DenseNet(8, (2, 2), num_init_features=16, num_classes=CLASSES)


def tiny_resnet() -> nn.Module:
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)


def tiny_vgg() -> nn.Module:
    """The layers of VGG-11, without the 120 million parameters of its head."""
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"])
    head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(2048, CLASSES))
    return nn.Sequential(OrderedDict(features=features, head=head))


def tiny_swin() -> nn.Module:
    return timm.models.SwinTransformer(
        64, 4, num_classes=CLASSES, embed_dim=16, depths=(1, 2), num_heads=(2, 2), window_size=4
    )


def tiny_vit(**options: Any) -> nn.Module:
    return timm.models.VisionTransformer(64, 8, num_classes=CLASSES, embed_dim=32, depth=3, num_heads=2, **options)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": tiny_resnet,
    "vgg": tiny_vgg,
    "densenet": tiny_densenet,
    "efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=CLASSES),
    "convnext": lambda: timm.create_model("test_convnext", num_classes=CLASSES),
    "mobilenet": lambda: timm.create_model("mobilenetv3_small_050", num_classes=CLASSES),
    "sequential": convolutions,
    "sequential in place": lambda: convolutions(inplace=True),
    "swin": tiny_swin,
    "vit": tiny_vit,
    "vit reg4": lambda: tiny_vit(reg_tokens=4),
    "vit avg": lambda: tiny_vit(class_token=False, global_pool="avg"),
    "vit oblong": lambda: timm.create_model("test_vit", num_classes=CLASSES, img_size=(64, 96)),
}
CONVOLUTIONAL = ("resnet", "vgg", "densenet", "efficientnet", "convnext", "mobilenet")
LAYERS = {  # each followed by an in-place operation
    "resnet": ("bn1", "layer3.0.bn1", "layer3.0.bn2", "layer4.0.bn2"),
    "vgg": ("features.0", "features.8", "features.11"),
    "densenet": ("features.norm0", "features.denseblock2", "features.norm5"),
}


@cache
def network(name: str) -> nn.Module:
    """A network in evaluation mode, of random weights; no two channels or blocks of it are alike."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 4:
                    nn.init.kaiming_normal_(parameter)
                elif parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
            for key, buffer in model.named_buffers():
                if key.endswith("running_var"):
                    buffer.uniform_(0.5, 1.5)
    return model.eval()


def pictures(batch: int = 2, size: tuple[int, int, int] = IMAGE, seed: int = 0) -> Tensor:
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(seed))


class Tap(nn.Module):
    """Stands in for a layer and adds zeros to its output: their gradient is that of the output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        output = self.layer(*args, **kwargs)
        zeros = torch.zeros_like(output, requires_grad=True)
        self.calls.append((output.detach().clone(), zeros))
        return output + zeros


Score = Callable[[Tensor], Tensor]


def as_grid(output: Tensor, target: Target) -> np.ndarray:
    """The output for one picture, cell by cell, as (C, h, w)."""
    values = output[0].double().numpy()
    if target.layout == "NCHW":
        return values
    h, w = target.grid
    grid = np.empty((values.shape[-1], h, w))
    for row, column in np.ndindex(h, w):
        grid[:, row, column] = (
            values[row, column] if target.layout == "NHWC" else values[target.prefix + row * w + column]
        )
    return grid


def tapped(model: nn.Module, target: Target, image: Tensor, score: Score) -> tuple[np.ndarray, np.ndarray]:
    """Activations and gradients (C, h, w) of one picture, from a backward pass through the whole network."""
    model = copy.deepcopy(model)
    tap = Tap(model.get_submodule(target.layer))
    parent, _, name = target.layer.rpartition(".")
    setattr(model.get_submodule(parent), name, tap)
    score(model(image[None].clone())[0]).backward()
    activations, zeros = tap.calls[target.call]
    assert zeros.grad is not None
    return as_grid(activations, target), as_grid(zeros.grad, target)


def slow_gradcam(model: nn.Module, target: Target, image: Tensor, score: Score) -> np.ndarray:
    """Grad-CAM, eq. 1 and 2 before the ReLU, for one picture and one score, channel by channel."""
    activations, gradients = tapped(model, target, image, score)
    channels, h, w = activations.shape
    signed = np.zeros((h, w))
    for k in range(channels):
        alpha = gradients[k].sum() / (h * w)
        signed += alpha * activations[k]
    return signed


def assert_close(ours: Tensor, expected: Any, tolerance: float = 1e-5) -> None:
    expected = torch.as_tensor(np.asarray(expected))
    assert ours.dtype == torch.float32
    assert ours.shape == expected.shape
    assert expected.abs().max() > 0
    torch.testing.assert_close(ours.double(), expected.double(), rtol=0, atol=tolerance * expected.abs().max().item())


# --- The numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer"),
    [*((name, None) for name in CONVOLUTIONAL), *((name, layer) for name in LAYERS for layer in LAYERS[name])],
)
def test_agrees_with_captum(name: str, layer: str | None):
    model, images, classes = network(name), pictures(), [3, 7]
    explainer = Explainer(model, layer)
    maps = explainer(images, classes).maps
    theirs = copy.deepcopy(model)
    layer_gradcam = captum.attr.LayerGradCam(theirs, theirs.get_submodule(explainer.target.layer))
    expected = layer_gradcam.attribute(images, target=classes, relu_attributions=True).detach()
    assert_close(maps, expected)


@pytest.mark.parametrize(
    ("name", "size", "reading"),
    [
        *((name, IMAGE, ("NCHW", 0)) for name in CONVOLUTIONAL),
        ("resnet", (3, 96, 64), ("NCHW", 0)),
        ("sequential", (3, 32, 32), ("NCHW", 0)),
        ("sequential in place", (3, 24, 40), ("NCHW", 0)),
        ("swin", IMAGE, ("NHWC", 0)),
        ("vit", IMAGE, ("NLC", 1)),
        ("vit reg4", IMAGE, ("NLC", 5)),
        ("vit avg", IMAGE, ("NLC", 0)),
        ("vit oblong", (3, 64, 96), ("NLC", 1)),
    ],
)
def test_agrees_with_the_slow_oracle(name: str, size: tuple[int, int, int], reading: tuple[str, int]):
    model, images = network(name), pictures(size=size)
    explainer = Explainer(model)
    classes = torch.tensor([[4, 0], [9, 4]])
    explanation = explainer(images, classes)
    target = explainer.target
    assert (target.layout, target.prefix) == reading
    assert explanation.target == target
    expected = [
        [slow_gradcam(model, target, image, lambda y, c=c: y[c]) for c in row.tolist()]
        for image, row in zip(images, classes, strict=True)
    ]
    assert_close(explanation.signed, expected)
    assert explanation.maps.equal(explanation.signed.clamp(min=0))
    assert explanation.classes.equal(classes)
    with torch.no_grad():
        torch.testing.assert_close(explanation.logits, model(images))
    assert not explanation.logits.requires_grad
    assert not explanation.signed.requires_grad


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("name", "layer"), [("resnet", "layer4"), ("swin", "norm"), ("vit reg4", "blocks.2.norm1")])
def test_every_method_gets_the_layers_activations_and_gradients(name: str, layer: str, method: str):
    model, images = network(name), pictures(1)
    explainer = Explainer(model, layer, method)
    signed = explainer(images, 2).signed[0, 0]
    pair = tapped(model, explainer.target, images[0], lambda y: y[2])
    assert_close(signed, METHODS[method](*(torch.from_numpy(values) for values in pair)), tolerance=1e-4)


def test_split_by_hand():
    """No hooks at all: the two halves of the network, run one after the other."""
    features, head = network("sequential")
    image = pictures(1, (3, 32, 32))
    activations = features(image).detach().requires_grad_()
    (gradients,) = torch.autograd.grad(head(activations)[0, 6], activations)
    expected = sum(gradients[0, k].mean() * activations[0, k] for k in range(16)).detach()
    explainer = Explainer(network("sequential"), layer="0")
    assert_close(explainer(image, 6).signed[0, 0], expected)


def test_an_in_place_relu_changes_nothing():
    images = pictures(size=(3, 32, 32))
    for layer in (None, "0", "0.0", "0.2", "0.4"):
        plain, inplace = (Explainer(network(name), layer) for name in ("sequential", "sequential in place"))
        assert plain(images, "top3").signed.equal(inplace(images, "top3").signed)
    assert Explainer(network("sequential in place"), "0.4")(images).signed.min() < 0


class ReusesMemory(nn.Module):
    """Works in place on the feature map that it has just used."""

    def __init__(self, reuse: bool) -> None:
        super().__init__()
        self.features = network("sequential")[0]
        self.tap = nn.Identity()
        self.head = nn.Linear(16, CLASSES)
        self.reuse = reuse

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        pooled = self.tap(features).mean(dim=(2, 3))
        if self.reuse:
            features.data.neg_()  # behind the back of autograd
        return self.head(pooled)


def test_activations_are_copied_before_their_memory_is_used_again():
    reuses, keeps = ReusesMemory(True).eval(), ReusesMemory(False).eval()
    reuses.head = keeps.head
    images = pictures(size=(3, 32, 32))
    assert_close(Explainer(reuses, "tap")(images, 1).signed, Explainer(keeps, "tap")(images, 1).signed)


class RunsTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.shared(x).tanh()
        x = self.shared(x).tanh()
        return self.head(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("layer", [None, "shared"])
def test_a_module_that_runs_twice_is_read_at_its_last_run(layer: str | None):
    torch.manual_seed(0)
    model, images = RunsTwice().eval(), pictures(1)
    explainer = Explainer(model, layer)
    signed = explainer(images, 5).signed[0, 0]
    assert (explainer.target.layer, explainer.target.call) == ("shared", 1)
    assert_close(signed, slow_gradcam(model, explainer.target, images[0], lambda y: y[5]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["resnet", "sequential in place", "vit", "swin"])
def test_cpu_and_gpu_agree(name: str):
    model, images = network(name), pictures()
    explainer = Explainer(model)
    expected = explainer(images, "top5")
    on_gpu = Explainer(copy.deepcopy(model).cuda())(images.cuda(), expected.classes)
    assert on_gpu.signed.device.type == on_gpu.classes.device.type == "cuda"
    assert on_gpu.target == expected.target
    assert_close(on_gpu.signed.cpu(), expected.signed, tolerance=1e-2)  # convolutions on a GPU may use TF32


@pytest.mark.parametrize("name", ["resnet", "efficientnet", "vit", "swin"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float16", 0.02), ("bfloat16", 0.1), ("autocast", 0.1)], ids=str)
def test_half_precision(name: str, precision: str, tolerance: float):
    model, images = network(name), pictures()
    expected = Explainer(model)(images, 3)
    context: AbstractContextManager[None] = nullcontext()
    if precision == "autocast":
        context = torch.autocast("cpu", torch.bfloat16)
    else:
        dtype = getattr(torch, precision)
        model, images = copy.deepcopy(model).to(dtype), images.to(dtype)
    with context:
        explanation = Explainer(model, expected.target.layer)(images, 3)
    assert explanation.signed.dtype == torch.float32
    assert explanation.signed.isfinite().all()
    assert_close(explanation.signed, expected.signed, tolerance)


# --- What is asked for ------------------------------------------------------------------------------------------------


def test_classes_in_every_form():
    images, explainer = pictures(3), Explainer(network("resnet"))
    everything = explainer(images, torch.arange(CLASSES).expand(3, -1))
    order = everything.logits.argsort(dim=1, descending=True)

    def check(classes: Any, expected: Tensor) -> None:
        explanation = explainer(images, classes)
        assert explanation.classes.equal(expected)
        wanted = expected[:, :, None, None].expand(-1, -1, *everything.signed.shape[2:])
        torch.testing.assert_close(explanation.signed, everything.signed.gather(1, wanted))

    check(None, order[:, :1])
    check(4, torch.full((3, 1), 4))
    check([1, 2, 9], torch.tensor([[1], [2], [9]]))
    check(torch.tensor([[1, 2], [0, 0], [9, 1]]), torch.tensor([[1, 2], [0, 0], [9, 1]]))
    check("top5", order[:, :5])
    check("top99", order)


@pytest.mark.parametrize("classes", [CLASSES, -1, [0, 1], "top0", "cat", 0.5, [], torch.zeros(3, 0, dtype=torch.int64)])
def test_classes_that_do_not_exist(classes: Any):
    with pytest.raises(ValueError, match="class"):
        Explainer(network("sequential"))(pictures(3), classes)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam"])
def test_versus_is_the_difference_where_the_method_is_linear(method: str):
    images, explainer = pictures(), Explainer(network("resnet"), method=method)
    alone = explainer(images, [[1, 2, 3], [1, 2, 3]]).signed
    rather = explainer(images, [[1, 2, 1], [1, 2, 1]], versus=[[3, 3, NO_RIVAL], [2, NO_RIVAL, 3]]).signed
    first = (alone[0, 0] - alone[0, 2], alone[0, 1] - alone[0, 2], alone[0, 0])
    second = (alone[1, 0] - alone[1, 1], alone[1, 1], alone[1, 0] - alone[1, 2])
    assert_close(rather, torch.stack([torch.stack(first), torch.stack(second)]))


def test_versus_explains_the_difference_of_the_scores():
    model, images = network("resnet"), pictures()
    explainer = Explainer(model)
    signed = explainer(images, [1, 6], versus=8).signed
    expected = [
        [slow_gradcam(model, explainer.target, image, lambda y, c=c: y[c] - y[8])]
        for image, c in zip(images, [1, 6], strict=True)
    ]
    assert_close(signed, expected)
    # Layer-CAM is not linear: the ReLU is taken of the difference.
    activations, gradients = tapped(model, explainer.target, images[0], lambda y: y[1] - y[8])
    layercam = Explainer(model, method="layercam")(images, 1, versus=8).signed[0, 0]
    assert_close(layercam, (activations * gradients.clip(min=0)).sum(axis=0))


def test_a_class_against_itself_has_no_evidence():
    assert not Explainer(network("resnet"))(pictures(), 4, versus=4).signed.any()


class SingleLogit(nn.Module):
    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.network = copy.deepcopy(network("sequential"))
        self.flat = flat

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)[:, :1]
        return logits[:, 0] if self.flat else logits


@pytest.mark.parametrize("flat", [True, False], ids=["(B,)", "(B, 1)"])
def test_a_single_logit_is_two_classes(flat: bool):
    images = pictures(size=(3, 32, 32))
    yes = Explainer(network("sequential"))(images, 0)
    explainer = Explainer(SingleLogit(flat).eval())
    explanation = explainer(images, [[0, 1], [0, 1]])
    assert explanation.logits.equal(yes.logits[:, :1])
    assert_close(explanation.signed, torch.cat([-yes.signed, yes.signed], dim=1))
    assert explainer(images).classes.equal((yes.logits[:, :1] > 0).long())
    assert_close(explainer(images, 1, versus=0).signed, 2 * yes.signed)


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: (y, torch.zeros(len(y), CLASSES)),
        lambda y: {"features": y[:, :2], "logits": y},
        lambda y: Output(y),
        lambda y: y[:, :, None, None],
    ],
    ids=["tuple", "dict", "dataclass", "1x1 grid"],
)
def test_outputs_of_other_forms(wrap: Callable[[Tensor], Any]):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(network("sequential"))

        def forward(self, x: Tensor) -> Any:
            return wrap(self.network(x))

    images = pictures(size=(3, 32, 32))
    expected, explanation = (Explainer(m)(images, "top3") for m in (network("sequential"), Wrapped().eval()))
    assert explanation.logits.equal(expected.logits)
    assert explanation.signed.equal(expected.signed)


class Ending(nn.Module):
    """A network, made `sure` times as sure, with something behind its logits."""

    def __init__(self, ending: Callable[[Tensor], Tensor], sure: float = 1) -> None:
        super().__init__()
        self.network, self.ending, self.sure = copy.deepcopy(network("sequential")), ending, sure

    def forward(self, x: Tensor) -> Tensor:
        return self.ending(self.sure * self.network(x))


@pytest.mark.parametrize("sure", [1, 1000])
@pytest.mark.parametrize(
    "ending",
    [
        nn.Softmax(dim=1),
        lambda y: y.softmax(1),
        lambda y: y.log_softmax(1),
        lambda y: y[:, :, None, None].softmax(1).flatten(1),
        lambda y: y.sigmoid(),
        lambda y: y.clone().sigmoid_().float(),
    ],
    ids=["module", "softmax", "log-softmax", "1x1 grid", "sigmoid", "in place"],
)
def test_a_network_that_ends_in_probabilities_is_read_before_them(ending: Callable[[Tensor], Tensor], sure: float):
    """Their own gradient fades as the network grows sure; that of the logits does not."""
    images, classes = pictures(size=(3, 32, 32)), torch.tensor([[0, 3], [7, 5]])
    plain, explainer = Explainer(Ending(lambda y: y, sure).eval()), Explainer(Ending(ending, sure).eval())
    expected, explanation = plain(images, classes), explainer(images, classes)
    assert explanation.target.grid == expected.target.grid
    assert_close(explanation.signed, expected.signed)
    assert_close(explainer(images, 3, versus=5).signed, plain(images, 3, versus=5).signed)
    if sure == 1:  # the values are those of the logits, but for a constant that a softmax leaves open
        given, found = expected.logits, explanation.logits
        assert_close(found - found[:, :1], given - given[:, :1])
        assert explainer(images).classes.equal(given.argmax(1, keepdim=True))


def mixed(y: Tensor) -> Tensor:
    """The mean of two softmaxes, as an ensemble of two networks returns it."""
    return (y.softmax(1) + (2 * y.flip(1)).softmax(1)) / 2


def grouped(y: Tensor) -> Tensor:
    """Two questions, one of three answers and one of the rest."""
    return torch.cat([y[:, :3].softmax(1), y[:, 3:].softmax(1)], 1)


def twice(y: Tensor) -> Tensor:
    """The mean of several sigmoids."""
    return (y.sigmoid() + (2 * y).sigmoid()) / 2


@pytest.mark.parametrize(
    ("ending", "probabilities"),
    [
        (lambda y: y, lambda y: y.softmax(1)),
        (lambda y: y.log_softmax(1), lambda y: y.softmax(1)),
        (lambda y: y.softmax(1), lambda y: y.softmax(1)),
        (lambda y: (5 * y).softmax(1).clamp(0.05, 0.9), lambda y: (5 * y).softmax(1).clamp(0.05, 0.9)),
        (lambda y: y.softmax(1)[:, 1], lambda y: torch.stack([1 - y.softmax(1)[:, 1], y.softmax(1)[:, 1]], 1)),
        (grouped, grouped),
        (lambda y: torch.stack([y.sigmoid(), (2 * y).sigmoid()]).mean(0), twice),
        (lambda y: y.softmax(1).half(), lambda y: y.softmax(1).half().float()),
        (lambda y: y.sigmoid().bfloat16(), lambda y: y.sigmoid().bfloat16().float()),
        (lambda y: y.exp() / y.exp().sum(1, keepdim=True), lambda y: y.softmax(1)),
        (mixed, mixed),
        (lambda y: y.sigmoid(), lambda y: y.sigmoid()),  # as many questions as classes
        (lambda y: y[:, :1].sigmoid(), lambda y: torch.cat([(-y[:, :1]).sigmoid(), y[:, :1].sigmoid()], 1)),
        (lambda y: y[:, :1], lambda y: torch.cat([(-y[:, :1]).sigmoid(), y[:, :1].sigmoid()], 1)),
    ],
    ids=[
        "logits",
        "log-softmax",
        "softmax",
        "clamped",
        "one column",
        "groups",
        "mean of sigmoids",
        "half softmax",
        "half sigmoids",
        "by hand",
        "ensemble",
        "sigmoids",
        "one sigmoid",
        "one logit",
    ],
)
def test_the_probabilities_are_those_of_the_network(
    ending: Callable[[Tensor], Tensor], probabilities: Callable[[Tensor], Tensor]
):
    images = pictures(size=(3, 32, 32))
    with torch.no_grad():
        expected = probabilities(Ending(lambda y: y, 1).eval()(images))
    assert_close(Explainer(Ending(ending, 1).eval()).forward(images).probabilities, expected)


@pytest.mark.parametrize(
    ("ending", "logits"),
    [
        (mixed, lambda y: mixed(y).log()),
        (grouped, lambda y: grouped(y).log()),
        (twice, lambda y: twice(y).log() - (1 - twice(y)).log()),
        (lambda y: y.exp() / y.exp().sum(1, keepdim=True), lambda y: y - y.logsumexp(1, keepdim=True)),
        (lambda y: 3 * y.sigmoid(), lambda y: 3 * y.sigmoid()),  # above 1: no probabilities
    ],
    ids=["softmaxes", "groups of softmaxes", "sigmoids", "by hand", "scaled sigmoids"],
)
def test_combined_probabilities_are_explained_by_their_logarithms_or_log_odds(
    ending: Callable[[Tensor], Tensor], logits: Callable[[Tensor], Tensor]
):
    images, classes = pictures(size=(3, 32, 32)), torch.tensor([[0, 3], [7, 5]])
    found = Explainer(Ending(ending, 1).eval())
    expected = Explainer(Ending(logits, 1).eval())
    assert_close(found(images).logits, expected(images).logits)
    assert_close(found(images, classes).signed, expected(images, classes).signed)
    assert_close(found(images, 3, versus=5).signed, expected(images, 3, versus=5).signed)
    assert found(images, classes).signed.abs().max() > 1e-3


@pytest.mark.parametrize("flat", [True, False], ids=["(B,)", "(B, 1)"])
def test_a_single_probability_is_two_classes(flat: bool):
    images = pictures(size=(3, 32, 32))
    expected = Explainer(SingleLogit(flat).eval())(images, [[0, 1], [0, 1]])
    explainer = Explainer(nn.Sequential(SingleLogit(flat), nn.Sigmoid()).eval())
    explanation = explainer(images, [[0, 1], [0, 1]])
    assert_close(explanation.logits, expected.logits)
    assert_close(explanation.signed, expected.signed)
    assert explainer(images).classes.equal((expected.logits > 0).long())


def test_one_column_of_a_softmax_is_the_chance_of_class_1():
    """Its log-odds against the other column are the difference of the two logits."""
    images = pictures(size=(3, 32, 32))
    pair = Explainer(Ending(lambda y: 3 * y[:, :2], 1).eval())
    column = Explainer(Ending(lambda y: (3 * y[:, :2]).softmax(1)[:, 1:], 1).eval())
    expected = pair(images, 1, versus=0)
    explanation = column(images, 1)
    assert_close(explanation.logits[:, 0], (pair(images).logits @ torch.tensor([-1.0, 1.0])))
    assert_close(explanation.signed, expected.signed)
    assert column(images).classes.equal(pair(images).classes)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compiled", "data parallel"])
def test_a_wrapped_network_is_explained_without_its_wrapper(wrap: Callable[[nn.Module], nn.Module]):
    images = pictures(size=(3, 32, 32))
    expected, explanation = (Explainer(m)(images, 3) for m in (network("sequential"), wrap(network("sequential"))))
    assert explanation.target == expected.target
    assert explanation.signed.equal(expected.signed)


class Maps(NamedTuple):
    features: Tensor
    mask: Tensor | None


def test_a_layer_may_return_a_named_tuple():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = copy.deepcopy(network("sequential"))[0]

        def forward(self, x: Tensor) -> Maps:
            return Maps(self.body(x) + 0, None)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = Block(), copy.deepcopy(network("sequential"))[1]

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(x).features)

    images = pictures(size=(3, 32, 32))
    explanation = Explainer(Network().eval())(images, 3)
    assert explanation.target.layer == "block"
    assert explanation.signed.equal(Explainer(network("sequential"))(images, 3).signed)


@pytest.mark.parametrize(
    ("images", "given"),
    [
        (torch.zeros(3, 64, 64), r"torch.float32 \(3, 64, 64\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"torch.uint8 \(1, 3, 64, 64\)"),
        (torch.zeros(0, 3, 64, 64), r"torch.float32 \(0, 3, 64, 64\)"),
        (np.zeros((1, 3, 64, 64), np.float32), "ndarray"),
        ("photo.jpg", "str"),
    ],
    ids=["no batch", "bytes", "empty", "array", "path"],
)
def test_images_that_are_none(images: Any, given: str):
    with pytest.raises(ValueError, match=f"images are {given}; expected a float tensor"):
        Explainer(network("sequential"))(images)


def test_images_of_another_type_than_the_network_are_told_where_it_cannot_take_them():
    images = pictures(1, (3, 32, 32))
    with pytest.raises(ValueError, match=r"images are torch\.float64 on cpu, the network is torch\.float32"):
        Explainer(network("sequential"))(images.double())
    with torch.autocast("cpu", torch.bfloat16):  # which takes what comes
        assert Explainer(network("sequential"))(images.bfloat16()).maps.shape == (1, 1, 8, 8)


def test_a_layer_that_does_not_run_for_some_images_is_told():
    class EarlyExit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return (x if x.abs().max() > 100 else self.second(x)).mean((2, 3))

    explainer, images = Explainer(EarlyExit().eval()), pictures(1, (3, 32, 32))
    assert explainer(images).target.layer == "second"
    with pytest.raises(
        TargetError, match="layer 'second' ran when it was found, but not for these images: the network"
    ):
        explainer(images * 1000)
    assert Explainer(explainer.model, layer="first")(images * 1000).target.layer == "first"


def test_pictures_that_a_network_sends_different_ways_are_told():
    class Experts(nn.Module):
        """The dark pictures go to one expert, the bright ones to the other."""

        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Conv2d(3, 4, 3, padding=1) for _ in "12")

        def forward(self, x: Tensor) -> Tensor:
            bright = (x.mean((1, 2, 3)) > 1).long()
            features = x.new_zeros(len(x), 4, *x.shape[2:])
            for number, expert in enumerate(self.experts):
                features[bright == number] = expert(x[bright == number])
            return features.mean((2, 3))

    explainer, images = Explainer(Experts().eval(), layer="experts.0"), pictures(3, (3, 32, 32))
    expected = explainer(images, 2).signed
    images[1] += 5
    with pytest.raises(
        TargetError, match=r"layer 'experts\.0' was reached by 2 of 3 pictures.* Explain one .* at a time"
    ):
        explainer(images, 2)
    for one in (0, 2):
        assert_close(explainer(images[one : one + 1], 2).signed, expected[one : one + 1])


class Given(nn.Module):
    """Adds up in its own forward what `second` is given, which goes on past it too; runs it as often as is said."""

    def __init__(self, tokens: bool, in_place: bool, runs: int = 1) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 4, stride=4), nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.head, self.tokens, self.in_place, self.runs = nn.Linear(6, CLASSES), tokens, in_place, runs

    def begin(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + x.sin()
        return x.flatten(2).mT if self.tokens else x.permute(0, 2, 3, 1).contiguous()

    def end(self, x: Tensor) -> Tensor:
        """From the last sum that `second` is given."""
        y = self.second(x)
        if self.in_place:
            x *= 2
        return self.head((x.tanh() * y).flatten(1, -2).mean(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.begin(x)
        for _ in range(self.runs - 1):
            x = x + self.second(x)
        return self.end(x)


@pytest.mark.parametrize(
    ("tokens", "in_place", "runs"),
    [(False, False, 1), (False, True, 1), (False, False, 3), (True, False, 1)],
    ids=["grid", "changed in place afterwards", "several runs", "view"],
)
def test_what_a_module_is_given_agrees_with_the_slow_oracle(tokens: bool, in_place: bool, runs: int):
    """With all that the score makes of it, inside the module and past it."""
    torch.manual_seed(0)
    model = Given(tokens, in_place, runs).eval().requires_grad_(False)  # or it would need what it changes
    explainer, images = Explainer(model, layer="second:input"), pictures(2, (3, 32, 24))
    explanation = explainer(images, [[1, 4], [0, 2]])
    assert explainer.target.grid == (8, 6)
    assert explanation.logits.equal(model(images).detach())
    for image, classes, maps in zip(images, explanation.classes, explanation.signed, strict=True):
        for class_, signed in zip(classes, maps, strict=True):
            x = model.begin(image[None]).detach()
            for _ in range(runs - 1):
                x = (x + model.second(x)).detach()
            x.requires_grad_()
            score = Given.end(model, x * 1)[0, class_]  # times 1, so that it may be changed in place
            (gradient,) = torch.autograd.grad(score, x)
            expected = np.zeros((8, 6))
            for k in range(6):
                alpha = gradient[..., k].mean().item()
                expected += alpha * x.detach()[0, ..., k].reshape(8, 6).double().numpy()
            assert_close(signed, expected)


def test_a_network_that_works_in_place_on_its_pictures_is_explained_where_a_module_is_given_something():
    class Dimmed(Given):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(0.5))

    torch.manual_seed(0)
    plain, dimmed = Given(False, False).eval(), Dimmed(False, False).eval()
    dimmed.load_state_dict(plain.state_dict())
    images = pictures(2, (3, 32, 24))
    expected = Explainer(plain, layer="second:input")(images * 0.5, "top3")
    explanation = Explainer(dimmed, layer="second:input")(images, "top3")
    assert_close(explanation.signed, expected.signed)
    assert images.equal(pictures(2, (3, 32, 24)))


def test_an_overridden_call_is_called():
    class Scaled(nn.Sequential):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x * 2 - 1)

    images = pictures(2, (3, 32, 32))
    expected = Explainer(network("sequential"))(images * 2 - 1, 3)
    explanation = Explainer(Scaled(*network("sequential")).eval())(images, 3)
    assert explanation.logits.equal(expected.logits)
    assert_close(explanation.signed, expected.signed)


def test_a_class_of_fixed_score_hides_no_layer_and_has_a_blank_map():
    class WithUnknown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.known = network("sequential")

        def forward(self, x: Tensor) -> Tensor:
            logits = self.known(x)
            return torch.cat([logits, torch.full_like(logits[:, :1], 99.0)], dim=1)

    explainer, images = Explainer(WithUnknown().eval()), pictures(2, (3, 32, 32))
    explanation = explainer(images, classes="top5")
    assert explanation.classes[:, 0].tolist() == [CLASSES, CLASSES]
    assert (explanation.signed[:, 0] == 0).all()
    expected = Explainer(network("sequential"))(images, classes=explanation.classes[:, 1:])
    torch.testing.assert_close(explanation.signed[:, 1:], expected.signed, rtol=0, atol=1e-6)
    assert expected.signed.abs().amax((2, 3)).min() > 1e-4
    assert explainer.target.layer == f"known.{expected.target.layer}"


def test_what_the_network_itself_raises_is_left_as_it_is():
    class Picky(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if x.max() > 50:
                raise ArithmeticError("too bright")
            return super().forward(x)

    explainer = Explainer(Picky(*network("sequential")).eval())
    with pytest.raises(ArithmeticError, match=r"^too bright$"):
        explainer(pictures(1, (3, 32, 32)) + 100)


def test_an_unknown_method_is_an_error_that_lists_them():
    with pytest.raises(ValueError, match=r"no method 'grad-cam'; choose one of gradcam, .*counterfactual"):
        Explainer(network("sequential"), method="grad-cam")


# --- The target -------------------------------------------------------------------------------------------------------


def test_the_target_is_known_once_the_size_is():
    assert Explainer(network("convnext")).target.layout == "NCHW"  # timm's configuration tells it
    assert Explainer(network("sequential"), input_size=(3, 32, 32)).target.grid == (8, 8)
    explainer = Explainer(network("sequential"))
    with pytest.raises(TargetError, match="give input_size=, or explain one first"):
        _ = explainer.target
    for size, grid in (((3, 32, 32), (8, 8)), ((3, 24, 40), (6, 10)), ((3, 32, 32), (8, 8))):
        explanation = explainer(pictures(size=size))
        assert explainer.target.grid == explanation.target.grid == explanation.maps.shape[2:] == grid


def test_an_unknown_layer_is_an_error_that_suggests_others():
    with pytest.raises(TargetError, match=r"no layer 'layr4'.*layer4"):
        Explainer(network("resnet"), layer="layr4", input_size=IMAGE)


@pytest.mark.parametrize("layer", ["fc", "avgpool"])
def test_a_layer_that_is_no_grid_is_an_error(layer: str):
    with pytest.raises(TargetError, match=f"layer '{layer}' cannot be explained"):
        Explainer(network("resnet"), layer)(pictures())


# --- The caller's model -----------------------------------------------------------------------------------------------


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything that an explanation must leave alone, in values that compare."""

    def content(tensor: Tensor | None) -> Any:
        return None if tensor is None else (id(tensor), tensor._version, tensor.detach().numpy().tobytes())

    modules = dict(model.named_modules())
    return {
        "state_dict": {key: content(value)[1:] for key, value in model.state_dict().items()},
        "tensors": [content(t) for m in modules.values() for t in (*m._parameters.values(), *m._buffers.values())],
        "grad": {key: content(p.grad) for key, p in model.named_parameters()},
        "requires_grad": {key: p.requires_grad for key, p in model.named_parameters()},
        "modules": {key: (id(module), module.training, sorted(vars(module))) for key, module in modules.items()},
        "hooks": {
            (key, kind): list(hooks) for key, m in modules.items() for kind, hooks in vars(m).items() if "hooks" in kind
        },
        "global hooks": {
            kind: list(hooks)
            for kind, hooks in vars(nn.modules.module).items()
            if kind.startswith("_global") and isinstance(hooks, dict)
        },
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
        "torch": (torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()),
    }


@contextmanager
def unchanged(model: nn.Module, images: Tensor) -> Iterator[None]:
    before, copied = state_of(model), images.clone()
    yield
    after = state_of(model)
    for what in before:
        assert after[what] == before[what], what
    assert images.equal(copied)
    assert images.grad is None


class Fails(nn.Module):
    """Passes its input on, or raises."""

    armed = False

    def forward(self, x: Tensor) -> Tensor:
        if Fails.armed:
            raise ArithmeticError("from inside the network")
        return x


@pytest.fixture
def model() -> nn.Module:
    """Batch normalisation, dropout, in-place ReLUs, a caller's own hook, gradients left from training."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(inplace=True),
        Fails(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )
    model(pictures()).sum().backward()
    model[3].weight.grad = None
    model[4].register_forward_hook(lambda *_: None)
    return model.eval()


CIRCUMSTANCES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "plain": nullcontext,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("circumstance", CIRCUMSTANCES)
def test_the_model_is_left_as_it_was(model: nn.Module, circumstance: str, frozen: bool):
    model.requires_grad_(not frozen)
    expected = Explainer(model)(pictures(), "top3", versus=0).signed
    with CIRCUMSTANCES[circumstance]():
        images = pictures()
        with unchanged(model, images):
            explainer = Explainer(model)
            explanation = explainer(images, "top3", versus=0)
            explainer(images, torch.tensor([[1, 2], [3, 4]]))
    assert_close(explanation.signed, expected, tolerance=0.1 if circumstance == "autocast" else 1e-6)


@pytest.mark.parametrize("circumstance", CIRCUMSTANCES)
def test_the_model_is_left_as_it_was_after_an_exception(
    model: nn.Module, circumstance: str, monkeypatch: pytest.MonkeyPatch
):
    explainer = Explainer(model, input_size=IMAGE)
    with CIRCUMSTANCES[circumstance]():
        images = pictures()
        with unchanged(model, images), monkeypatch.context() as patch:
            patch.setattr(Fails, "armed", True)
            with pytest.raises(ArithmeticError):
                explainer(images)
            with pytest.raises(TargetError, match=r"fails on a batch of shape \(5, .*\(from inside the network\)"):
                Explainer(model, input_size=IMAGE)
        with unchanged(model, images):
            with pytest.raises(ValueError, match="class 99 does not exist"):
                explainer(images, 99)
            with pytest.raises(TargetError):
                Explainer(model, layer="9")(images)
            with pytest.raises(TargetError, match=r"fails on a batch of shape \(5, 1, .*, and pictures of that shape"):
                explainer(images[:, :1])
        explainer(images)


@pytest.mark.parametrize("part", ["", "1", "6"])
@pytest.mark.parametrize("input_size", [None, IMAGE])
def test_training_mode_is_an_error_before_anything_runs(
    model: nn.Module, part: str, input_size: tuple[int, int, int] | None
):
    images = pictures()
    model.get_submodule(part).train()
    with unchanged(model, images), pytest.raises(ValueError, match=r"in training mode.*call model\.eval\(\)") as error:
        Explainer(model, input_size=input_size)(images)
    assert ("the model" if part == "" else f"its part {part!r}") in str(error.value)


def test_a_known_model_put_back_in_training_mode_is_an_error(model: nn.Module):
    explainer = Explainer(model, input_size=IMAGE)
    model.train()
    with pytest.raises(ValueError, match="the model is in training mode"):
        explainer(pictures())


def test_images_that_require_gradients_get_none(model: nn.Module):
    images = pictures().requires_grad_()
    with unchanged(model, images):
        explanation = Explainer(model)(images)
    assert not explanation.signed.requires_grad


# --- The cost ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [None, "top5", torch.arange(CLASSES).expand(2, -1)], ids=["1", "5", "all"])
def test_one_forward_pass_whatever_the_number_of_classes(model: nn.Module, classes: Any):
    explainer = Explainer(model, input_size=IMAGE)
    runs = {0: 0, 9: 0}
    for index in runs:
        model[index].register_forward_hook(lambda *_, index=index: runs.update({index: runs[index] + 1}))
    explainer(pictures(), classes)
    assert runs == {0: 1, 9: 1}
    held = explainer.forward(pictures())
    for class_ in range(CLASSES):
        held.explain(class_)
    assert runs == {0: 2, 9: 2}


@pytest.mark.parametrize("method", METHODS)
def test_many_classes_are_explained_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, method: str):
    """All their gradients together could be larger than the network."""
    at_once: list[int] = []

    def counted(activations: Tensor, gradients: Tensor) -> Tensor:
        at_once.append(gradients.shape[1])
        return plain(activations, gradients)

    plain = METHODS[method]
    monkeypatch.setitem(METHODS, method, counted)
    explainer, images = Explainer(network("sequential"), method=method), pictures(2, (3, 32, 32))
    every = torch.arange(CLASSES).expand(2, -1)
    signed = explainer(images, every).signed
    assert sum(at_once) == CLASSES
    assert max(at_once) <= MOST_GRADIENTS < CLASSES
    for class_ in range(CLASSES):
        assert_close(signed[:, class_ : class_ + 1], explainer(images, class_).signed)


def test_a_held_pass_answers_like_a_fresh_one(model: nn.Module):
    explainer, images = Explainer(model), pictures()
    held = explainer.forward(images)
    for classes, versus, method in ((3, None, "gradcam"), ("top2", 0, "layercam"), (3, None, "gradcam")):
        expected = Explainer(model, method=method)(images, classes, versus)
        explanation = held.explain(classes, versus, method)
        assert explanation.signed.equal(expected.signed)
        assert explanation.classes.equal(expected.classes)


class Witness(nn.Module):
    """Notes whether a graph is being built, and raises when a gradient comes back through it."""

    def __init__(self, raises: bool) -> None:
        super().__init__()
        self.raises = raises
        self.built: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.built.append(torch.is_grad_enabled())
        x = x.clone()
        if x.requires_grad and self.raises:
            x.register_hook(self._refuse)
        return x

    def _refuse(self, gradient: Tensor) -> None:
        raise AssertionError("a gradient was computed below the target")


def test_no_graph_and_no_gradient_below_the_target():
    features, head = copy.deepcopy(network("sequential in place"))
    below, above = Witness(raises=True), Witness(raises=False)
    model = nn.Sequential(below, features, above, head).eval()
    Explainer(model, layer="1")(pictures(size=(3, 32, 32)), "top5")
    assert not below.built[-1]
    assert above.built[-1]


def test_no_gradient_of_any_parameter(model: nn.Module):
    def refuse(gradient: Tensor) -> None:
        raise AssertionError("the gradient of a parameter was computed")

    for parameter in model.parameters():
        parameter.register_hook(refuse)
    Explainer(model)(pictures(), "top5")


# --- Many threads -----------------------------------------------------------------------------------------------------


def test_many_threads_on_one_model_give_the_serial_maps():
    model = network("resnet")
    explainers = [Explainer(model), Explainer(model, "layer3"), Explainer(model, method="layercam")]
    asked = [(explainers[i % 3], pictures(1 + i % 2, seed=i), i % CLASSES) for i in range(25)]
    serial = [explainer(images, classes).signed for explainer, images, classes in asked]
    hooks = state_of(model)["hooks"]
    threads = 8
    together = Barrier(threads)

    def work(start: int) -> list[tuple[int, Tensor]]:
        together.wait()
        order = [(start * 3 + i) % len(asked) for i in range(len(asked))]
        return [(i, asked[i][0](*asked[i][1:]).signed) for i in order]

    with ThreadPoolExecutor(threads) as pool:
        answers = [answer for answers in pool.map(work, range(threads)) for answer in answers]
    assert len(answers) == 200
    assert all(signed.equal(serial[i]) for i, signed in answers)
    assert state_of(model)["hooks"] == hooks


def test_many_threads_search_for_the_target_once(monkeypatch: pytest.MonkeyPatch):
    searches: list[Any] = []
    company = Barrier(2)

    def counting(*args: Any) -> Target:
        searches.append(args)
        with suppress(BrokenBarrierError):
            company.wait(timeout=0.5)  # time for a second thread to come here, if nothing keeps it out
        return find_target(*args)

    monkeypatch.setattr("gradcam.explainer.find_target", counting)
    explainer, images = Explainer(network("sequential")), pictures(1, (3, 32, 32))
    with ThreadPoolExecutor(8) as pool:
        maps = list(pool.map(lambda _: explainer(images).signed, range(16)))
    assert len(searches) == 1
    assert all(signed.equal(explainer(images).signed) for signed in maps)


def test_threads_share_a_held_pass():
    held = Explainer(network("resnet")).forward(pictures())
    serial = [held.explain(class_).signed for class_ in range(CLASSES)]
    with ThreadPoolExecutor(8) as pool:
        maps = list(pool.map(lambda i: held.explain(i % CLASSES).signed, range(80)))
    assert all(signed.equal(serial[i % CLASSES]) for i, signed in enumerate(maps))


def test_a_network_built_for_another_size_than_its_configuration_names() -> None:
    """Its target is known from the first picture on."""
    explainer = Explainer(timm.create_model("deit_tiny_patch16_224", img_size=64).eval())
    with pytest.raises(TargetError, match="give input_size="):
        _ = explainer.target
    assert explainer(torch.zeros(1, 3, 64, 64)).maps.shape == (1, 1, 4, 4)
    assert explainer.target.grid == (4, 4)


class UsedBefore(nn.Module):
    """Makes something of a sum before a module is given it: its mean, or a view of a part of it."""

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.first, self.block = nn.Conv2d(3, 6, 4, stride=4), nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh())
        self.head, self.view = nn.Linear(6, CLASSES), view

    def end(self, x: Tensor) -> Tensor:
        before = x[:, :3] if self.view else x.mean(1, keepdim=True).sigmoid()
        y = x + self.block(x)
        y = y + torch.cat([before, before], dim=1) if self.view else y * before
        return self.head(y.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.end(x + x.sin())


@pytest.mark.parametrize("view", [False, True])
def test_what_was_made_of_it_before_a_module_is_given_it_counts_too(view: bool):
    torch.manual_seed(0)
    model, images = UsedBefore(view).eval(), pictures(2, (3, 32, 24))
    explanation = Explainer(model)(images, 4)
    assert explanation.target.layer == "block:input"
    x = model.first(images)
    x = (x + x.sin()).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.end(x)[:, 4].sum(), x)
    expected = (gradient.mean((2, 3), keepdim=True) * x).sum(1).detach()
    torch.testing.assert_close(explanation.signed[:, 0], expected)
