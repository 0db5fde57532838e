"""Images to features: the embedder that users hold."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from dino_infer.attention.grids import check_has_attention, whole_image
from dino_infer.attention.maps import MASS, maps_of_many
from dino_infer.choices import Crop, EngineName, Precision
from dino_infer.devices import LateNumbers, resolved_device
from dino_infer.embedding.attention import Attention
from dino_infer.embedding.batches import WHY_NOT_FINITE, EmbeddedBatch, RowMaker
from dino_infer.embedding.decoding import Decoding, ImageFile
from dino_infer.embedding.engines import Engine, OnnxEngine, TorchEngine
from dino_infer.errors import CheckpointError
from dino_infer.images.encoded import DEFAULT_MAX_PIXELS
from dino_infer.images.pictures import Picture, picture_list, rgb_picture
from dino_infer.images.preprocess import Preprocess
from dino_infer.images.read import MAX_FILE_BYTES, ImageFailure, check_size, read_image
from dino_infer.networks.backbone import Backbone
from dino_infer.progress import Progress
from dino_infer.sources.image_list import ImageList
from dino_infer.weights.checkpoints import load_backbone

CPU_BATCH, GPU_BATCH = 16, 256
ATTENTION_SIZE = 480  # shorter side in pixels; more shows finer detail


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Feature rows of the images that could be read, in the order of the list."""

    features: Float[np.ndarray, "rows ..."]
    ok: Bool[np.ndarray, " images"]
    """True for the images of the list that have a row."""
    failures: tuple[ImageFailure, ...]
    """Failures of the other images, in order."""
    files: tuple[ImageFile, ...]
    """Size and hash of the image of each row."""

    def __repr__(self) -> str:
        """Numbers of rows and failures."""
        shape = " x ".join(map(str, self.features.shape[1:]))
        failed = f"{len(self.failures)} of {len(self.ok)} images failed"
        return f"Embedding({len(self.features)} rows of {shape}, {failed})"


