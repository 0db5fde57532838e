"""The networks that the demo offers, and what they make of the pictures seen last."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor

from dino_infer.attention.grids import on_grid, whole_image
from dino_infer.attention.views import View, checked_view
from dino_infer.choices import ObjectMethod
from dino_infer.devices import resolved_device
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.backbone import Backbone
from dino_infer.objects.find import objects_in
from dino_infer.objects.found import FoundObject
from dino_infer.weights.checkpoints import load_backbone, untrained_backbone
from dino_infer.weights.info import CheckpointInfo

LOOKS = 24  # pictures remembered for each network, a few MB each
SIZE = 480  # pixels of the shorter side, as in the figures of the paper
SMALL_FACTOR = 8  # networks that learned on small pictures are shown larger ones, but not so large
SHOWN, LONGEST_SHOWN = 480, 1280  # pixels of the sides of what people see
FIXED_SEED = 0  # of untrained networks, so that they look the same each time
UNTRAINED = " (untrained)"
GENERIC = ("checkpoint.safetensors",)  # file names that say nothing without their folder


class Models:
    """The networks to choose from; the first is loaded now, the others when they are chosen.

    Args:
        weights: Weights as ``load_backbone`` takes them, in the order of the picker.
        device: Device of the networks; "auto" is a GPU if there is one.

    Raises:
        ValueError: There are no weights.
        DinoError: The first weights cannot be loaded, or there is no such device.
    """

    def __init__(self, weights: Sequence[str], device: str | torch.device = "auto") -> None:
        if not weights:
            raise ValueError("expected at least one source of weights, got none")
        unique = list(dict.fromkeys(str(one) for one in weights))
        self._weights = dict(zip(_short_names(unique), unique, strict=True))
        self._device = resolved_device(device)
        self._loaded: dict[str, Model] = {}
        self._loading = threading.Lock()
        self.model(self.names[0])

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the picker: the shortest endings of the paths that tell them apart."""
        return tuple(self._weights)

    @property
    def names_with_untrained(self) -> tuple[str, ...]:
        """Names as in ``names``, each also with random weights, to compare with."""
        return (*self.names, *(name + UNTRAINED for name in self.names))

    def model(self, name: str) -> "Model":
        """The network of a name of ``names_with_untrained``, loaded if need be.

        Raises:
            ValueError: There is no such name.
            DinoError: The weights cannot be loaded.
        """
        if name not in self.names_with_untrained:
            raise ValueError(f"model must be one of {list(self.names)}, got {name!r}")
        with self._loading:
            return self._of(name)

    def _of(self, name: str) -> "Model":
        """The network of a name; the caller holds the lock."""
        if name not in self._loaded:
            if name.endswith(UNTRAINED):
                info = self._of(name.removesuffix(UNTRAINED)).info
                backbone = untrained_backbone(info, seed=FIXED_SEED)
            else:
                backbone, info = load_backbone(self._weights[name])
            self._loaded[name] = Model(name, backbone.to(self._device).eval(), info)
        return self._loaded[name]


class Model:
    """One network and what it made of the last pictures.

    Attributes:
        name: Name in the picker.
        backbone: Backbone in evaluation mode, on its device; use it under ``lock``.
        info: Description of its weights.
        lock: Held during forward passes, so that they do not compete for the cores.
    """

    def __init__(self, name: str, backbone: Backbone, info: CheckpointInfo) -> None:
        self.name = name
        self.backbone = backbone
        self.info = info
        self.lock = threading.RLock()
        self._looks: OrderedDict[tuple[str, int], Look] = OrderedDict()
        self._remembering = threading.Lock()

    @property
    def has_attention(self) -> bool:
        """True if it has a [CLS] token over patches: attention maps and patch tokens."""
        return self.backbone.has_attention

    @property
    def default_size(self) -> int:
        """Pixels of the shorter side that suit it."""
        size = self.info.view_size
        return min(SIZE, SMALL_FACTOR * size) // self.patch_size * self.patch_size

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.backbone.patch_size

    @property
    def heads(self) -> int:
        """Attention heads of each block; 0 for networks without."""
        network: Any = self.backbone.network
        return int(network.blocks[0].attn.num_heads) if self.has_attention else 0

    def preprocess(self, size: int) -> Preprocess:
        """Shows the whole picture, its shorter side ``size`` pixels."""
        plain = Preprocess(mean=self.info.mean, std=self.info.std)
        return whole_image(plain, size=max(size, self.patch_size), patch_size=self.patch_size)

    def look(
        self, image: UInt8[np.ndarray, "height width 3"], *, size: int | None = None
    ) -> "Look":
        """Look of the network at an upright RGB picture; remembered for the next call.

        Args:
            image: Result of ``read_image``.
            size: Pixels of the shorter side; ``default_size`` if None.

        Raises:
            ImageError: It would be too many patches.
        """
        size = size or self.default_size
        key = (pixel_hash(image), size)
        with self._remembering:
            look = self._looks.pop(key, None) or Look(self, image, self.preprocess(size))
            self._looks[key] = look
            if len(self._looks) > LOOKS:
                self._looks.popitem(last=False)
        return look


