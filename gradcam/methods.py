"""Class activation maps as pure functions of activations and gradients.

Every method takes `activations` A and `gradients` dy/dA, both float32 of shape (..., C, h, w) (leading dimensions
broadcast), and returns the signed map of shape (..., h, w): the value before the ReLU, in the units of the score y
(Eigen-CAM: of A). The explainer applies the ReLU. To add a method, write such a function and list it in METHODS.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .errors import InputError

Method = Callable[[Tensor, Tensor], Tensor]


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient (Selvaraju et al. 2017, arXiv 1610.02391, eq. 1 and 2)."""
    return _weighted_sum(gradients.mean(dim=(-2, -1)), activations)


def counterfactual(activations: Tensor, gradients: Tensor) -> Tensor:
    """What speaks against the class: Grad-CAM with negated gradients (arXiv 1610.02391, "counterfactual")."""
    return gradcam(activations, -gradients)


def gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al. 2018, arXiv 1710.11063, eq. 10 and 19), for Y = exp(y).

    Eq. 19 weighs a positive gradient g by g^2 / (2 g^2 + sum(A) g^3), which is 1 / (2 + sum(A) g). The factor
    exp(y), common to all weights of a picture, scales the whole map and is left out: it overflows for large y.
    """
    denominator = 2 + activations.sum(dim=(-2, -1), keepdim=True) * gradients
    weights = gradients.relu() / denominator.where(denominator != 0, torch.inf)
    return _weighted_sum(weights.sum(dim=(-2, -1)), activations)


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """XGrad-CAM: gradients averaged with the activations as weights (Fu et al. 2020, arXiv 2008.02312, eq. 8)."""
    total = activations.sum(dim=(-2, -1))
    weights = (activations * gradients).sum(dim=(-2, -1)) / total.where(total != 0, torch.inf)
    return _weighted_sum(weights, activations)


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """HiRes-CAM: the gradient stays where it is, no averaging (Draelos and Carin 2020, arXiv 2011.08891, eq. 4)."""
    return (activations * gradients).sum(dim=-3)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Layer-CAM: each cell weighted by its own positive gradient (Jiang et al. 2021, IEEE TIP 30, eq. 6 and 7)."""
    return (activations * gradients.relu()).sum(dim=-3)


def eigencam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Eigen-CAM: the activations' first component (Muhammad and Yeasin 2020, arXiv 2008.00299, eq. 2), not centred.

    The same for every class: it shows what the network sees, not what speaks for a class.
    """
    return _first_component(activations).expand(gradients.shape[:-3] + gradients.shape[-2:])


def eigengradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """EigenGrad-CAM: Eigen-CAM of activations times gradients, which makes it speak of a class."""
    return _first_component(activations * gradients)


METHODS: dict[str, Method] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "xgradcam": xgradcam,
    "hirescam": hirescam,
    "layercam": layercam,
    "eigencam": eigencam,
    "eigengradcam": eigengradcam,
    "counterfactual": counterfactual,
}


def method_named(name: str) -> Method:
    """The method of that name. Raises InputError, with the names there are."""
    if name not in METHODS:
        raise InputError(f"there is no method {str(name)[:80]!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name]


def _weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """sum_k weights_k A_k: (..., C) and (..., C, h, w) -> (..., h, w)."""
    return torch.einsum("...c,...chw->...hw", weights, activations)


def _first_component(features: Tensor) -> Tensor:
    """Project (..., C, h, w) on its first right singular vector: (..., h, w); NaN where not all of it is finite.

    A singular vector has no sign of its own: take the one that makes the map agree with the sum over channels.
    """
    cells = features.flatten(-2).mT
    finite = cells.isfinite().all(dim=(-2, -1))
    cells = cells.where(finite[..., None, None], 0)  # of NaN the decomposition fails, and with it the whole batch
    direction = torch.linalg.svd(cells, full_matrices=False).Vh[..., 0, :]
    projection = torch.einsum("...lc,...c->...l", cells, direction).where(finite[..., None], torch.nan)
    agreement = (projection * cells.sum(dim=-1)).sum(dim=-1, keepdim=True)
    return projection.where(agreement >= 0, -projection).unflatten(-1, features.shape[-2:])