class Embedder:
    """Turns images into features.

    ::

        embedder = Embedder.load("runs/photos")
        feature = embedder("a.jpg")                                    # one picture
        features = embedder(["a.jpg", Image.open("b.png"), array])     # in memory
        embedding = embedder.embed(list_images(["photos/"]))           # many files
        embedder.attention("a.jpg").overlay().save("attention.png")

    Rows do not depend on the batch size, on the images beside them, on their order or on the
    number of workers, but for float rounding.

    Args:
        network: A backbone, or an engine that runs one.
        preprocess: Image to tensor, as the weights need it.
        device: "auto" takes a GPU if there is one. An engine brings its own.
        batch_size: Images embedded at once; None takes 16 on a CPU and 256 on a GPU.
        workers: On a CPU, threads that each decode and embed a batch; on a GPU, processes that
            decode. None takes as many as there are cores.
        precision: Precision of a backbone, see ``TorchEngine``; features are float32 in any case.
        feature: Feature of a backbone, see ``feature_of``: "cls", "mean", "cls+mean", "gem",
            "cls+gem", "last4", "last1+mean", "patches" ...
        normalize: Scale each feature to length 1.
        compiled: Run a backbone through torch.compile.
        max_pixels: Larger images fail, judged by their header.
        max_file_bytes: Larger files fail unread.

    Raises:
        ValueError: A number is out of range, or the backbone has no such feature.
        DinoError: The device cannot be used.
    """

    def __init__(
        self,
        network: Backbone | Engine,
        preprocess: Preprocess,
        *,
        device: str | torch.device = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
        precision: Precision = "auto",
        feature: str = "cls",
        normalize: bool = False,
        compiled: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if workers is not None and workers < 0:
            raise ValueError(f"workers must not be negative, got {workers}")
        if isinstance(network, Backbone):
            network = TorchEngine(
                network,
                feature=feature,
                device=resolved_device(device),
                precision=precision,
                compiled=compiled,
            )
        self.engine: Engine = network
        self.device = network.device
        self.preprocess = preprocess
        self.batch_size = batch_size or (CPU_BATCH if self.device.type == "cpu" else GPU_BATCH)
        self.workers = workers
        self.normalize = normalize
        self._decoding = Decoding(
            preprocess=preprocess, max_pixels=max_pixels, max_file_bytes=max_file_bytes
        )
        self._rows = RowMaker(
            network, self._decoding, batch_size=self.batch_size, normalize=normalize
        )

    def __repr__(self) -> str:
        view = f"size={self.preprocess.size}, crop={self.preprocess.crop!r}"
        rows = f"batch_size={self.batch_size}, normalize={self.normalize}"
        return f"Embedder({self.engine!r}, {view}, {rows})"

    @classmethod
    def load(
        cls,
        weights: str | Path,
        *,
        checkpoint_key: str = "teacher",
        arch: str | None = None,
        patch_size: int | None = None,
        engine: EngineName = "auto",
        feature: str = "cls",
        precision: Precision = "auto",
        size: int | None = None,
        crop: Crop = "center",
        exact_decode: bool = False,
        device: str | torch.device = "auto",
        compiled: bool = False,
        **options: Any,
    ) -> "Embedder":
        """An embedder from weights, with the preprocessing that they need.

        Args:
            weights: Run folder, checkpoint file, ``timm:NAME`` or ``hf:ORG/NAME``, see
                ``load_backbone``; or an exported ``.onnx``.
            checkpoint_key: Network of a file that holds several, see ``load_backbone``.
            arch: Architecture of the weights, where the file does not tell.
            patch_size: Side of a patch in pixels, where the file does not tell.
            engine: "auto" runs ``.onnx`` files in OpenVINO or onnxruntime and all else in PyTorch,
                see ``OnnxEngine``.
            feature: Feature as in the constructor.
            precision: Precision as in the constructor; an exported file has its own.
            size: Side of the crop, or with ``crop="none"`` the shorter side, in pixels; None takes
                the size of the training crops.
            crop: "center", or "none" to show the network all of each image.
            exact_decode: See ``Preprocess``.
            device: Device as in the constructor.
            compiled: Compilation as in the constructor.
            **options: ``batch_size``, ``workers``, ``normalize``, ``max_pixels`` and
                ``max_file_bytes`` of the constructor.

        Raises:
            CheckpointError: The weights are missing, damaged or do not fit.
            ValueError: A number is out of range, or the backbone has no such feature.
        """
        device = resolved_device(device)
        exported = str(weights).endswith(".onnx")
        if engine != "auto" and exported == (engine == "torch"):
            wanted, remedy = ".onnx", "; export them with dino-export first"
            if exported:
                wanted, remedy = "PyTorch", ""
            raise ValueError(
                f"engine {engine!r} runs {wanted} weights, got {str(weights)!r}{remedy}"
            )
        network: Engine
        if exported:
            network = OnnxEngine(weights, feature=feature, device=device, runtime=engine)
            info = network.file.info
        else:
            backbone, info = load_backbone(
                weights, checkpoint_key=checkpoint_key, arch=arch, patch_size=patch_size
            )
            network = TorchEngine(
                backbone, feature=feature, device=device, precision=precision, compiled=compiled
            )
        if feature == "patches" and crop == "none":
            raise ValueError("feature 'patches' needs images of one size: pass `crop='center'`")
        preprocess = Preprocess(
            size=size or info.view_size,
            crop=crop,
            patch_size=network.patch_size if crop == "none" else None,
            mean=info.mean,
            std=info.std,
            exact_decode=exact_decode,
        )
        return cls(network, preprocess, **options)

    def description(self) -> dict[str, Any]:
        """Account of how features are made: the embedder's part of a feature set's manifest."""
        return {
            **self.engine.description(),
            "preprocess": self.preprocess.as_metadata(),
            "normalized": self.normalize,
        }

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of the feature of one image: (dim,), or (patches, dim)."""
        return self._rows.shape

    def __call__(self, pictures: Picture | Iterable[Picture]) -> Float[np.ndarray, "..."]:
        """Feature of one picture, or a row for each of many.

        Args:
            pictures: A path, the bytes of a file, a Pillow image, a uint8 array (height, width) or
                (height, width, 1, 3 or 4), or a uint8 tensor (1, 3 or 4, height, width); or any
                number of these, also mixed. Or a float tensor of normalised images, one
                (3, height, width) or many (batch, 3, height, width).

        Returns:
            Of one picture ``feature_shape``, such as (dim,); of many (pictures, *feature_shape),
            also where the list holds a single one, or none.

        Raises:
            ImageError: A file, bytes or a Pillow image cannot be read.
            TypeError: Something is no picture.
            ValueError: An array or tensor is of another shape or type.
        """
        if isinstance(pictures, Tensor) and pictures.is_floating_point():
            return self._of_normalised(pictures)
        if isinstance(pictures, ImageList):
            raise TypeError("expected pictures, got an ImageList; call embed(images) for its files")
        listed, one = picture_list(pictures)
        if not listed:
            return self._rows.joined([], 0)
        rows = []
        for batch in self._named_batches(listed, one):
            rows.append(self._rows.of_pixels([self._pixels(*pair) for pair in batch]))
        features = np.concatenate(rows)
        return features[0] if one else features

    @overload
    def attention(
        self,
        pictures: Picture,
        *,
        size: int = ...,
        layer: int = ...,
        query: tuple[float, float] | None = ...,
        rollout: bool = ...,
        mass: float = ...,
    ) -> Attention: ...
    @overload
    def attention(
        self,
        pictures: list[Picture] | tuple[Picture, ...],
        *,
        size: int = ...,
        layer: int = ...,
        query: tuple[float, float] | None = ...,
        rollout: bool = ...,
        mass: float = ...,
    ) -> list[Attention]: ...
    def attention(
        self,
        pictures: Any,
        *,
        size: int = ATTENTION_SIZE,
        layer: int = -1,
        query: tuple[float, float] | None = None,
        rollout: bool = False,
        mass: float = MASS,
    ) -> Attention | list[Attention]:
        """Attention of the network in one picture, or in each of many.

        The whole picture is seen, whatever the embedder crops.

        Args:
            pictures: One picture as in a call of the embedder, or a list.
            size: Shorter side in pixels at which the network sees a picture.
            layer: Block to look at; negative counts from the last.
            query: x and y of a pixel; the patch that shows it asks instead of [CLS].
            rollout: Follow the attention through all blocks, see ``rollout_maps``.
            mass: Share of the attention that the masks keep, in (0, 1].

        Raises:
            CheckpointError: The network has no [CLS] attention, or is an exported file.
            ImageError: A file, bytes or a Pillow image cannot be read.
            TypeError: Something is no picture.
            ValueError: A number is out of range, or ``rollout`` is to have a layer or a query.
        """
        if rollout and (layer != -1 or query is not None):
            raise ValueError("a rollout goes through all blocks to [CLS]: no `layer` or `query`")
        if not isinstance(self.engine, TorchEngine):
            raise CheckpointError(
                f"attention needs weights in PyTorch, got {self.engine!r}; load what it was "
                "exported from"
            )
        backbone = self.engine.backbone
        check_has_attention(backbone)
        network: dict[str, Any] = {
            "backbone": backbone,
            "preprocess": whole_image(self.preprocess, size=size, patch_size=backbone.patch_size),
        }
        listed, one = picture_list(pictures)
        found: list[Attention] = []
        for batch in self._named_batches(listed, one):
            images, paths = zip(*(self._rgb(*pair) for pair in batch), strict=True)
            looks = maps_of_many(
                images, paths=paths, **network,
                layer=layer, query=query, rollout=rollout, mass=mass,
            )  # fmt: skip
            found += [
                Attention(look=look, image=image, **network, mass=mass, path=path)
                for look, image, path in zip(looks, images, paths, strict=True)
            ]
        return found[0] if one else found

    def decoded(self, data: bytes, *, name: str = "image") -> UInt8[Tensor, "3 height width"]:
        """Pixels of one encoded image, as ``features`` takes them; safe to call in many threads.

        Args:
            data: The content of a file.
            name: Name of the image in errors.

        Raises:
            ImageError: It cannot be decoded, or is beyond a limit.
        """
        limits, least = self._decoding, self.preprocess.least_decoded
        check_size(len(data), name=name, max_file_bytes=limits.max_file_bytes)
        image = read_image(data, path=name, max_pixels=limits.max_pixels, min_scale_size=least)
        return self.preprocess.pixels(image, path=name)

    def features(self, pixels: Sequence[UInt8[Tensor, "3 _ _"]]) -> Float[np.ndarray, "rows ..."]:
        """Feature of each image that ``decoded`` gave; they share batches where shapes are equal.

        Raises:
            CheckpointError: The network gives features that are not finite.
        """
        rows = self._rows.of_pixels(pixels)
        if not np.isfinite(rows).all():
            raise CheckpointError(f"features are not finite: {WHY_NOT_FINITE}")
        return rows

    def embed(self, images: ImageList) -> Embedding:
        """Feature of every image of a list that can be read; the others are reported.

        Raises:
            CheckpointError: The network gives features that are not finite.
        """
        ok = np.zeros(len(images), dtype=np.bool_)
        features, files, failures = [], [], []
        with Progress("embed", total=len(images)) as progress:
            for batch in self.batches(images):
                ok[batch.indices] = True
                features.append(batch.features)
                files += batch.files
                failures += [batch.failures[place] for place in sorted(batch.failures)]
                progress.advance(len(batch.places))
        return Embedding(
            features=np.concatenate(features),
            ok=ok,
            failures=tuple(failures),
            files=tuple(files),
        )

    def batches(self, images: ImageList, *, start: int = 0) -> Iterator[EmbeddedBatch]:
        """Features of a list from place ``start`` on, batch by batch, in order.

        Which images share a batch depends on the list alone as long as ``start`` is a multiple of
        ``batch_size``, so rows are the same bit for bit wherever a job was interrupted.

        Raises:
            CheckpointError: The network gives features that are not finite.
        """
        return self._rows.batches(images, start=start, workers=self.workers)

    def _of_normalised(self, images: Tensor) -> Float[np.ndarray, "..."]:
        if images.ndim not in (3, 4) or images.shape[-3] != 3:
            raise ValueError(
                "a float tensor must hold normalised images of shape (3, height, width) or (batch, "
                f"3, height, width), got {images.dtype} of shape {tuple(images.shape)}"
            )
        batch = images[None] if images.ndim == 3 else images
        parts = torch.split(batch, self.batch_size)
        rows = [LateNumbers(self._rows.of_images(part.to(self.device))).array() for part in parts]
        features = np.concatenate(rows)
        return features[0] if images.ndim == 3 else features

    def _named_batches(
        self, pictures: list[Picture], one: bool
    ) -> Iterator[list[tuple[Picture, str]]]:
        """The pictures batch by batch, each with its name in errors."""
        named = [(each, "picture" if one else f"picture {i}") for i, each in enumerate(pictures)]
        for start in range(0, len(named), self.batch_size):
            yield named[start : start + self.batch_size]

    def _pixels(self, picture: Picture, name: str) -> Tensor:
        image, path = self._rgb(picture, name)
        return self.preprocess.pixels(image, path=path)

    def _rgb(self, picture: Picture, name: str) -> tuple[UInt8[np.ndarray, "_ _ 3"], str]:
        """The picture as an array, and its name in errors: a path names itself."""
        limits = self._decoding
        image = rgb_picture(
            picture,
            name=name,
            max_pixels=limits.max_pixels,
            max_file_bytes=limits.max_file_bytes,
        )
        return image, os.fspath(picture) if isinstance(picture, str | os.PathLike) else name
