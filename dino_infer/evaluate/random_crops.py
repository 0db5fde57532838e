"""Linear classification on random crops: the published schedule, which embeds every epoch anew."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from dino_infer.cores import cores
from dino_infer.errors import DataError, ImageError
from dino_infer.evaluate.contestants import Network
from dino_infer.evaluate.data.labelled import LabelledImages
from dino_infer.evaluate.knn import Sides
from dino_infer.evaluate.linear import (
    EPOCHS,
    accuracy_figures,
    checked_sides,
    classification_result,
    head_of,
    published_feature,
)
from dino_infer.evaluate.linear_fit import BATCH, HeadBank, cosine_factor
from dino_infer.evaluate.reports.result import Result
from dino_infer.images.read import read_image
from dino_infer.progress import Progress

LR = 0.001  # the original's default, for a batch of 256
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
ATTEMPTS = 10


def measure_random_crops(
    networks: Sequence[Network],
    train: LabelledImages,
    val: LabelledImages,
    *,
    feature: str | None = None,
    size: int | None = None,
    lr: float = LR,
    epochs: int = EPOCHS,
    seed: int = 0,
) -> Result:
    """Accuracy of a linear classifier that is trained on random crops, as published.

    Every epoch crops and flips each training image anew; all networks see the same crops. The last
    epoch is measured, on the evaluation crop: nothing is chosen by the images to classify.

    Args:
        networks: The network to measure, and its untrained twin.
        train: The training images.
        val: Images to classify.
        feature: Feature to classify; None takes that of the published evaluation.
        size: Side of the crops in pixels; None takes that of the weights.
        lr: Learning rate for a batch of 256.
        epochs: Passes over the training images.
        seed: Seed of crops, order and initial weights.

    Raises:
        DataError: The sets share no class, or no training image can be read.
        ValueError: The network has no such feature.

    Source: https://arxiv.org/abs/2104.14294, appendix F.2; crops, batches of 1,024 and SGD as in
        the original.
    """
    feature = feature or published_feature(networks[0].backbone)
    view: dict[str, Any] = {"feature": feature, "size": size}
    embedders = [network.embedder(**view) for network in networks]
    sides = {}
    for network in networks:
        # Embedded once to know what can be read, before the long part.
        known = train.features(network, **view)
        sides[network.name] = Sides(known, val.features(network, **view))
    checked_sides(sides)
    readable = np.flatnonzero(networks[0].rows(train.images, **view).ok)
    names, places = np.unique(train.labels[readable], return_inverse=True)
    banks = [
        HeadBank(len(names), embedder.feature_shape[0], lrs=[lr], seed=seed, device=embedder.device)
        for embedder in embedders
    ]
    views = _Views(train, readable, size=size or networks[0].info.view_size, seed=seed)
    with Progress("train heads", total=epochs * len(readable)) as progress:
        for epoch in range(epochs):
            for rows, pixels in views.batches(epoch):
                for embedder, bank in zip(embedders, banks, strict=True):
                    features = torch.from_numpy(embedder.features(pixels)).to(embedder.device)
                    labels = torch.from_numpy(places[rows]).to(embedder.device)
                    bank.update(features, labels, factor=cosine_factor(epoch, epochs))
                progress.advance(len(rows))
    heads = [
        head_of(
            bank.weight[0].cpu().numpy(),
            bank.bias[0].cpu().numpy(),
            classes=names,
            train=side.train,
        )
        for bank, side in zip(banks, sides.values(), strict=True)
    ]
    figures = [
        accuracy_figures(name, [head], side)
        for head, (name, side) in zip(heads, sides.items(), strict=True)
    ]
    return classification_result(
        "linear",
        next(iter(sides.values())),
        figures,
        head=heads[0],
        settings={"mode": "random crops", "lr": lr, "epochs": epochs, "seed": seed},
        tables={},
        floors=len(networks) > 1,
    )


class _Views:
    """Random crops of the images of a list, the same for a seed and an epoch whatever the cores."""

    def __init__(
        self, images: LabelledImages, readable: Int64[np.ndarray, " rows"], *, size: int, seed: int
    ) -> None:
        self._images, self._readable = images.images, readable
        self._size, self._seed = size, seed

    def batches(
        self, epoch: int
    ) -> Iterator[tuple[Int64[np.ndarray, " batch"], list[UInt8[Tensor, "3 _ _"]]]]:
        """Rows of the readable images in random order, with a crop of each, batch by batch."""
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._readable))
        with ThreadPoolExecutor(cores()) as pool:
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                yield rows, list(pool.map(lambda row: self._view(epoch, int(row)), rows))

    def _view(self, epoch: int, row: int) -> UInt8[Tensor, "3 _ _"]:
        place = int(self._readable[row])
        name = self._images.name(place)
        try:
            image = read_image(self._images.read(place), path=name)
        except ImageError as error:
            raise DataError(f"{name!r} could be read before training: {error.reason}") from error
        rng = np.random.default_rng((self._seed, epoch, row))
        return random_view(image, size=self._size, rng=rng)


def random_view(
    image: UInt8[np.ndarray, "height width 3"], *, size: int, rng: np.random.Generator
) -> UInt8[Tensor, "3 _size _size"]:
    """A random part of an image as a square (bilinear, antialiased), flipped half the time.

    Args:
        image: Upright RGB.
        size: Side of the square in pixels.
        rng: Source of the crop's position and size.
    """
    top, left, height, width = random_box(*image.shape[:2], rng=rng)
    part = Image.fromarray(image[top : top + height, left : left + width])
    pixels = np.array(part.resize((size, size), Image.Resampling.BILINEAR))
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def random_box(height: int, width: int, *, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a part of 8 to 100 % of the area, 3:4 to 4:3.

    Where ten draws do not fit, the largest central part of an allowed ratio.
    """
    for _ in range(ATTEMPTS):
        area = height * width * rng.uniform(*AREA)
        ratio = np.exp(rng.uniform(*np.log(RATIO)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    ratio = min(max(width / height, RATIO[0]), RATIO[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    w, h = max(w, 1), max(h, 1)
    return (height - h) // 2, (width - w) // 2, h, w
