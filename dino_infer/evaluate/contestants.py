"""Contestants of a protocol: the network to measure, its untrained twin, and the raw pixels."""

import hashlib
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from dino_infer.attention.views import View, view_of
from dino_infer.choices import Crop
from dino_infer.devices import resolved_device
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import DataError, OutputInUseError
from dino_infer.features.files import feature_paths, read_features
from dino_infer.features.job import embed_to_file, job_of
from dino_infer.features.output import Output
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.backbone import Backbone, Images
from dino_infer.sources.image_list import ImageList
from dino_infer.weights.checkpoints import load_backbone, untrained_backbone
from dino_infer.weights.info import CheckpointInfo

MODEL, UNTRAINED, PIXELS = "model", "untrained", "raw pixels"
PIXEL_SIDE = 16
WAIT_S = 0.5

logger = logging.getLogger(__name__)


class Rows(NamedTuple):
    """Feature rows of the images of a list that could be read, in their order."""

    features: Float[np.ndarray, "rows dim"]
    ok: Bool[np.ndarray, " images"]
    """True for the images of the list that have a row."""
    failed: int


@dataclass(frozen=True, kw_only=True)
class Contestant(ABC):
    """One of those that a protocol measures, by the features that it makes of images.

    Every pixel is decoded, as the published figures were measured.
    """

    name: str
    """``MODEL``, ``UNTRAINED`` or ``PIXELS``."""
    cache: Path | None = None
    """Folder where feature rows are kept for the next protocol; None keeps none."""

    @abstractmethod
    def embedder(
        self,
        *,
        feature: Any = "cls",
        size: int | tuple[int, int] | None = None,
        crop: Crop = "center",
    ) -> Embedder:
        """An embedder of this contestant.

        Args:
            feature: Feature of a network, see ``Embedder``.
            size: Side of the crop in pixels, or with ``crop="none"`` the shorter side of the
                image, or both sides; None takes that of the weights.
            crop: The central square, or all of the image.

        Raises:
            ValueError: The network has no such feature.
        """

    def rows(self, images: ImageList, **view: Any) -> Rows:
        """The feature of each image that can be read, from the cache where it is there.

        Args:
            images: Images to look at.
            **view: See ``embedder``.
        """
        return embedded_rows(self.embedder(**view), images, self.cache)

    def description(self, **view: Any) -> dict[str, Any]:
        """Account of how ``rows`` makes features."""
        return self.embedder(**view).description()


