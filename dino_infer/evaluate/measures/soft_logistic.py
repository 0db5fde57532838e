"""Logistic regression on soft labels: a linear answer beside the vote of neighbours."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torch.nn import functional as F

STRENGTHS = (1e-4, 1e-2, 1.0)
HELD_OUT = 5  # one group in so many is held out to choose the strength
MAX_ITERATIONS = 200

logger = logging.getLogger(__name__)


class SoftLogistic(NamedTuple):
    """A fitted regression on standardised features."""

    mean: Float32[Tensor, " dim"]
    scale: Float32[Tensor, " dim"]
    weights: Float32[Tensor, "classes dim"]
    bias: Float32[Tensor, " classes"]
    strength: float
    """Inverse of the regularisation, C of scikit-learn."""

    def __call__(
        self, features: Float32[np.ndarray, "rows dim"]
    ) -> Float32[np.ndarray, "rows classes"]:
        """Probability of each class."""
        rows = torch.as_tensor(features, device=self.weights.device)
        logits = F.linear((rows - self.mean) / self.scale, self.weights, self.bias)
        probs: np.ndarray = logits.softmax(dim=1).cpu().numpy()
        return probs


def fit_soft_logistic(
    features: Float32[np.ndarray, "rows dim"],
    labels: Float32[np.ndarray, "rows classes"],
    *,
    strength: float,
    device: str | torch.device = "cpu",
) -> SoftLogistic:
    """Minimise the cross-entropy of soft labels plus ``|weights|^2 / (2 strength)``.

    Features are standardised first, and the bias is not regularised.

    Args:
        features: One row a patch.
        labels: Share of each class; each class has some, and each row sums to 1.
        strength: Inverse of the regularisation.
        device: Device to compute on.
    """
    rows = torch.as_tensor(features, device=device)
    wanted = torch.as_tensor(labels, device=device)
    mean, scale = rows.mean(dim=0), rows.std(dim=0, correction=0).clamp(min=1e-6)
    rows = (rows - mean) / scale
    weights = torch.zeros(labels.shape[1], features.shape[1], device=device, requires_grad=True)
    bias = torch.zeros(labels.shape[1], device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        fit = F.cross_entropy(F.linear(rows, weights, bias), wanted)
        total = fit + weights.square().sum() / (2 * strength * len(rows))
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return SoftLogistic(mean, scale, weights.detach(), bias.detach(), strength)


def choose_soft_logistic(
    features: Float32[np.ndarray, "rows dim"],
    labels: Float32[np.ndarray, "rows classes"],
    groups: Int64[np.ndarray, " rows"],
    *,
    strengths: Sequence[float] = STRENGTHS,
    device: str | torch.device = "cpu",
) -> SoftLogistic:
    """The regression with the strength that predicts held-out groups best, fitted on all rows.

    Args:
        features: One row a patch.
        labels: See ``fit_soft_logistic``.
        groups: Image of each row, numbered in random order: every fifth is held out, of fewer than
            five the last.
        strengths: Candidates, the first of equally good ones is taken; of a single image, which
            cannot be held out, the last.
        device: Device to compute on.
    """
    images, places = np.unique(groups, return_inverse=True)
    every = min(HELD_OUT, len(images))
    held = places % every == every - 1
    if len(images) == 1 and len(strengths) > 1:
        logger.warning(
            "one image cannot be held out, so the weakest regularisation is taken unseen: C = %g",
            strengths[-1],
        )
    if len(images) == 1 or len(strengths) == 1:
        return fit_soft_logistic(features, labels, strength=strengths[-1], device=device)
    losses = []
    for strength in strengths:
        fitted = fit_soft_logistic(features[~held], labels[~held], strength=strength, device=device)
        losses.append(_cross_entropy(fitted(features[held]), labels[held]))
    best = strengths[int(np.argmin(losses))]
    return fit_soft_logistic(features, labels, strength=best, device=device)


def _cross_entropy(
    probs: Float[np.ndarray, "rows classes"], labels: Float32[np.ndarray, "rows classes"]
) -> float:
    return float(-(labels * np.log(np.maximum(probs, 1e-12))).sum(axis=1).mean())
