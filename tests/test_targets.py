"""Targets: the right layer, in the right layout, aligned with the picture; or a clear error."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from benchmarks.families import alignment, build
from gradcam import Explainer
from gradcam.targets import Target, TargetError, find_stages, find_target

TABLE = Path(__file__).resolve().parent.parent / "docs" / "families.md"
ROWS = [
    [cell.strip(" `") for cell in line.strip("|").split("|")]
    for line in TABLE.read_text("utf-8").splitlines()
    if re.match(r"\| [a-z]\w+ \| \w+.* \| \d+x\d+ \|", line)
]
ALIGNED, WELL_ALIGNED = 1.05, 1.5  # least odds; a map that has lost its place has 1


def features_of(width: int = 8, inplace: bool = False) -> list[nn.Module]:
    return [
        nn.Conv2d(3, width, 3, padding=1, stride=2),
        nn.ReLU(inplace),
        nn.Conv2d(width, width, 3, padding=1, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace),
    ]


def head(width: int = 8) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# ---- every family of timm ----


def test_the_table_has_every_family_that_classifies() -> None:
    """A family may be left out of the table only when none of its models classifies."""
    left_out = set(timm.list_modules()) - {row[0] for row in ROWS}
    for family in left_out:
        for name in timm.list_models(module=family):
            with torch.device("meta"):
                assert timm.create_model(name).num_classes == 0, name
    assert len(ROWS) == 95


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_family(row: list[str]) -> None:
    """The target is the one in the table, and its map is aligned with the picture."""
    _, name, _, layer, layout, grid, prefix, odds = row
    model, size = build(name)
    target = find_target(model, size)
    assert (target.layout, "x".join(map(str, target.grid)), str(target.prefix)) == (layout, grid, prefix)
    # Random weights nearly wash out the place in a few families, and rounding then decides between neighbours.
    assert target.layer == layer or float(odds) < WELL_ALIGNED
    assert alignment(model, target, size) > ALIGNED


TORCHVISION = """
    alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5 mobilenet_v2
    mobilenet_v3_small regnet_y_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11 vit_b_32
"""


@pytest.mark.parametrize("name", TORCHVISION.split())
def test_torchvision_classifier(name: str) -> None:
    quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **quick)
    model, size = model.eval(), (3, 224, 224)
    target = find_target(model, size)
    assert min(target.grid) >= 4
    assert alignment(model, target, size) > ALIGNED


def test_the_corner_of_the_picture_moves_the_corner_of_the_map() -> None:
    """The whole way through the explainer: on tokens, on channels last, and on a grid that is not square."""
    for name, size in (("test_vit", (160, 160)), ("test_mambaout", (160, 160)), ("resnet10t", (128, 224))):
        explainer = Explainer(timm.create_model(name).eval())
        pictures = torch.randn(1, 3, *size).repeat(2, 1, 1, 1)
        pictures[1, :, -size[0] // 4 :, : size[1] // 4] = torch.randn(3, size[0] // 4, size[1] // 4)
        change = (lambda maps: (maps[1] - maps[0]).abs())(explainer(pictures, classes=3).signed)[0]
        row, column = divmod(int(change.argmax()), change.shape[1])
        assert row >= change.shape[0] * 0.6, name
        assert column < change.shape[1] * 0.4, name


# ---- hand-written networks ----


@pytest.mark.parametrize("inplace", [False, True])
def test_sequential_ends_at_the_last_activation(inplace: bool) -> None:
    model = nn.Sequential(*features_of(inplace=inplace), *head()).eval()
    assert find_target(model, (3, 32, 48)) == Target("4", "NCHW", (8, 12), 8)


def test_the_outermost_module_lends_its_name() -> None:
    model = nn.Sequential(nn.Sequential(*features_of()), nn.Identity(), *head()).eval()
    assert find_target(model, (3, 32, 32)).layer == "0"


class ChannelsLast(nn.Module):
    """Works on (B, h, w, C), with as many channels as cells, so that the shape alone does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.GELU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.patches(x).permute(0, 2, 3, 1)).mean((1, 2)))


def test_layout_is_told_by_alignment_where_the_shape_does_not() -> None:
    assert find_target(ChannelsLast().eval(), (3, 32, 32)) == Target("block", "NHWC", (8, 8), 8)


