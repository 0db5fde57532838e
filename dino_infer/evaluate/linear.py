"""Linear classification of frozen features: the fast mode, on features that are embedded once.

The published schedule, on random crops, is in ``random_crops``.
"""

import functools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

from dino_infer.errors import DataError, TrainingError
from dino_infer.evaluate.contestants import MODEL
from dino_infer.evaluate.data.draws import check_tries, held_out
from dino_infer.evaluate.data.labelled import LabelledFeatures, check_comparable
from dino_infer.evaluate.knn import Sides
from dino_infer.evaluate.linear_fit import Scale, losses, train_heads
from dino_infer.evaluate.reports.classes import (
    class_places,
    class_table,
    majority_figures,
    origin,
    top_percent,
)
from dino_infer.evaluate.reports.result import Figures, Result, Table, standard_errors
from dino_infer.features.comparable import how_made
from dino_infer.heads import LinearHead
from dino_infer.networks.backbone import Backbone

LRS = tuple(digit * 10.0**power for power in (-4, -3, -2, -1) for digit in (1, 2, 5))
EPOCHS, TRIES = 100, 3
HELD_OUT = 0.1  # of the training images of each class
HEAD_FILE = "head.safetensors"
_LARGE = 768  # width of ViT-B, from which on the published protocol takes one block and the mean
_MADE_BY = ("arch", "feature", "precision", "weights_sha256", "preprocess", "normalized", "weights")

logger = logging.getLogger(__name__)


class Trained(NamedTuple):
    """Classifiers that the fast mode trained on one set of features, one for each try."""

    heads: list[LinearHead]
    chosen: float
    """Learning rate, or inverse strength of regularisation, that did best on held-out images."""
    held_out: Table
    images_held_out: int


def published_feature(backbone: Backbone) -> str:
    """The feature that the published linear evaluation takes of a network.

    The [CLS] tokens of the last four blocks; from ViT-B on that of the last block with the mean
    patch token; of a convnet the pooled features.

    Source: https://arxiv.org/abs/2104.14294, appendix F.2.
    """
    if not backbone.has_attention:
        return "cls"
    if backbone.embed_dim >= _LARGE:
        return "last1+mean"
    return f"last{min(4, backbone.depth)}"