@dataclass(frozen=True, kw_only=True)
class Network(Contestant):
    """A network in PyTorch."""

    backbone: Backbone
    info: CheckpointInfo
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of ``Embedder``: ``device``, ``precision``, ``batch_size`` and the like."""
    weights: str | Path | None = None
    """Source that it was loaded from; None for a network that was in memory."""
    checkpoint_key: str = "teacher"
    """Network of a file that holds several."""

    @property
    def device(self) -> torch.device:
        """Device that the network computes on."""
        return resolved_device(self.options.get("device", "auto"))

    def preprocess(
        self, *, size: int | tuple[int, int] | None = None, crop: Crop = "center"
    ) -> Preprocess:
        """Image to tensor, as the weights need it; arguments as those of ``embedder``."""
        return Preprocess(
            size=size or self.info.view_size,
            crop=crop,
            patch_size=self.backbone.patch_size if crop == "none" else None,
            mean=self.info.mean,
            std=self.info.std,
            exact_decode=True,
        )

    def whole_view(self, picture: UInt8[np.ndarray, "height width 3"], size: int) -> View:
        """Patches of a whole image that is resized to ``size`` pixels on the shorter side."""
        return view_of(
            *picture.shape[:2],
            preprocess=self.preprocess(size=size, crop="none"),
            patch_size=self.backbone.patch_size,
        )

    def embedder(
        self,
        *,
        feature: Any = "cls",
        size: int | tuple[int, int] | None = None,
        crop: Crop = "center",
    ) -> Embedder:
        """An embedder of this network."""
        preprocess = self.preprocess(size=size, crop=crop)
        return Embedder(self.backbone, preprocess, feature=feature, **self.options)


@dataclass(frozen=True, kw_only=True)
class Exported(Contestant):
    """Weights that only an embedder can run, such as an ``.onnx`` file."""

    name: str = MODEL
    made: Embedder
    """The embedder, whose view of images is its own."""

    def embedder(self, *, feature: str | None = None, **_: Any) -> Embedder:
        """``made``, whatever view is asked for; a feature must be its own."""
        own = self.made.description()["feature"]
        own = "cls" if own == "pooled" else own  # the only feature of a convnet
        if feature not in (None, own):
            raise ValueError(
                f"the exported weights are evaluated by their feature {own!r}, not {feature!r}; "
                "pass the weights that they were made from"
            )
        return self.made


@dataclass(frozen=True, kw_only=True)
class RawPixels(Contestant):
    """The answer without a network: each image shrunk to 16 x 16 pixels is its own feature."""

    name: str = PIXELS

    def embedder(self, *, crop: Crop = "center", **_: Any) -> Embedder:
        """An embedder of levels; images are squeezed where nothing is cut off."""
        size = PIXEL_SIDE if crop == "center" else (PIXEL_SIDE, PIXEL_SIDE)
        return Embedder(_Levels(), Preprocess(size=size, crop=crop, exact_decode=True))


class _Levels:
    """The engine of ``RawPixels``."""

    device = torch.device("cpu")
    patch_size: int | None = None

    def description(self) -> dict[str, Any]:
        return {"arch": "pixels", "feature": "levels", "precision": "fp32", "weights_sha256": ""}

    def __call__(self, images: Images) -> Float[Tensor, "batch dim"]:
        return images.flatten(1)


def load_networks(
    weights: str | Path,
    *,
    checkpoint_key: str = "teacher",
    arch: str | None = None,
    patch_size: int | None = None,
    floors: bool = True,
    seed: int = 0,
    cache: Path | None = None,
    **options: Any,
) -> tuple[Network, ...]:
    """The network to measure, and its untrained twin.

    Args:
        weights: See ``load_backbone``.
        checkpoint_key: See ``load_backbone``.
        arch: See ``load_backbone``.
        patch_size: See ``load_backbone``.
        floors: Add the twin: the same architecture with random weights.
        seed: Seed of the twin's weights.
        cache: Folder where feature rows are kept.
        **options: See ``Network.options``.

    Raises:
        CheckpointError: The weights are missing, damaged or do not fit.
        ValueError: ``arch`` is unknown.
    """
    backbone, info = load_backbone(
        weights, checkpoint_key=checkpoint_key, arch=arch, patch_size=patch_size
    )
    model, *twin = with_twin(backbone, info, floors=floors, seed=seed, cache=cache, **options)
    return replace(model, weights=weights, checkpoint_key=checkpoint_key), *twin


def with_twin(
    backbone: Backbone,
    info: CheckpointInfo,
    *,
    floors: bool = True,
    seed: int = 0,
    cache: Path | None = None,
    **options: Any,
) -> tuple[Network, ...]:
    """``load_networks`` of a backbone that is in memory."""
    shared: dict[str, Any] = {"info": info, "options": options, "cache": cache}
    networks = [Network(name=MODEL, backbone=backbone, **shared)]
    if floors:
        twin = untrained_backbone(info, seed=seed).eval()
        networks.append(Network(name=UNTRAINED, backbone=twin, **shared))
    for network in networks:
        network.backbone.to(network.device)
    return tuple(networks)


def with_pixels(
    contestants: Sequence[Contestant], *, floors: bool | None = None
) -> tuple[Contestant, ...]:
    """The networks and the raw pixels beside them.

    Args:
        contestants: The model, and its untrained twin if floors are wanted.
        floors: Add the raw pixels; None adds them where there is a twin.
    """
    floors = len(contestants) > 1 if floors is None else floors
    pixels = [RawPixels(cache=contestants[0].cache)] if floors else []
    return (*contestants, *pixels)


def embedded_rows(embedder: Embedder, images: ImageList, cache: Path | None) -> Rows:
    """The feature of each image that can be read, kept in a folder for the next protocol.

    Args:
        embedder: Maker of the features.
        images: Images to embed.
        cache: The folder; None keeps none.
    """
    if cache is None:
        embedding = embedder.embed(images)
        return Rows(embedding.features, embedding.ok, len(embedding.failures))
    cache.mkdir(parents=True, exist_ok=True)
    output = Output(on_error="nan", resume=True)
    job = json.dumps(job_of(embedder, images, output), sort_keys=True)
    path = cache / f"{hashlib.sha256(job.encode()).hexdigest()[:32]}.npy"
    try:
        return _kept_rows(embedder, images, path, output)
    except DataError as error:  # damaged, or half of it was deleted
        logger.warning("features in the cache cannot be used and are made again: %s", error)
        feature_paths(path).manifest.unlink(missing_ok=True)
        anew = replace(output, resume=False, overwrite=True)
        return _kept_rows(embedder, images, path, anew)


def _kept_rows(embedder: Embedder, images: ImageList, path: Path, output: Output) -> Rows:
    """Rows of a file of the cache; while another process makes it, wait for that."""
    is_told = False
    while True:
        is_kept = output.resume and feature_paths(path).manifest.exists()
        try:
            outcome = embed_to_file(embedder, images, path, output=replace(output, update=is_kept))
            break
        except OutputInUseError:
            if not is_told:
                logger.info("waiting for another process that embeds the same images ...")
            is_told = True
            time.sleep(WAIT_S)
    features = np.asarray(read_features(path).matrix)
    ok = np.isfinite(features).all(axis=1)  # a row of NaN stands for an unreadable image
    return Rows(features[ok], ok, outcome.failed)