class Tokens(nn.Module):
    """Patch tokens behind `prefix` others, in raster order or in a shuffled one."""

    def __init__(self, prefix: int, order: Tensor | None = None) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.first = nn.Parameter(torch.randn(1, prefix, 8))
        self.order = order
        self.block = nn.Sequential(nn.Linear(8, 8), nn.GELU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        if self.order is not None:
            tokens = tokens[:, self.order]
        return self.head(self.block(torch.cat([self.first.expand(len(x), -1, -1), tokens], dim=1)).mean(1))


@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize(("size", "grid"), [((32, 32), (8, 8)), ((48, 32), (12, 8)), ((28, 64), (7, 16))])
def test_prefix_tokens_are_dropped(prefix: int, size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert find_target(Tokens(prefix).eval(), (3, *size)) == Target("block", "NLC", grid, 8, prefix)


def test_tokens_in_another_order_are_no_map() -> None:
    """Shuffled, transposed or mirrored tokens have the right shape and the wrong places."""
    raster = torch.arange(64).view(8, 8)
    for order in (torch.randperm(64), raster.T.flatten(), raster.flip(0).flatten(), raster.flip(1).flatten()):
        model = Tokens(1, order).eval()
        assert find_target(model, (3, 32, 32)).layer == "patches"
        with pytest.raises(TargetError, match=r"'block' cannot be explained: no grid of the picture.*\(65, 8\)"):
            find_target(model, (3, 32, 32), "block")


class ClassToken(nn.Module):
    """Two blocks of attention, the class read from the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


def test_after_the_last_block_of_a_class_token_network_the_score_depends_on_no_patch() -> None:
    model = ClassToken().eval()
    assert find_target(model, (3, 32, 32)) == Target("blocks.1.norm1", "NLC", (8, 8), 16, 1)
    assert Explainer(model)(torch.randn(1, 3, 32, 32), classes=2).signed.abs().max() > 0
    with pytest.raises(TargetError, match=r"'blocks.1' cannot be explained: the score does not depend on its grid"):
        find_target(model, (3, 32, 32), "blocks.1")


class Twice(nn.Module):
    """One module that runs twice; the second run sees the mirrored picture when asked to."""

    def __init__(self, mirror: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 5)
        self.mirror = mirror

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        x = self.block(x.flip(3) if self.mirror else x)
        return self.head(x.mean((2, 3)))


def test_the_right_run_of_a_module_that_runs_twice() -> None:
    assert find_target(Twice(mirror=False).eval(), (3, 32, 32)) == Target("block", "NCHW", (8, 8), 8, call=1)
    assert find_target(Twice(mirror=True).eval(), (3, 32, 32)) == Target("block", "NCHW", (8, 8), 8, call=0)


def test_a_grid_too_small_to_say_anything_sends_the_search_back() -> None:
    model = timm.create_model("resnet18").eval()
    assert (find_target(model, (3, 224, 224)).layer, find_target(model, (3, 224, 224)).grid) == ("layer4", (7, 7))
    assert (find_target(model, (3, 32, 32)).layer, find_target(model, (3, 32, 32)).grid) == ("layer2", (4, 4))
    assert (find_target(model, (3, 160, 288)).layer, find_target(model, (3, 160, 288)).grid) == ("layer4", (5, 9))


def test_a_grid_that_is_only_enlarged_counts_as_large_as_it_was_before() -> None:
    """VGG's head wants 7x7 cells, of whatever there is: at 64x64 pixels two by two."""
    model = torchvision.models.vgg11().eval()
    for side, target in ((224, ("avgpool", (7, 7))), (64, ("features.19", (4, 4)))):
        found = find_target(model, (3, side, side))
        assert (found.layer, found.grid) == target


def test_a_small_grid_is_taken_where_there_is_no_larger() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU(), *head()).eval()
    assert find_target(model, (3, 24, 24)).grid == (3, 3)


def test_stages_from_the_picture_to_the_score() -> None:
    stages = find_stages(timm.create_model("resnet18").eval(), (3, 64, 64))
    assert [(stage.layer, stage.grid) for stage in stages] == [
        ("act1", (32, 32)),
        ("layer1", (16, 16)),
        ("layer2", (8, 8)),
        ("layer3", (4, 4)),
        ("layer4", (2, 2)),
    ]


def test_stages_are_what_their_names_lead_to() -> None:
    """Where one module pools twice, its name leads to the second time."""

    class Tutorial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.pool, self.conv2 = nn.Conv2d(3, 6, 5), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5)
            self.fc = nn.Linear(16 * 5 * 5, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.pool(self.conv2(self.pool(self.conv1(x).relu())).relu()).flatten(1))

    torch.manual_seed(0)
    model = Tutorial().eval()
    stages = find_stages(model, (3, 32, 32))
    assert [(stage.layer, stage.grid) for stage in stages] == [
        ("conv1", (28, 28)),
        ("conv2", (10, 10)),
        ("pool", (5, 5)),
    ]
    assert [find_target(model, (3, 32, 32), stage.layer) for stage in stages] == stages