class Look:
    """One picture as one network sees it at one resolution.

    A forward pass runs when ``attention``, ``tokens`` or ``keys`` are asked for, and never again.

    Attributes:
        picture: The picture resized and cut to whole patches, as the network sees it.
        shown: The same part of the picture at a size to draw on, whatever the resolution.
        size: Height and width of the picture as it was uploaded.
        view: Place of its patches in that.
        model: The network.
    """

    def __init__(
        self, model: Model, image: UInt8[np.ndarray, "height width 3"], preprocess: Preprocess
    ) -> None:
        self.model = model
        patch, name = model.patch_size, "picture"
        self.size = height, width = image.shape[:2]
        self.view: View = checked_view(
            height, width, preprocess=preprocess, patch_size=patch, path=name
        )
        self._preprocess = preprocess
        self._pixels = preprocess.pixels(image).contiguous()
        self.picture: UInt8[np.ndarray, "_height _width 3"] = (
            self._pixels.permute(1, 2, 0).contiguous().numpy()
        )
        self.shown = _shown(image, self.view)
        self._attention: Float32[np.ndarray, "layers heads rows columns"] | None = None
        self._tokens: Float32[np.ndarray, "rows columns dim"] | None = None
        self._keys: Float32[np.ndarray, "rows columns dim"] | None = None
        self._objects: dict[tuple[ObjectMethod, int], tuple[FoundObject, ...]] = {}

    @property
    def attention(self) -> Float32[np.ndarray, "layers heads rows columns"]:
        """Attention of the [CLS] token to each patch, in every block and head.

        Raises:
            ValueError: The network is no Vision Transformer.
        """
        with self.model.lock, torch.inference_mode():
            if self._attention is None:
                layers = self.model.backbone.cls_attention_by_layer(self._input())[0]
                self._attention = self._on_grid(layers)
            return self._attention

    @property
    def tokens(self) -> Float32[np.ndarray, "rows columns dim"]:
        """The normed patch tokens of the last block.

        Raises:
            ValueError: The network is no Vision Transformer.
        """
        with self.model.lock, torch.inference_mode():
            if self._tokens is None:
                patches = self.model.backbone.tokens(self._input()).patches[0]
                self._tokens = self._on_grid(patches.T).transpose(1, 2, 0).copy()
            return self._tokens

    @property
    def keys(self) -> Float32[np.ndarray, "rows columns dim"]:
        """The keys of the patches in the last block; a ValueError without attention."""
        with self.model.lock, torch.inference_mode():
            if self._keys is None:
                keys = self.model.backbone.keys(self._input())[0]
                self._keys = self._on_grid(keys.T).transpose(1, 2, 0)
            return self._keys

    def objects(self, method: ObjectMethod, *, most: int = 3) -> tuple[FoundObject, ...]:
        """The objects that ``objects_in`` finds by the keys of the patches, the most salient first.

        Raises:
            ValueError: The network is no Vision Transformer.
        """
        with self.model.lock:
            if (method, most) not in self._objects:
                self._objects[method, most] = objects_in(self.keys, method, objects=most)
            return self._objects[method, most]

    def _input(self) -> Float[Tensor, "1 3 _height _width"]:
        device = next(self.model.backbone.parameters()).device
        return self._preprocess.normalized(self._pixels.to(device))[None]

    def _on_grid(
        self, values: Float[Tensor, "*leading patches"]
    ) -> Float32[np.ndarray, "*leading rows columns"]:
        return on_grid(values, (self.view.rows, self.view.columns))


def _shown(
    image: UInt8[np.ndarray, "height width 3"], view: View
) -> UInt8[np.ndarray, "shown_height shown_width 3"]:
    """Part of a picture that the patches cover, ``SHOWN`` pixels on the shorter side."""
    x0, y0, x1, y1 = view.box(0, 0, view.rows, view.columns)
    width, height = max(1, x1 - x0), max(1, y1 - y0)
    ratio = min(SHOWN / min(width, height), LONGEST_SHOWN / max(width, height))
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    part = Image.fromarray(image).resize(
        size, Image.Resampling.BICUBIC, box=(x0, y0, x0 + width, y0 + height), reducing_gap=2.0
    )
    return np.asarray(part)


def pixel_hash(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """A name for the content of a picture, whatever file it came in."""
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _short_names(weights: Sequence[str]) -> list[str]:
    """The shortest ending of each path that no other one has."""
    parts = [_parts(one) for one in weights]
    names = []
    for own in parts:
        length = 2 if own[-1] in GENERIC and len(own) > 1 else 1
        while length < len(own) and sum(p[-length:] == own[-length:] for p in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def _parts(weights: str) -> tuple[str, ...]:
    kind, colon, name = weights.partition(":")
    if colon and kind in ("timm", "hf"):
        return (name,)
    return tuple(part for part in PurePath(weights).parts if part != "/") or (weights,)