def measure_linear(
    sides: Mapping[str, Sides],
    *,
    lrs: Iterable[float] = LRS,
    epochs: int = EPOCHS,
    tries: int = TRIES,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Result:
    """Accuracy of linear classifiers on features that are embedded once.

    Args:
        sides: Features by name of the contestant; the model first, then its floors. Each needs
            images to classify.
        lrs: Learning rates to choose from, for a batch of 256.
        epochs: Passes over the features.
        tries: Trainings on all images, from other initial weights and in another order, for the
            spread.
        seed: Seed of the held-out images and of the first try.
        device: Device to train on.

    Returns:
        ``top1_percent`` and ``top5_percent`` with their spreads; tables ``classes``,
        ``learning_rates`` and ``tries``, the picture ``confusion`` and the first try's head, all
        of the model.

    Raises:
        DataError: The sets were made differently or share no class.
        TrainingError: Every learning rate diverges.
        ValueError: No try.

    Source: https://arxiv.org/abs/2104.14294, section 4.1 and appendix F.2; this mode trains on the
        evaluation crop instead of random crops.
    """
    train, val = checked_sides(sides)
    check_tries(tries)
    lrs = [float(lr) for lr in lrs]
    figures, chosen, found = [], {}, {}
    for name, side in sides.items():
        trained = train_linear(
            side.train, lrs=lrs, epochs=epochs, tries=tries, seed=seed, device=device
        )
        figures.append(accuracy_figures(name, trained.heads, side))
        chosen[name] = trained.chosen
        found[name] = trained
    settings = {"lrs": chosen, "epochs": epochs, "tries": tries, "seed": seed, "mode": "fast"}
    model = found[MODEL]
    return classification_result(
        "linear",
        Sides(train, val),
        figures,
        head=model.heads[0],
        settings=settings,
        tables={"learning_rates": model.held_out, "tries": _tries(model.heads, val)},
        floors=len(sides) > 1,
    )


def _tries(heads: Sequence[LinearHead], val: LabelledFeatures) -> Table:
    wanted = class_places(np.array(heads[0].classes, dtype=object), val.labels)
    found = [top_percent(head.logits(val.matrix), wanted) for head in heads]
    rows = [(number, *one.values()) for number, one in enumerate(found)]
    return Table(("try", "top1_percent", "top5_percent"), rows)


def train_linear(
    train: LabelledFeatures,
    *,
    lrs: Sequence[float] = LRS,
    epochs: int = EPOCHS,
    tries: int = TRIES,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Trained:
    """Linear heads with the learning rate that does best on a held-out part of the training set.

    All learning rates are tried at once on nine tenths of each class; the best by top-1 on the
    rest, and of equal ones by cross-entropy, then trains on all images. Those that diverge are
    dropped with a warning.

    Args:
        train: The training set.
        lrs: Learning rates to choose from, for a batch of 256.
        epochs: Passes over the features.
        tries: Heads to train on all images; see ``measure_linear``.
        seed: Seed of the held-out images and of the first head.
        device: Device to train on.

    Raises:
        TrainingError: Every learning rate diverges.
    """
    classes, labels = np.unique(train.labels, return_inverse=True)
    scale = Scale(train.matrix)
    features = torch.from_numpy(scale(train.matrix)).to(device)
    targets = torch.from_numpy(labels.astype(np.int64)).to(device)
    fit = functools.partial(train_heads, classes=len(classes), epochs=epochs)
    fitted, held = halves(train.labels, seed=seed)
    weight, bias = fit(features[fitted], targets[fitted], lrs=lrs, seed=seed)
    logits = (features[held] @ weight.flatten(0, 1).T + bias.flatten()).view(-1, *bias.shape)
    finite = (
        logits.isfinite().all(dim=2).all(dim=0) & weight.isfinite().flatten(1).all(dim=1)
    ).cpu()
    kept = [lr for lr, ok in zip(lrs, finite.tolist(), strict=True) if ok]
    if len(kept) < len(lrs):
        diverged = ", ".join(f"{lr:g}" for lr in lrs if lr not in kept)
        if not kept:
            raise TrainingError(f"every learning rate diverges ({diverged}); give smaller ones")
        logger.warning("learning rates that diverge are dropped: %s", diverged)
    table, best = _best(logits[:, finite.to(logits.device)], targets[held], kept)
    heads = []
    for number in range(tries):
        weight, bias = fit(features, targets, lrs=[kept[best]], seed=seed + number)
        folded = scale.folded(weight[0].cpu().numpy(), bias[0].cpu().numpy())
        if not all(np.isfinite(part).all() for part in folded):
            raise TrainingError(f"learning rate {kept[best]:g} diverges; give smaller ones")
        heads.append(head_of(*folded, classes=classes, train=train))
    return Trained(heads, kept[best], table, len(held))


def halves(
    labels: Shaped[np.ndarray, " rows"], *, seed: int
) -> tuple[Int64[np.ndarray, " fitted"], Int64[np.ndarray, " held"]]:
    """Rows to fit and rows to choose by: a tenth of each class is held out.

    Where no class has two images, nothing can be held out, and all rows are used for both.
    """
    held = held_out(labels, share=HELD_OUT, rng=np.random.default_rng(seed))
    if held.any():
        return np.flatnonzero(~held), np.flatnonzero(held)
    logger.warning("no class has two training images, so the choice is made on what was trained on")
    return np.arange(len(labels)), np.arange(len(labels))


def _best(
    logits: Float32[Tensor, "rows heads classes"], labels: Int64[Tensor, " rows"],
    lrs: Sequence[float],
) -> tuple[Table, int]:  # fmt: skip
    """Held-out top-1 of every learning rate, and the place of the best."""
    right = (logits.argmax(dim=-1) == labels[:, None]).double().mean(dim=0)
    loss = losses(logits, labels)
    best = max(range(len(lrs)), key=lambda head: (float(right[head]), -float(loss[head])))
    rows = [(lr, 100 * float(one)) for lr, one in zip(lrs, right, strict=True)]
    return Table(("learning_rate", "held_out_top1_percent"), rows), best


def head_of(
    weight: Float32[np.ndarray, "_ _dim"],
    bias: Float32[np.ndarray, " _"],
    *,
    classes: Shaped[np.ndarray, " _"],
    train: LabelledFeatures,
) -> LinearHead:
    """The head that takes features as those of the training set were made."""
    made_by = {key: train.description[key] for key in _MADE_BY if key in train.description}
    names = tuple(str(name) for name in classes)
    return LinearHead(weight=weight, bias=bias, classes=names, made_by=made_by)


def checked_sides(sides: Mapping[str, Sides]) -> tuple[LabelledFeatures, LabelledFeatures]:
    """Training set and images to classify of the model.

    Raises:
        DataError: They cannot be compared, or there are none to classify.
    """
    train, val = sides[MODEL]
    if val is None:
        raise DataError(f"{train.source!r} comes without images to classify; pass `val` too")
    check_comparable(train, val)
    return train, val


def accuracy_figures(name: str, heads: Sequence[LinearHead], side: Sides) -> Figures:
    """Top-1 and top-5 of a contestant: the mean over its heads, and how far it may be off.

    The spread is the standard deviation over the heads and the standard error over the images.
    """
    assert side.val is not None  # ``checked_sides``
    wanted = class_places(np.array(heads[0].classes, dtype=object), side.val.labels)
    found = [top_percent(head.logits(side.val.matrix), wanted) for head in heads]
    values = {key: np.array([one[key] for one in found]) for key in found[0]}
    means = {key: float(each.mean()) for key, each in values.items()}
    spreads = standard_errors(means, len(wanted))
    if len(heads) > 1:
        spreads = {key: math.hypot(spreads[key], values[key].std(ddof=1)) for key in spreads}
    return Figures(of=name, values=means, spreads=spreads)


def classification_result(
    protocol: str,
    model: Sides,
    figures: Sequence[Figures],
    *,
    head: LinearHead,
    settings: Mapping[str, Any],
    tables: Mapping[str, Table],
    floors: bool,
) -> Result:
    """The result of a protocol whose answer is a linear head."""
    train, val = model
    assert val is not None  # ``checked_sides``
    title = f"{protocol}: top-1 {figures[0].values['top1_percent']:.2f} %"
    classes = class_table(train.labels, val.labels, head.predict(val.matrix), title=title)
    if floors:
        figures = [*figures, majority_figures(train.labels, val.labels)]
    return Result(
        protocol=protocol,
        headline="top1_percent",
        figures=figures,
        settings={**settings, **how_made(train.description)},
        data={"train": origin(train), "val": origin(val)},
        images=train.images + val.images,
        failed=train.failed + val.failed,
        tables={"classes": classes.table, **tables},
        pictures={"confusion": classes.picture},
        files={HEAD_FILE: head.write},
    )