def test_a_head_of_zeros_does_not_hide_the_target() -> None:
    model = nn.Sequential(*features_of(), *head()).eval()
    nn.init.zeros_(model[-1].weight)
    assert find_target(model, (3, 32, 32)).layer == "4"


def test_an_in_place_first_layer_may_work_on_its_input() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), *features_of(), *head()).eval()
    assert find_target(model, (3, 32, 32)).layer == "5"


# ---- errors ----


def test_no_spatial_layer_lists_what_was_seen() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 20), nn.ReLU(), nn.Linear(20, 5)).eval()
    with pytest.raises(TargetError, match=r"no output of the network is a grid.*seen, last first: 3 \(5,\), 2 \(20,\)"):
        find_target(model, (3, 16, 16))


def test_unknown_layer_names_close_ones() -> None:
    with pytest.raises(TargetError, match=r"no layer 'layer5'; did you mean .*layer4"):
        find_target(timm.create_model("resnet18").eval(), (3, 64, 64), "layer5")


def test_attention_matrices_are_no_pictures() -> None:
    model = timm.create_model("test_vit").eval()
    for block in model.blocks:
        block.attn.fused_attn = False  # so that the matrix goes through a module
    with pytest.raises(TargetError, match=r"'blocks.2.attn.attn_drop' cannot be explained: no grid of the picture"):
        find_target(model, (3, 160, 160), "blocks.2.attn.attn_drop")


def test_a_score_without_gradient_is_told() -> None:
    class Detached(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    with pytest.raises(TargetError, match="no gradient leads from the score to a map"):
        find_target(Detached(*features_of(), *head()).eval(), (3, 32, 32))


def test_read_refuses_another_shape() -> None:
    target = Target("block", "NLC", (2, 3), 4, prefix=1)
    tokens = torch.arange(2 * 7 * 4.0).view(2, 7, 4)
    assert torch.equal(target.read(tokens)[1, :, 1, 2], tokens[1, 6])
    with pytest.raises(TargetError, match=r"shape \(2, 8, 4\); expected NLC with 4 channels on a grid of 2x3"):
        target.read(torch.zeros(2, 8, 4))


def test_the_search_leaves_the_model_as_it_was() -> None:
    model = timm.create_model("test_resnet").eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    find_stages(model, (3, 64, 64))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


class LastToken(Tokens):
    """The class token behind the patches."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT
        return self.head(self.block(torch.cat([tokens, self.first.expand(len(x), -1, -1)], dim=1)).mean(1))


@pytest.mark.parametrize("suffix", [1, 2])
def test_tokens_behind_the_grid_are_dropped(suffix: int) -> None:
    target = find_target(LastToken(suffix).eval(), (3, 32, 32))
    assert target == Target("block", "NLC", (8, 8), 8, prefix=0, suffix=suffix)
    assert torch.equal(
        target.read(torch.arange(64.0 + suffix)[None, :, None].expand(1, -1, 8))[0, 0, 7, 7], torch.tensor(63.0)
    )


def test_a_class_called_attention_hides_no_feature_map() -> None:
    class AttentionNet(nn.Sequential):
        pass

    assert find_target(nn.Sequential(AttentionNet(*features_of()), *head()).eval(), (3, 32, 32)).layer == "0"


class InTuples(nn.Module):
    """A block that returns (hidden states, something else)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*features_of())

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.body(x), None


def test_a_map_in_a_tuple() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = InTuples(), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(x)[0].mean((2, 3)))

    model, pictures = Net().eval(), torch.randn(2, 3, 32, 32)
    inside, outside = Explainer(model, layer="block.body"), Explainer(model, layer="block")
    assert torch.equal(inside(pictures, classes=1).signed, outside(pictures, classes=1).signed)


