"""The network: where its evidence is read, and what it is fed."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gradcam import Explainer
from gradcam.cifar10.network import (
    FLOOR,
    MEAN,
    STD,
    Cifar10Net,
    MirroredConv,
    MirroredNorm,
    Whitening,
    normalise,
    start_as,
)


@pytest.fixture(scope="module")
def network() -> Cifar10Net:
    torch.manual_seed(0)
    return Cifar10Net().eval()


def test_the_evidence_is_read_from_the_last_map_of_8x8(network: Cifar10Net) -> None:
    target = Explainer(network, input_size=(3, 32, 32)).target
    assert (target.layer, target.layout, target.grid, target.channels) == ("stage3", "NCHW", (8, 8), 480)


def test_gradcam_is_the_classifiers_own_sum(network: Cifar10Net) -> None:
    """After global pooling and one linear layer the signed map adds up to the logit, but for the bias."""
    pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    explanation = Explainer(network)(pictures, classes=torch.arange(10).expand(4, 10))
    sums = explanation.signed.sum((2, 3)) + network.head.bias.detach()
    torch.testing.assert_close(sums, explanation.logits, rtol=0, atol=1e-5)


def test_the_mirrored_picture_gets_the_same_logits_and_mirrored_maps() -> None:
    torch.manual_seed(4)
    network, pictures = Cifar10Net(), torch.randn(6, 3, 32, 32)
    network.whitening.fit(pictures)
    network(pictures)  # in training mode, so that the running statistics are no longer those of a symmetric start
    explainer = Explainer(network.eval())
    straight, mirrored = (explainer(x, classes=torch.arange(10).expand(6, 10)) for x in (pictures, pictures.flip(3)))
    assert straight.signed.abs().max() > 1e-3
    torch.testing.assert_close(mirrored.logits, straight.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(mirrored.signed, straight.signed.flip(3), rtol=0, atol=1e-7)


def test_twin_channels_show_what_the_mirrored_picture_would() -> None:
    """Convolution by its definition, one filter after the other: on the maps, and on the maps in the mirror."""
    torch.manual_seed(5)
    layer, x = MirroredConv(6, 4), torch.randn(2, 6, 5, 7)
    mirrored = torch.cat([x[:, 3:], x[:, :3]], dim=1).flip(3)
    found = layer(x).detach()
    for channel, filters in enumerate(layer.weight.detach()):
        for maps, result in ((x, found[:, channel]), (mirrored, found[:, channel + 2].flip(2))):
            padded = np.pad(maps.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
            expected = np.zeros((2, 5, 7), np.float32)
            for b, row, column in np.ndindex(expected.shape):
                expected[b, row, column] = (padded[b, :, row : row + 3, column : column + 3] * filters.numpy()).sum()
            np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_pair_of_channels_is_normalised_as_one(memory_format: torch.memory_format) -> None:
    torch.manual_seed(6)
    layer = MirroredNorm(6)
    torch.nn.init.normal_(layer.bias)
    x = (torch.randn(4, 6, 5, 7) * torch.arange(1, 7)[:, None, None] + 3).to(memory_format=memory_format)
    found = layer(x).detach()
    for channel in range(3):
        pair = x[:, [channel, channel + 3]].double()
        expected = (pair - pair.mean()) / (pair.var(correction=0) + layer.eps).sqrt() + layer.bias[channel].item()
        torch.testing.assert_close(found[:, [channel, channel + 3]].double(), expected, rtol=0, atol=1e-5)


def test_a_wider_network_starts_with_the_answers_of_a_narrower_one() -> None:
    torch.manual_seed(7)
    narrow, wide, pictures = Cifar10Net((8, 16, 24)), Cifar10Net((12, 16, 40)), torch.randn(6, 3, 32, 32)
    narrow.whitening.fit(pictures)
    narrow.head.weight.data *= 100
    narrow(pictures)  # in training mode, so that its running statistics are no longer those of any new network
    untaught = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    start_as(wide, narrow)
    for mode in (False, True):
        expected = narrow.train(mode)(pictures)
        assert expected.std(0).min() > 0.03
        torch.testing.assert_close(wide.train(mode)(pictures), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(wide.stage3.widen[0].weight[12:], untaught["stage3.widen.0.weight"][12:])
    assert torch.equal(wide.stage1.widen[0].weight[4:], untaught["stage1.widen.0.weight"][4:])


def test_whitening_gives_uncorrelated_views_of_one_variance_and_those_of_the_mirror() -> None:
    """Against numpy's decomposition of patches cut out one by one, of the pictures and their mirror images."""
    generator = torch.Generator().manual_seed(3)
    pictures = F.avg_pool2d(torch.randn(20, 3, 14, 14, generator=generator), 3, stride=1)  # neighbours are alike
    whitening = Whitening()
    whitening.fit(pictures)
    assert torch.equal(whitening.filters[16:], whitening.filters[:16].flip(3))
    both = torch.cat([pictures, pictures.flip(3)])
    cut = [p[:, y : y + 3, x : x + 3].flatten() for p in both for y in range(10) for x in range(10)]
    patches = torch.stack(cut).double().numpy()
    variances = np.linalg.eigvalsh(patches.T @ patches / len(patches))[-16:]
    views = patches @ whitening.filters[:16].flatten(1).double().numpy().T
    found = np.linalg.eigvalsh(views.T @ views / len(patches))
    np.testing.assert_allclose(found, np.sort(variances / (variances + FLOOR)), atol=1e-4)
    responses = torch.from_numpy(views).float().view(40, 10, 10, 16)[:20, 1:-1, 1:-1].permute(0, 3, 1, 2)
    torch.testing.assert_close(whitening(pictures)[:, :16, 2:-2, 2:-2], F.gelu(responses), rtol=0, atol=1e-4)


def test_normalise_follows_the_definition() -> None:
    picture = torch.randint(0, 256, (3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    expected = [[[(v / 255 - MEAN[c]) / STD[c] for v in row] for row in picture[c].tolist()] for c in range(3)]
    torch.testing.assert_close(normalise(picture), torch.tensor(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(normalise(torch.stack([picture, picture]))[1], normalise(picture), rtol=0, atol=0)
