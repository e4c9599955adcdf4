"""The CIFAR-10 network: a small residual network whose last feature map is 8x8."""

import torch
from torch import Tensor, nn

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)  # of the 50,000 training images, per channel, in [0, 1]
STD = (0.2470, 0.2435, 0.2616)


def conv_norm_act(inputs: int, outputs: int, pool: bool = False) -> nn.Sequential:
    """3x3 convolution, an optional 2x2 max pooling, batch normalisation, GELU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs), nn.GELU())


class Stage(nn.Module):
    """Widen (and maybe halve the grid), then add a residual of the same width."""

    def __init__(self, inputs: int, outputs: int, pool: bool) -> None:
        super().__init__()
        self.widen = conv_norm_act(inputs, outputs, pool)
        self.residual = conv_norm_act(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W), with half of H and W when the stage pools."""
        x = self.widen(x)
        return x + self.residual(x)


class Cifar10Net(nn.Module):
    """(B, 3, 32, 32) normalised pictures -> (B, 10) logits; 3.1 million parameters.

    The grid shrinks 32 -> 16 -> 8 and then stays: the last stage works at 8x8, so a map on a
    32x32 picture has 64 cells to say something with (a usual ImageNet design would leave one).
    Global average pooling and one linear layer follow, which makes Grad-CAM on the last stage
    exact: the weights alpha_k are the classifier's own weights divided by the number of cells.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_act(3, 32)
        self.stage1 = Stage(32, 64, pool=True)
        self.stage2 = Stage(64, 256, pool=True)
        self.stage3 = Stage(256, 384, pool=False)
        self.head = nn.Linear(384, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) as `normalise` returns them -> (B, 10) logits, in the order of CLASSES."""
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return self.head(x.mean(dim=(2, 3)))


def normalise(pictures: Tensor) -> Tensor:
    """(..., 3, H, W) uint8 -> float32 with zero mean and unit deviation over the training set."""
    mean, std = (torch.tensor(v, device=pictures.device)[:, None, None] for v in (MEAN, STD))
    return (pictures.float() / 255 - mean) / std