class Switching(nn.Module):
    """Runs its body with gradients as `switch` says, whatever was said around it."""

    def __init__(self, switch: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        super().__init__()
        self.body, self.head, self.switch = nn.Sequential(*features_of()), nn.Linear(8, 5), switch

    def forward(self, x: Tensor) -> Tensor:
        with self.switch():
            x = self.body(x)
        return self.head(x.mean((2, 3)))


class SwitchedOff(Switching):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize("layer", [None, "body.1"])
@pytest.mark.parametrize(
    ("network", "passes"),
    [
        (lambda: Switching(torch.no_grad), 2),
        (lambda: Switching(lambda: torch.set_grad_enabled(True)), 2),
        (SwitchedOff, 1),  # the graph begins after the switch
    ],
    ids=["frozen part", "switched on", "switched off"],
)
def test_a_network_that_switches_gradients_itself_is_explained_like_one_that_does_not(
    network: Callable[[], nn.Module], passes: int, layer: str | None
) -> None:
    plain = Switching().eval()
    switching = network().eval()
    switching.load_state_dict(plain.state_dict())
    images, ran = torch.randn(2, 3, 32, 32), []
    expected, explainer = Explainer(plain, layer)(images, "top3"), Explainer(switching, layer, input_size=(3, 32, 32))
    assert find_stages(switching, (3, 32, 32)) == find_stages(plain, (3, 32, 32))
    switching.body.register_forward_hook(lambda *_: ran.append(1))
    for count in (passes, 1):  # once it is known, one is enough
        explanation = explainer(images, "top3")
        assert explanation.target == expected.target
        assert torch.equal(explanation.signed, expected.signed)
        assert len(ran) == count
        ran.clear()
        assert torch.is_grad_enabled()


def test_a_network_that_runs_its_layers_in_inference_mode_is_told() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Sequential(*features_of()), nn.Sequential(*head())

        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode():
                x = self.features(x)
            return self.head(x.clone())

    with pytest.raises(TargetError, match=r"runs its layers in inference_mode\(\)"):
        find_target(Frozen().eval(), (3, 32, 32))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_a_scripted_part_is_passed_over_and_no_hook_stays() -> None:
    features, classifier = nn.Sequential(*features_of()), nn.Sequential(*head())
    expected = find_target(nn.Sequential(features, classifier).eval(), (3, 32, 32))
    partly = nn.Sequential(features, torch.jit.script(classifier)).eval()
    assert find_target(partly, (3, 32, 32)) == expected
    assert not any(module._forward_hooks for module in features.modules())
    wholly = nn.Sequential(torch.jit.script(nn.Sequential(features, classifier))).eval()
    with pytest.raises(TargetError, match="explain the network before it is compiled, scripted or spread"):
        find_target(wholly, (3, 32, 32))


def test_where_new_tensors_are_made_changes_nothing() -> None:
    model = nn.Sequential(*features_of(), *head()).eval()
    expected = find_target(model, (3, 32, 32))
    with torch.device("meta"):
        assert find_target(model, (3, 32, 32)) == expected


def test_hooks_of_the_caller_keep_what_the_graph_is_made_of() -> None:
    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(*features_of()), nn.Linear(16, 5)
            self.body.register_forward_hook(lambda module, inputs, output: setattr(self, "kept", output))

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return self.head(torch.cat([x.mean((2, 3)), self.kept.amax((2, 3))], dim=1))

    model, pictures = Kept().eval(), torch.randn(2, 3, 32, 32)
    signed = Explainer(model, layer="body")(pictures, classes=3).signed[:, 0]
    activations = model.body(pictures).detach().requires_grad_()
    both = torch.cat([activations.mean((2, 3)), activations.amax((2, 3))], dim=1)
    (gradient,) = torch.autograd.grad(model.head(both)[:, 3].sum(), activations)
    expected = (gradient.mean((2, 3))[..., None, None] * activations).sum(1)
    assert torch.allclose(signed, expected.detach(), atol=1e-6)


def test_a_network_without_parameters_is_searched_in_its_own_type() -> None:
    """One that was frozen keeps its weights as buffers; those here are of double precision."""
    model = nn.Sequential(*features_of(), *head()).eval().double()
    expected = find_target(model, (3, 32, 32))
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    assert not list(model.parameters())
    assert find_target(model, (3, 32, 32)) == expected


class Joined(nn.Module):
    """Two 3x3 convolutions a stage, the second of which is a branch; at the end its grid is only there as a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*features_of())
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Sequential(*head())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.branch(x) + x)


class Concatenated(Joined):
    """Two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Sequential(*head(16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([self.branch(x), self.other(x)], 1))


class Pooled(nn.Module):
    """The means of both grids go to the head: the later grid is no branch of the earlier, larger one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.later = nn.Sequential(*features_of()), nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([x.mean((2, 3)), self.later(x).mean((2, 3))], 1))


class Residual(nn.Module):
    """Three branches that its own forward adds up; only what a module is given there has a name."""

    def __init__(self, ending: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Sequential(*features_of())
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(3))
        self.ending, self.head = ending, nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.ending(x) if self.ending else x.mean((2, 3)))


class ByHand(nn.Module):
    """A residual block of convolutions without a module of its own, the later of which is given what the first made."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*features_of())
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) * 2
        return self.head((x + self.second(self.first(x).relu())).relu().mean((2, 3)))


class PreNorm(nn.Module):
    """A layer that normalises what it is given, and whose user adds it to that."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(16), layer

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.layer(x, x, x)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)


class Sums(ClassToken):
    """A class-token network that adds up by itself what attention and the rest return."""

    def __init__(self) -> None:
        super().__init__()
        del self.blocks
        self.attention = nn.ModuleList(PreNorm(nn.MultiheadAttention(16, 2, batch_first=True)) for _ in range(3))
        self.mlp = nn.ModuleList(PreNorm(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))) for _ in "123")

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], dim=1)
        for attend, think in zip(self.attention, self.mlp, strict=True):
            x = attend(x) + x
            x = think(x) + x
        return self.head(x[:, 0])


def pooled() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("network", "layer", "grid"),
    [
        (Joined, "head:input", (8, 8)),
        (Concatenated, "head:input", (8, 8)),
        (Pooled, "later", (4, 4)),
        (lambda: Residual(pooled()), "ending:input", (8, 8)),
        (Residual, "blocks.2:input", (8, 8)),
        (ByHand, "first:input", (8, 8)),
        (Sums, "attention.2:input", (8, 8)),
    ],
    ids=["joined", "concatenated", "pooled", "residual", "residual, no module after it", "by hand", "class token"],
)
def test_a_branch_gives_way_to_the_sum_or_what_it_was_made_of(
    network: Callable[[], nn.Module], layer: str, grid: tuple[int, int]
) -> None:
    model = network().eval()
    target = find_target(model, (3, 32, 32))
    assert (target.layer, target.grid) == (layer, grid)
    assert alignment(model, target, (3, 32, 32)) > WELL_ALIGNED
    assert find_target(model, (3, 32, 32), layer) == target


def test_the_picture_is_no_feature_map_whatever_is_done_to_it_first() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten, self.head = nn.Flatten(), nn.Linear(3 * 16 * 16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.flatten((x - 0.5) / 0.2))

    with pytest.raises(
        TargetError, match=r"no output of the network is a grid.*seen, last first: head \(5,\), flatten"
    ):
        find_target(Flat().eval(), (3, 16, 16))


def test_what_cannot_be_trained_for_it_changes_what_it_needs_is_told() -> None:
    class InPlace(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x += block(x)
            return self.head(x.mean((2, 3)))

    with pytest.raises(ValueError, match=r"changes in place what its own gradient needs .* write x = x \+ f\(x\)"):
        find_target(InPlace().eval(), (3, 32, 32))


def test_of_several_trunks_the_last_is_taken() -> None:
    """Nothing that both start from lies on a grid as small: to step back would be to see less."""

    class Trunks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Sequential(*features_of()), nn.Sequential(*features_of())
            self.head = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.one(x).mean((2, 3)), self.two(x).mean((2, 3))], 1))

    assert find_target(Trunks().eval(), (3, 32, 32)).layer == "two"


class Transformer(nn.Module):
    """A small transformer over 4x6 patches and a class token."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.patches, self.places = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.randn(1, 25, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).mT
        tokens = torch.cat([patches.new_zeros(len(x), 1, 16), patches], 1) + self.places
        if self.batch_first:
            return self.head(self.blocks(tokens)[:, 0])
        return self.head(self.blocks(tokens.transpose(0, 1))[0])


def test_tokens_may_come_before_the_batch() -> None:
    """As in torch's transformers when they are not told otherwise."""
    usual, other = Transformer(batch_first=True).eval(), Transformer(batch_first=False).eval()
    other.load_state_dict(usual.state_dict())
    pictures = torch.randn(2, 3, 32, 48)
    expected, found = (Explainer(model)(pictures, "top2") for model in (usual, other))
    assert (expected.target.layout, found.target.layout) == ("NLC", "LNC")
    assert found.target == replace(expected.target, layout="LNC")
    assert (found.target.layer, found.target.grid, found.target.prefix) == ("blocks.layers.2.norm1", (4, 6), 1)
    torch.testing.assert_close(found.signed, expected.signed)


def test_a_network_that_is_called_attention_may_stand_behind_another_layer() -> None:
    class AttentionNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Sequential(*features_of()), nn.Sequential(*head())

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x))

    class Normalise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 0.5) / 0.25

    model = nn.Sequential(Normalise(), AttentionNet()).eval()
    assert find_target(model, (3, 32, 32)).layer == "1.features"


