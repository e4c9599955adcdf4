"""The CIFAR-10 network: a small residual network whose last feature map is 8x8."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)  # of the 50,000 training images, per channel, in [0, 1]
STD = (0.2470, 0.2435, 0.2616)

PATCHES = 16  # components that the whitening layer keeps
WIDTHS = (128, 480, 480)  # channels of the three stages
FLOOR = 0.03  # added to their variances, so that edges of cut-outs do not drown everything else


class MirroredConv(nn.Conv2d):
    """3x3 convolution that treats left and right alike.

    Its maps come in pairs: channel i + C/2 shows what channel i would show of the mirrored picture, mirrored back.
    One set of filters makes both, so a pair costs the parameters of one channel (a group convolution, Cohen & Welling
    2016, over the group of the mirror).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs // 2, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        # The picture is mirrored, not the filters: for one picture there are far fewer numbers to move.
        mirrored = x.flip(3).roll(self.in_channels // 2, 1)
        return torch.cat([super().forward(x), super().forward(mirrored).flip(3)], 1)


class MirroredNorm(nn.BatchNorm2d):
    """Batch normalisation without a scale in which the two channels of a pair share mean, variance and bias."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels // 2, momentum=0.4)
        self.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same."""
        count, channels, height, width = x.shape
        # Twins side by side, as one map of twice the width: no copy where the channels come last in memory.
        pairs = x.permute(0, 2, 3, 1).reshape(count, height, 2 * width, channels // 2)
        normed = super().forward(pairs.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return normed.reshape(count, height, width, channels).permute(0, 3, 1, 2)


def conv_norm_act(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
    """3x3 convolution, an optional 2x2 max pooling, batch normalisation, GELU; all blind to left and right."""
    layers: list[nn.Module] = [MirroredConv(inputs, outputs)]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, MirroredNorm(outputs), nn.GELU())


class Whitening(nn.Module):
    """Uncorrelated views of 3x3 patches, all of one variance, and the views of the mirrored patches; then GELU.

    (B, 3, H, W) -> (B, 32, H, W), paired as MirroredConv wants them. Fitted once, before training (Page 2019, "How to
    train your ResNet"); only the bias is trained.
    """

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.empty(2 * PATCHES, 3, 3, 3), requires_grad=False)
        nn.init.dirac_(self.filters, groups=8)  # until it is fitted, the colours themselves
        self.bias = nn.Parameter(torch.zeros(PATCHES))

    @torch.no_grad()
    def fit(self, pictures: Tensor) -> None:
        """Take the views from (N, 3, H, W) normalised pictures: their principal components, rotated at random.

        The 16 strongest of 27 are kept: the others hold little but what lossy compression left. Each is symmetric or
        antisymmetric, its own mirror image but for the sign; it takes the rotation to make two views of the pair.
        """
        both = torch.cat([pictures, pictures.flip(3)])
        patches = F.unfold(both, 3).transpose(1, 2).flatten(0, 1)
        variances, components = torch.linalg.eigh(patches.T @ patches / len(patches))
        strongest = (components / (variances + FLOOR).sqrt()).T[-PATCHES:]
        rotation = nn.init.orthogonal_(torch.empty(PATCHES, PATCHES)).to(strongest.device)
        views = (rotation @ strongest).view(PATCHES, 3, 3, 3)
        self.filters.copy_(torch.cat([views, views.flip(3)]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 32, H, W)."""
        return F.gelu(F.conv2d(x, self.filters, self.bias.repeat(2), padding=1))


class Stage(nn.Module):
    """Widen (and maybe halve the grid), then add a residual of two convolutions."""

    def __init__(self, inputs: int, outputs: int, pool: bool) -> None:
        super().__init__()
        self.widen = conv_norm_act(inputs, outputs, pool)
        self.residual = nn.Sequential(conv_norm_act(outputs, outputs), conv_norm_act(outputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), with half of H and W when the stage pools."""
        x = self.widen(x)
        return x + self.residual(x)


class Cifar10Net(nn.Module):
    """(B, 3, 32, 32) normalised pictures -> (B, 10) logits; 5.6 million parameters.

    The grid shrinks 32 -> 16 -> 8 and then stays: the last stage works at 8x8, so a map on a
    32x32 picture has 64 cells to say something with (a usual ImageNet design would leave one).
    A picture and its mirror image get the same logits, and mirrored maps, by construction.
    Global average pooling and one linear layer follow, which makes Grad-CAM on the last stage
    exact: the weights alpha_k are the classifier's own weights, of which a pair of channels shares one, divided by
    twice the number of cells.
    """

    def __init__(self, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        self.whitening = Whitening()
        self.stage1 = Stage(2 * PATCHES, widths[0], pool=True)
        self.stage2 = Stage(widths[0], widths[1], pool=True)
        self.stage3 = Stage(widths[1], widths[2], pool=False)
        self.head = nn.Linear(widths[2] // 2, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) as `normalise` returns them -> (B, 10) logits, in the order of CLASSES."""
        x = self.stage3(self.stage2(self.stage1(self.whitening(x))))
        one, twin = x.mean(dim=(2, 3)).chunk(2, dim=1)
        return self.head((one + twin) / 2)


def network_for(tensors: dict[str, Tensor]) -> Cifar10Net:
    """A new network as wide as the one that these tensors are of; as wide as today's where they have no such names."""
    first = (tensors.get(f"stage{stage}.widen.0.weight") for stage in (1, 2, 3))
    one, two, three = (today if bank is None else 2 * len(bank) for bank, today in zip(first, WIDTHS, strict=True))
    return Cifar10Net((one, two, three))


@torch.no_grad()
def start_as(network: Cifar10Net, earlier: Cifar10Net) -> None:
    """Let `network` begin with the weights, and so the answers, of one that is as wide or narrower.

    The filters of the earlier network come first, and read nothing of the others, which stay as they are; the head
    reads nothing of those either (a wider net of the same function, Chen et al. 2016). Raises ModelError when it was
    wider.
    """
    for own, given in zip(network.state_dict().values(), earlier.state_dict().values(), strict=True):
        if any(after < before for after, before in zip(own.shape, given.shape, strict=True)):
            raise ModelError("The network cannot start as its first teacher, which is wider; give another one first.")
        if own.shape == given.shape:
            own.copy_(given)
        elif own.ndim == 4:  # the channels that a filter reads come in pairs: all first ones, then all second ones
            read, known = (filters.unflatten(1, (2, -1)) for filters in (own, given))
            read[: len(known)] = 0
            read[: len(known), :, : known.shape[2]] = known
        elif own.ndim == 2:
            own.zero_()[:, : given.shape[1]] = given
        else:
            own[: len(given)] = given


def normalise(pictures: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 -> float32 with zero mean and unit deviation over the training set."""
    mean, std = (torch.tensor(v, device=pictures.device)[:, None, None] for v in (MEAN, STD))
    return (pictures.float() / 255 - mean) / std
