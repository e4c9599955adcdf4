"""The network: where its evidence is read, and what it is fed."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gradcam import Explainer
from gradcam.cifar10.network import FLOOR, MEAN, STD, Cifar10Net, Whitening, normalise


@pytest.fixture(scope="module")
def network() -> Cifar10Net:
    torch.manual_seed(0)
    return Cifar10Net().eval()


def test_the_evidence_is_read_from_the_last_map_of_8x8(network: Cifar10Net) -> None:
    target = Explainer(network, input_size=(3, 32, 32)).target
    assert (target.layer, target.layout, target.grid, target.channels) == ("stage3", "NCHW", (8, 8), 256)


def test_gradcam_is_the_classifiers_own_sum(network: Cifar10Net) -> None:
    """After global pooling and one linear layer the signed map adds up to the logit, but for the bias."""
    pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    explanation = Explainer(network)(pictures, classes=torch.arange(10).expand(4, 10))
    sums = explanation.signed.sum((2, 3)) + network.head.bias.detach()
    torch.testing.assert_close(sums, explanation.logits, rtol=0, atol=1e-5)


def test_whitening_gives_the_strongest_components_of_patches_one_variance() -> None:
    """Against numpy's decomposition of patches cut out one by one."""
    generator = torch.Generator().manual_seed(3)
    pictures = F.avg_pool2d(torch.randn(20, 3, 14, 14, generator=generator), 3, stride=1)  # neighbours are alike
    whitening = Whitening()
    whitening.fit(pictures)
    with torch.no_grad():
        responses = whitening[0](pictures)[:, :, 1:-1, 1:-1]
    assert torch.equal(responses[:, :16], -responses[:, 16:])
    cut = [p[:, y : y + 3, x : x + 3].flatten() for p in pictures for y in range(10) for x in range(10)]
    patches = torch.stack(cut).double().numpy()
    variances = np.linalg.eigvalsh(patches.T @ patches / len(patches))[-16:]
    found = responses[:, :16].transpose(0, 1).flatten(1).double().numpy()
    np.testing.assert_allclose(found @ found.T / len(patches), np.diag(variances / (variances + FLOOR)), atol=1e-4)


def test_normalise_follows_the_definition() -> None:
    picture = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    expected = [[[(v / 255 - MEAN[c]) / STD[c] for v in row] for row in picture[c].tolist()] for c in range(3)]
    torch.testing.assert_close(normalise(picture), torch.tensor(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(normalise(torch.stack([picture, picture]))[1], normalise(picture), rtol=0, atol=0)