def test_a_grid_may_be_squeezed_on_one_side() -> None:
    """As by the strides of networks that read lines of text."""
    layers = [nn.Conv2d(3 if i == 0 else 8, 8, 3, (2, 1 + (i < 2)), 1) for i in range(4)]
    target = find_target(nn.Sequential(*layers, *head()).eval(), (3, 128, 128))
    assert (target.layer, target.grid) == ("3", (8, 32))


def test_compiling_a_network_in_place_changes_nothing() -> None:
    model = nn.Sequential(*features_of(), *head()).eval()
    pictures = torch.randn(2, 3, 32, 32)
    expected = Explainer(model)(pictures, 1)
    model.compile(backend="eager")
    found = Explainer(model)(pictures, 1)
    assert found.target == expected.target
    assert torch.equal(found.signed, expected.signed)


def test_what_a_network_keeps_for_later_holds_no_graph() -> None:
    """LeViT, among others, keeps a tensor on its first pass in evaluation mode: it can be copied afterwards."""
    model = timm.create_model("levit_128s").eval()
    Explainer(model, input_size=(3, 224, 224))
    kept = [tensor for module in model.modules() for tensor in getattr(module, "attention_bias_cache", {}).values()]
    assert kept
    assert not any(tensor.requires_grad for tensor in kept)


