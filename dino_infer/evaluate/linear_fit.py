"""Training of linear heads by SGD: many learning rates at once, on one pass over the features."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from dino_infer.devices import cpu_threads, one_thread_each
from dino_infer.progress import Progress

MOMENTUM, INITIAL_STD = 0.9, 0.01
LR_BATCH = 256  # the batch that learning rates are told for
BATCH = 1024  # 128 on each of the original's 8 GPUs
MAX_LOGITS = 1 << 26  # of one batch and all heads that are trained at once
CONSTANT = 1e-5  # a feature counts as constant below this share of the others' deviation


class HeadBank:
    """Linear heads of one shape that see the same batches, each with its own learning rate.

    All start from the same weights. The products of all heads are one matrix product.

    Args:
        classes: Number of classes.
        dim: Length of the features.
        lrs: Learning rates, one a head, for a batch of ``LR_BATCH``.
        seed: Seed of the initial weights, N(0, 0.01); biases start at 0.
        device: Device of the heads.

    Source: https://arxiv.org/abs/2104.14294, appendix F.2, with the original's momentum, initial
    weights and rule for the batch size; no weight decay.
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        *,
        lrs: Sequence[float],
        seed: int,
        device: str | torch.device = "cpu",
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        first = INITIAL_STD * torch.randn(classes, dim, generator=generator)
        self._shape = (len(lrs), classes)
        self._weight = first.repeat(len(lrs), 1).to(device)
        self._bias = torch.zeros(len(lrs) * classes, device=device)
        self._weight_speed = torch.zeros_like(self._weight)
        self._bias_speed = torch.zeros_like(self._bias)
        self._lrs = torch.tensor(lrs, device=device).repeat_interleave(classes)

    @property
    def weight(self) -> Float[Tensor, "heads classes dim"]:
        """Weights of the heads."""
        return self._weight.view(*self._shape, -1)

    @property
    def bias(self) -> Float[Tensor, "heads classes"]:
        """Biases of the heads."""
        return self._bias.view(self._shape)

    def logits(self, features: Float[Tensor, "rows dim"]) -> Float[Tensor, "heads classes rows"]:
        """Logits of every head, rows last: a softmax over few neighbouring numbers is slow."""
        flat = torch.addmm(self._bias[:, None], self._weight, features.T)
        return flat.view(*self._shape, -1)

    def update(
        self, features: Float[Tensor, "rows dim"], labels: Int64[Tensor, " rows"], *, factor: float
    ) -> None:
        """Take one step of SGD on the cross-entropy of a batch.

        Args:
            features: The batch.
            labels: Class of each row.
            factor: Part of the learning rate that the schedule leaves, from 0 to 1.
        """
        rows = len(features)
        # Gradient of the mean cross-entropy with respect to the logits: probability minus target.
        gradient = self.logits(features).softmax(dim=1)
        targets = labels.expand(self._shape[0], 1, -1)
        gradient.scatter_add_(1, targets, gradient.new_full(targets.shape, -1))
        flat = gradient.flatten(0, 1)
        self._weight_speed.mul_(MOMENTUM).addmm_(flat, features, alpha=1 / rows)
        self._bias_speed.mul_(MOMENTUM).add_(flat.mean(dim=1))
        steps = self._lrs * (factor * rows / LR_BATCH)
        self._weight.addcmul_(steps[:, None], self._weight_speed, value=-1)
        self._bias.addcmul_(steps, self._bias_speed, value=-1)


def cosine_factor(epoch: int, epochs: int) -> float:
    """Part of the learning rate in an epoch: a cosine that falls from 1 towards 0."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def train_heads(
    features: Float[Tensor, "rows dim"],
    labels: Int64[Tensor, " rows"],
    *,
    classes: int,
    lrs: Sequence[float],
    epochs: int,
    seed: int,
    batch_size: int = BATCH,
) -> tuple[Float[Tensor, "heads classes dim"], Float[Tensor, "heads classes"]]:
    """Weights and biases of a head for each learning rate, trained at once on the same batches.

    Args:
        features: Standardised, on the device to train on.
        labels: Class of each row, from 0.
        classes: Number of classes.
        lrs: Learning rates for a batch of ``LR_BATCH``; they are scaled with the batch.
        epochs: Passes over the features.
        seed: Seed of the initial weights and of the order of the rows.
        batch_size: Rows of a step; all rows where there are fewer.
    """
    # On a CPU each thread trains a part of the heads alone: their products are so small that
    # threads which share one would mostly wait for each other.
    threads = cpu_threads(None) if features.device.type == "cpu" else 1
    most = max(1, MAX_LOGITS // (min(batch_size, len(features)) * classes))
    size = min(most, -(-len(lrs) // threads))
    parts = [lrs[start : start + size] for start in range(0, len(lrs), size)]

    def bank(part: Sequence[float]) -> HeadBank:
        heads = HeadBank(classes, features.shape[1], lrs=part, seed=seed, device=features.device)
        generator = torch.Generator().manual_seed(seed)
        for epoch in range(epochs):
            order = torch.randperm(len(features), generator=generator).to(features.device)
            for start in range(0, len(features), batch_size):
                rows = order[start : start + batch_size]
                batch = features.index_select(0, rows)
                heads.update(batch, labels[rows], factor=cosine_factor(epoch, epochs))
            progress.advance(len(part) * len(features))
        return heads

    with (
        Progress("train heads", total=epochs * len(lrs) * len(features)) as progress,
        one_thread_each(threads) as pool,
    ):
        banks = list(pool.map(bank, parts))
    return torch.cat([one.weight for one in banks]), torch.cat([one.bias for one in banks])


def losses(
    logits: Float[Tensor, "rows heads classes"], labels: Int64[Tensor, " rows"]
) -> Float[Tensor, " heads"]:
    """Mean cross-entropy of each head in nats."""
    return torch.stack(
        [F.cross_entropy(logits[:, head], labels) for head in range(logits.shape[1])]
    )


class Scale:
    """Standardisation of features: each to mean 0 and deviation 1 on the training set.

    Learning rates then mean the same for every feature and network. ``folded`` puts it into the
    head, so that a saved head takes the features as they are.
    """

    def __init__(self, features: Float[np.ndarray, "rows dim"]) -> None:
        self.mean: Float32[np.ndarray, " dim"] = features.mean(axis=0, dtype=np.float64).astype(
            np.float32
        )
        deviation = features.std(axis=0, dtype=np.float64)
        least = CONSTANT * float(np.sqrt(np.square(deviation).mean()))
        varies = deviation > least
        # A constant feature becomes 0 and takes no part.
        inverse = np.divide(1, deviation, out=np.zeros_like(deviation), where=varies)
        self.inverse: Float32[np.ndarray, " dim"] = inverse.astype(np.float32)

    def __call__(self, features: Float[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
        """The features standardised."""
        scaled: np.ndarray = (features.astype(np.float32, copy=False) - self.mean) * self.inverse
        return scaled

    def folded(
        self, weight: Float[np.ndarray, "classes dim"], bias: Float[np.ndarray, " classes"]
    ) -> tuple[Float32[np.ndarray, "classes dim"], Float32[np.ndarray, " classes"]]:
        """Weights and biases for features as they are, of those for standardised features."""
        scaled = weight.astype(np.float64) * self.inverse
        shifted = bias - scaled @ self.mean.astype(np.float64)
        return scaled.astype(np.float32), shifted.astype(np.float32)
