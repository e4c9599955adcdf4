"""The CIFAR-10 network: a small residual network whose last feature map is 8x8."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)  # of the 50,000 training images, per channel, in [0, 1]
STD = (0.2470, 0.2435, 0.2616)

PATCHES = 16  # components that the whitening layer keeps
FLOOR = 0.03  # added to their variances, so that edges of cut-outs do not drown everything else


def conv_norm_act(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
    """3x3 convolution, an optional 2x2 max pooling, batch normalisation without a scale, GELU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
    if pool:
        layers.append(nn.MaxPool2d(2))
    norm = nn.BatchNorm2d(outputs, momentum=0.4)
    norm.weight.requires_grad_(False)
    return nn.Sequential(*layers, norm, nn.GELU())


class Whitening(nn.Sequential):
    """3x3 patches as their principal components, of one variance, and the negatives of these, then GELU.

    (B, 3, H, W) -> (B, 32, H, W). Fitted once, before training (Page 2019, "How to train your ResNet"); only the
    bias is trained.
    """

    def __init__(self) -> None:
        convolution = nn.Conv2d(3, 2 * PATCHES, 3, padding=1)
        convolution.weight.requires_grad_(False)
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        super().__init__(convolution, nn.GELU())

    @torch.no_grad()
    def fit(self, pictures: Tensor) -> None:
        """Take the components from (N, 3, H, W) normalised pictures.

        The 16 strongest of 27 are kept: the others hold little but what lossy compression left.
        """
        patches = F.unfold(pictures, 3).transpose(1, 2).flatten(0, 1)
        variances, components = torch.linalg.eigh(patches.T @ patches / len(patches))
        strongest = (components / (variances + FLOOR).sqrt()).T[-PATCHES:].view(PATCHES, 3, 3, 3)
        convolution = self[0]
        assert isinstance(convolution, nn.Conv2d)
        convolution.weight.copy_(torch.cat([strongest, -strongest]))


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
    """(B, 3, 32, 32) normalised pictures -> (B, 10) logits; 3.2 million parameters.

    The grid shrinks 32 -> 16 -> 8 and then stays: the last stage works at 8x8, so a map on a
    32x32 picture has 64 cells to say something with (a usual ImageNet design would leave one).
    Global average pooling and one linear layer follow, which makes Grad-CAM on the last stage
    exact: the weights alpha_k are the classifier's own weights divided by the number of cells.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whitening = Whitening()
        self.stage1 = Stage(2 * PATCHES, 64, pool=True)
        self.stage2 = Stage(64, 256, pool=True)
        self.stage3 = Stage(256, 256, pool=False)
        self.head = nn.Linear(256, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) as `normalise` returns them -> (B, 10) logits, in the order of CLASSES."""
        x = self.stage3(self.stage2(self.stage1(self.whitening(x))))
        return self.head(x.mean(dim=(2, 3)))


def normalise(pictures: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 -> float32 with zero mean and unit deviation over the training set."""
    mean, std = (torch.tensor(v, device=pictures.device)[:, None, None] for v in (MEAN, STD))
    return (pictures.float() / 255 - mean) / std