def test_a_network_for_one_picture_at_a_time_is_told() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(0), nn.Unflatten(0, (1, -1)), nn.Linear(288, 2))
    with pytest.raises(TargetError, match=r"^the network fails on a batch of shape \(5, 3, 8, 8\) \(.*any size"):
        Explainer(model.eval())(torch.zeros(1, 3, 8, 8))


class Weighed(nn.Module):
    """Cells, or patches seen one by one, are summed with weights that a branch finds for them."""

    def __init__(self, total: Callable[[Tensor, Tensor], Tensor], patches: bool = False) -> None:
        super().__init__()
        self.body, self.gate = nn.Sequential(*features_of()), nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1))
        self.head, self.total, self.patches = nn.Linear(8, 5), total, patches

    def forward(self, x: Tensor) -> Tensor:
        if self.patches:
            cut = x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
            cells = self.body(cut).mean((2, 3)).unflatten(0, (len(x), -1))
        else:
            cells = self.body(x).flatten(2).mT
        return self.head(self.total(self.gate(cells).softmax(1), cells))


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize(
    "total",
    [
        lambda weights, cells: (weights * cells).sum(1),
        lambda weights, cells: torch.bmm(weights.mT, cells)[:, 0],
        lambda weights, cells: (cells.mT @ weights)[..., 0],
        lambda weights, cells: torch.einsum("bn,bnc->bc", weights[..., 0], cells),
    ],
    ids=["product", "bmm", "matmul", "einsum"],
)
def test_what_weighs_the_cells_is_a_branch(total: Callable[[Tensor, Tensor], Tensor], patches: bool) -> None:
    """The mean gradient of weights that sum to 1 is none: their map is rounding noise."""
    model = Weighed(total, patches).eval()
    target = find_target(model, (3, 32, 32))
    assert (target.layer, target.grid) == (("gate:input", (4, 4)) if patches else ("body", (8, 8)))
    assert alignment(model, target, (3, 32, 32)) > WELL_ALIGNED


