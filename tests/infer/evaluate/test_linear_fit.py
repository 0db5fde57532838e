"""Heads that are trained together are as those trained alone, at the optimum of the problem."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dino_infer.evaluate.linear_fit import HeadBank, Scale, cosine_factor, train_heads


@pytest.fixture
def clusters():
    """Rows of three classes that overlap, so that the optimum without weight decay is finite."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 80)
    rows = rng.normal(size=(3, 5))[labels] + 1.5 * rng.normal(size=(240, 5))
    return rows.astype(np.float32), labels


def test_heads_trained_at_once_are_those_that_sgd_of_pytorch_trains(clusters):
    rows, labels = map(torch.from_numpy, clusters)
    lrs = (0.01, 0.1, 1.0)
    bank = HeadBank(3, 5, lrs=lrs, seed=3)
    first = bank.weight[0].clone()
    assert first.std() < 0.02 and not bank.bias.any()
    alone = [torch.nn.Linear(5, 3) for _ in lrs]
    batch = 64
    optimizers = []
    for layer, lr in zip(alone, lrs, strict=True):
        layer.weight.data.copy_(first)
        layer.bias.data.zero_()
        optimizer = torch.optim.SGD(layer.parameters(), lr=lr * batch / 256, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
        optimizers.append((optimizer, schedule))
    for epoch in range(4):
        for start in (0, 64, 128):
            x, y = rows[start : start + batch], labels[start : start + batch]
            bank.update(x, y, factor=cosine_factor(epoch, 4))
            for layer, (optimizer, _) in zip(alone, optimizers, strict=True):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(layer(x), y).backward()
                optimizer.step()
        for _, schedule in optimizers:
            schedule.step()
    for head, layer in enumerate(alone):
        torch.testing.assert_close(bank.weight[head], layer.weight.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bank.bias[head], layer.bias.detach(), rtol=1e-4, atol=1e-5)


def test_a_head_reaches_the_optimum_that_scikit_learn_finds(clusters):
    rows, labels = clusters
    scale = Scale(rows)
    features = torch.from_numpy(scale(rows))
    weight, bias = train_heads(
        features, torch.from_numpy(labels), classes=3, lrs=[2.0], epochs=300, seed=0
    )
    folded = scale.folded(weight[0].numpy(), bias[0].numpy())
    exact = LogisticRegression(C=np.inf, tol=1e-8, max_iter=10_000).fit(rows, labels)
    ours = rows @ folded[0].T + folded[1]
    theirs = exact.decision_function(rows)
    # The same function: logits are defined up to a number for each row.
    ours, theirs = (z - z.mean(axis=1, keepdims=True) for z in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_the_training_does_not_depend_on_the_learning_rates_beside(clusters):
    rows, labels = map(torch.from_numpy, clusters)
    settings = {"classes": 3, "epochs": 3, "seed": 1, "batch_size": 50}
    together = train_heads(rows, labels, lrs=[0.1, 0.2, 0.5], **settings)
    for head, lr in enumerate([0.1, 0.2, 0.5]):
        alone = train_heads(rows, labels, lrs=[lr], **settings)
        torch.testing.assert_close(together[0][head], alone[0][0])
        torch.testing.assert_close(together[1][head], alone[1][0])


def test_standardisation_is_folded_into_the_head_and_leaves_constant_features_out():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(50, 4)) * [1, 100, 0, 0.01] + [0, -30, 7, 5]).astype(np.float32)
    rows[:, 2] += np.float32(1e-7) * rng.normal(size=50)
    scale = Scale(rows)
    scaled = scale(rows)
    np.testing.assert_allclose(scaled.std(axis=0), [1, 1, 0, 1], atol=1e-3)
    weight, bias = rng.normal(size=(3, 4)).astype(np.float32), np.ones(3, np.float32)
    folded, shifted = scale.folded(weight, bias)
    np.testing.assert_allclose(
        rows.astype(np.float64) @ folded.T + shifted, scaled @ weight.T + bias, atol=1e-3
    )
    assert not folded[:, 2].any()
