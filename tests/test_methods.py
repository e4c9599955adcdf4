"""methods.py against slow oracles: each written from its paper's equations, channel by channel and cell by cell."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from gradcam.methods import METHODS

Array = np.ndarray
SEEDS = range(4)


def slow_gradcam(a: Array, g: Array) -> Array:
    """Eq. 1: alpha_k = 1/Z sum_ij dy/dA_ij^k; eq. 2, before its ReLU: sum_k alpha_k A^k."""
    channels, h, w = a.shape
    signed = np.zeros((h, w))
    for k in range(channels):
        alpha = sum(g[k, i, j] for i in range(h) for j in range(w)) / (h * w)
        signed += alpha * a[k]
    return signed


def slow_gradcam_plus_plus(a: Array, g: Array) -> Array:
    """Eq. 19 with Y = exp(y): d2Y = Y g^2 and d3Y = Y g^3; eq. 10: w_k = sum_ij alpha_ij ReLU(Y g). Y = 1."""
    channels, h, w = a.shape
    signed = np.zeros((h, w))
    for k in range(channels):
        weight = 0.0
        for i, j in np.ndindex(h, w):
            numerator = g[k, i, j] ** 2
            denominator = 2 * g[k, i, j] ** 2 + a[k].sum() * g[k, i, j] ** 3
            alpha = numerator / denominator if denominator else 0.0
            weight += alpha * max(g[k, i, j], 0.0)
        signed += weight * a[k]
    return signed


def slow_xgradcam(a: Array, g: Array) -> Array:
    """Eq. 8: w_k = sum_ij (A_ij / sum_ij A_ij) dy/dA_ij."""
    channels, h, w = a.shape
    signed = np.zeros((h, w))
    for k in range(channels):
        total = a[k].sum()
        weight = sum(a[k, i, j] / total * g[k, i, j] for i in range(h) for j in range(w)) if total else 0.0
        signed += weight * a[k]
    return signed


def slow_hirescam(a: Array, g: Array) -> Array:
    """Eq. 4: the sum over channels of gradient times activation, cell by cell."""
    signed = np.zeros(a.shape[1:])
    for k, i, j in np.ndindex(a.shape):
        signed[i, j] += g[k, i, j] * a[k, i, j]
    return signed


def slow_layercam(a: Array, g: Array) -> Array:
    """Eq. 6: each cell's weight is ReLU of its gradient; eq. 7: activation times weight; summed over channels."""
    signed = np.zeros(a.shape[1:])
    for k, i, j in np.ndindex(a.shape):
        signed[i, j] += max(g[k, i, j], 0.0) * a[k, i, j]
    return signed


def slow_eigencam(a: Array, g: Array) -> Array:
    """Eq. 2: cells x channels, O = U S V^T; O v_1, with the sign that goes with the sum over channels."""
    channels, h, w = a.shape
    cells = np.array([[a[k, i, j] for k in range(channels)] for i in range(h) for j in range(w)])
    projection = cells @ np.linalg.svd(cells)[2][0]
    if projection @ cells.sum(axis=1) < 0:
        projection = -projection
    return projection.reshape(h, w)


def slow_eigengradcam(a: Array, g: Array) -> Array:
    return slow_eigencam(a * g, g)


def slow_counterfactual(a: Array, g: Array) -> Array:
    """Section "counterfactual explanations": alpha_k = 1/Z sum_ij -dy/dA_ij^k."""
    return slow_gradcam(a, -g)


ORACLES: dict[str, Callable[[Array, Array], Array]] = {
    "gradcam": slow_gradcam,
    "gradcam++": slow_gradcam_plus_plus,
    "xgradcam": slow_xgradcam,
    "hirescam": slow_hirescam,
    "layercam": slow_layercam,
    "eigencam": slow_eigencam,
    "eigengradcam": slow_eigengradcam,
    "counterfactual": slow_counterfactual,
}

# Worked out with pencil and paper for the two channels below: (activations, gradients, signed map by method).
ACTIVATIONS = [[[1, 3], [0, 0]], [[0, 2], [2, 0]]]
GRADIENTS = [[[1, 1], [-1, 3]], [[-2, 0], [0.5, -0.5]]]
# Means 1 and -0.5; sums 4 and 4; eigen: the product's channels share no cell, the larger one is [[1, 3], [0, 0]].
BY_HAND = {
    "gradcam": [[1, 2], [-1, 0]],
    "counterfactual": [[-1, -2], [1, 0]],
    # Weights 1/(2+4) + 1/(2+4) + 3/(2+12) and 0.5/(2+2).
    "gradcam++": [[23 / 42, 23 / 14 + 1 / 4], [1 / 4, 0]],
    # Weights (1*1 + 3*1)/4 and (2*0 + 2*0.5)/4.
    "xgradcam": [[1, 3.5], [0.5, 0]],
    "hirescam": [[1, 3], [1, 0]],
    "layercam": [[1, 3], [1, 0]],
    "eigengradcam": [[1, 3], [0, 0]],
    # A^T A = [[10, 6], [6, 8]]: its largest eigenvalue is 9 + sqrt(37), with the vector (6, sqrt(37) - 1).
    "eigencam": [
        [6 / np.hypot(6, 37**0.5 - 1), (18 + 2 * (37**0.5 - 1)) / np.hypot(6, 37**0.5 - 1)],
        [2 * (37**0.5 - 1) / np.hypot(6, 37**0.5 - 1), 0],
    ],
}


