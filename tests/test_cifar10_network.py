"""The network: where its evidence is read, and what it is fed."""

import pytest
import torch

from gradcam import Explainer
from gradcam.cifar10.network import MEAN, STD, Cifar10Net, normalise


@pytest.fixture(scope="module")
def network() -> Cifar10Net:
    torch.manual_seed(0)
    return Cifar10Net().eval()


def test_the_evidence_is_read_from_the_last_map_of_8x8(network: Cifar10Net) -> None:
    target = Explainer(network, input_size=(3, 32, 32)).target
    assert (target.layer, target.layout, target.grid, target.channels) == ("stage3", "NCHW", (8, 8), 384)


def test_gradcam_is_the_classifiers_own_sum(network: Cifar10Net) -> None:
    """After global pooling and one linear layer the signed map adds up to the logit, but for the bias."""
    pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    explanation = Explainer(network)(pictures, classes=torch.arange(10).expand(4, 10))
    sums = explanation.signed.sum((2, 3)) + network.head.bias.detach()
    torch.testing.assert_close(sums, explanation.logits, rtol=0, atol=1e-5)


def test_normalise_follows_the_definition() -> None:
    picture = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    expected = [[[(v / 255 - MEAN[c]) / STD[c] for v in row] for row in picture[c].tolist()] for c in range(3)]
    torch.testing.assert_close(normalise(picture), torch.tensor(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(normalise(torch.stack([picture, picture]))[1], normalise(picture), rtol=0, atol=0)