def test_a_convolution_that_weighs_the_cells_is_a_branch() -> None:
    class WeighedByConvolution(Weighed):
        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return self.head((x.flatten(2) * self.gate(x).flatten(2).softmax(2)).sum(2))

    model = WeighedByConvolution(torch.mul).eval()
    model.gate = nn.Conv2d(8, 1, 1)
    assert find_target(model.eval(), (3, 32, 32)).layer == "body"


def test_attention_may_go_by_its_initials() -> None:
    class WindowMSA(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 48)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, 2)
            return (q @ k.mT / 4).softmax(2) @ v

    model = Sums()
    model.attention = nn.ModuleList(nn.Identity() for _ in range(3))
    model.mlp = nn.ModuleList(PreNorm(WindowMSA()) for _ in range(3))
    assert find_target(model.eval(), (3, 32, 32)).layer == "mlp.2.norm"


def test_what_a_hook_of_the_caller_keeps_of_a_part_is_what_the_graph_is_made_of() -> None:
    """The part that has the hook is named, since what is around it returns the same tensor, but later."""

    class Tapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Sequential(*features_of())), nn.Linear(16, 5)
            self.body[0].register_forward_hook(lambda module, inputs, output: setattr(self, "kept", output))

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return self.head(torch.cat([x.mean((2, 3)), self.kept.amax((2, 3))], dim=1))

    model, pictures = Tapped().eval(), torch.randn(2, 3, 32, 32)
    explanation = Explainer(model)(pictures, classes=3)
    assert explanation.target.layer == "body.0"
    activations = model.body(pictures).detach().requires_grad_()
    both = torch.cat([activations.mean((2, 3)), activations.amax((2, 3))], dim=1)
    (gradient,) = torch.autograd.grad(model.head(both)[:, 3].sum(), activations)
    expected = (gradient.mean((2, 3))[..., None, None] * activations).sum(1)
    torch.testing.assert_close(explanation.signed[:, 0], expected.detach())


def test_a_network_without_weights_is_told() -> None:
    model = nn.Sequential(*features_of(), *head()).eval().to("meta")
    with pytest.raises(TargetError, match="the network has no weights, it is on the meta device; load them first"):
        find_target(model, (3, 32, 32))


def test_a_head_that_hands_no_gradient_back_is_told() -> None:
    """As those of quantised networks, whose scores still seem to have one."""

    class Integers(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.round()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> None:
            return None

    class Quantised(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return Integers.apply(super().forward(x))

    with pytest.raises(TargetError, match="no gradient leads from the score to a map: the network is quantised, runs"):
        find_target(Quantised(*features_of(), *head()).eval(), (3, 32, 32))


def test_a_branch_of_a_frozen_part_is_a_branch() -> None:
    """No gradient leads to the cells, but one to the weights that are found for them."""

    class Frozen(Weighed):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                cells = self.body(x).flatten(2).mT
            return self.head(self.total(self.gate(cells).softmax(1), cells))

    def total(weights: Tensor, cells: Tensor) -> Tensor:
        return (weights * cells).sum(1)

    frozen, plain = Frozen(total).eval(), Weighed(total).eval()
    frozen.load_state_dict(plain.state_dict())
    pictures = torch.randn(2, 3, 32, 32)
    found, expected = Explainer(frozen)(pictures), Explainer(plain)(pictures)
    assert found.target == expected.target
    torch.testing.assert_close(found.signed, expected.signed)


def test_a_layer_that_the_first_pass_makes_is_found() -> None:
    class MadeLater(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(*features_of()), None

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            if self.head is None:
                self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(x.shape[1], 5)).eval()
            return self.head(x)

    assert find_target(MadeLater().eval(), (3, 32, 32)).layer == "body"


def test_the_picture_is_not_taken_for_what_two_layers_of_it_add_up_to() -> None:
    """At the picture's own size all is a branch of the picture, and the last layer stays."""

    class Edges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.across, self.down = nn.Conv2d(3, 8, (1, 3), padding=(0, 1)), nn.Conv2d(3, 8, (3, 1), padding=(1, 0))
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x.repeat(1, 3, 1, 1)[:, :8] + self.across(x) + self.down(x)).relu().mean((2, 3)))

    assert find_target(Edges().eval(), (3, 16, 16)).layer == "down"