def run(method: str, activations: Array, gradients: Array) -> Array:
    """In double precision: Grad-CAM++ of signed activations divides by numbers near zero."""
    return METHODS[method](torch.from_numpy(activations), torch.from_numpy(gradients)).numpy()


def random_pair(seed: int, positive: bool, shape: tuple[int, ...] = (6, 5, 4)) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    activations = random.normal(size=shape)
    return np.abs(activations) if positive else activations, random.normal(size=shape)


def assert_close(signed: Array, expected: Array) -> None:
    np.testing.assert_allclose(signed, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_every_method_has_an_oracle_and_an_example():
    assert METHODS.keys() == ORACLES.keys() == BY_HAND.keys()


@pytest.mark.parametrize("method", METHODS)
def test_example_by_hand(method):
    activations, gradients = np.array(ACTIVATIONS, float), np.array(GRADIENTS, float)
    np.testing.assert_allclose(run(method, activations, gradients), BY_HAND[method], atol=1e-12)
    np.testing.assert_allclose(ORACLES[method](activations, gradients), BY_HAND[method], atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("positive", [True, False], ids=["positive", "signed"])
@pytest.mark.parametrize("method", METHODS)
def test_random_activations(method, positive, seed):
    activations, gradients = random_pair(seed, positive)
    assert_close(run(method, activations, gradients), ORACLES[method](activations, gradients))


@pytest.mark.parametrize("shape", [(1, 3, 3), (3, 1, 1), (2, 1, 7), (40, 2, 3)])
@pytest.mark.parametrize("method", METHODS)
def test_odd_shapes(method, shape):
    activations, gradients = random_pair(7, True, shape)
    assert_close(run(method, activations, gradients), ORACLES[method](activations, gradients))


@pytest.mark.parametrize("method", METHODS)
def test_zero_gradients_give_no_evidence(method):
    activations, _ = random_pair(0, positive=True)
    signed = run(method, activations, np.zeros_like(activations))
    expected = slow_eigencam(activations, activations) if method == "eigencam" else np.zeros((5, 4))
    np.testing.assert_allclose(signed, expected, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_dead_channels_add_nothing(method):
    activations, gradients = random_pair(1, positive=True)
    activations[[0, 3]] = 0
    alive = [1, 2, 4, 5]
    signed = run(method, activations, gradients)
    assert np.isfinite(signed).all()
    assert_close(signed, run(method, activations[alive], gradients[alive]))
    assert not run(method, np.zeros_like(activations), gradients).any()


@pytest.mark.parametrize("method", ["gradcam++", "xgradcam"])
def test_a_zero_denominator_adds_nothing(method):
    activations = np.array([[[-3.0, 1.0]], [[1.0, 2.0]]])  # sums -2 and 3
    gradients = np.array([[[1.0, 1.0]], [[1.0, 1.0]]])  # 2 + -2 * 1 = 0
    if method == "xgradcam":
        activations[0, 0] = [-1.0, 1.0]
    alone = run(method, activations[1:], gradients[1:])
    np.testing.assert_allclose(run(method, activations, gradients), alone)


@pytest.mark.parametrize("method", METHODS)
def test_leading_dimensions_broadcast(method):
    random = np.random.default_rng(3)
    activations, gradients = np.abs(random.normal(size=(2, 1, 6, 5, 4))), random.normal(size=(2, 3, 6, 5, 4))
    signed = run(method, activations, gradients)
    assert signed.shape == (2, 3, 5, 4)
    for b, k in np.ndindex(2, 3):
        assert_close(signed[b, k], ORACLES[method](activations[b, 0], gradients[b, k]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_spoils_its_own_map_only(method, value):
    activations, gradients = random_pair(2, positive=True, shape=(2, 6, 5, 4))
    activations[0, 3, 2, 1] = value
    signed = run(method, activations, gradients)
    assert not np.isfinite(signed[0]).all()
    assert_close(signed[1], ORACLES[method](activations[1], gradients[1]))


@pytest.mark.parametrize("method", ["eigencam", "eigengradcam"])
def test_the_singular_vectors_sign_follows_the_sum_over_channels(method):
    for seed in range(20):
        activations, gradients = random_pair(seed, positive=False)
        features = activations if method == "eigencam" else activations * gradients
        assert (run(method, activations, gradients) * features.sum(axis=0)).sum() >= 0
        np.testing.assert_allclose(
            run(method, -activations, gradients), -run(method, activations, gradients), atol=1e-9
        )


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_stays_single_precision(method):
    activations, gradients = random_pair(0, positive=True)
    signed = METHODS[method](torch.from_numpy(activations).float(), torch.from_numpy(gradients).float())
    assert signed.dtype == torch.float32
    np.testing.assert_allclose(signed, run(method, activations, gradients), rtol=0, atol=1e-4)
