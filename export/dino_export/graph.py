"""The network as it is exported: a module whose outputs are chosen, for any image size."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dino_export.positions import resampled_in_graph, rotary_in_graph
from dino_infer.networks.backbone import Backbone
from dino_infer.networks.rotary import RotaryViTBackbone
from dino_infer.networks.vit import Embedded, ViTBackbone

Output = Literal["cls", "patches", "attention", "logits"]
"""The feature; the patch tokens; what [CLS] attends to in the last block, head by head; the
projection head's logits."""

OUTPUTS: tuple[Output, ...] = get_args(Output)


class ExportedNetwork(nn.Module):
    """A backbone whose chosen outputs come from one forward pass.

    Args:
        backbone: Backbone, whose weights are used, not copied.
        outputs: Names in the order of ``OUTPUTS``.
        head: Tensors of the projection head under the names of checkpoints, for "logits".
        normalization: Mean and std, to take uint8 images (batch, height, width, 3) instead of
            normalised ones.
        fixed_size: Height and width of all images, to hold their position embeddings as they are.
        half: Compute in float16; images and outputs stay as they are.

    Raises:
        ValueError: The backbone has no such output.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        outputs: Sequence[Output],
        head: Mapping[str, Tensor] | None = None,
        normalization: tuple[Sequence[float], Sequence[float]] | None = None,
        fixed_size: tuple[int, int] | None = None,
        half: bool = False,
    ) -> None:
        super().__init__()
        check_outputs(outputs, backbone, has_head=head is not None)
        self.outputs = tuple(outputs)
        self.backbone = _traceable(backbone, fixed_size)
        if half:
            self.backbone = copy.deepcopy(self.backbone).half()
        self.head = None if head is None else ExportedHead(head)
        self.half_precision = half
        if normalization is not None:
            mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in normalization)
            self.register_buffer("mean", 255 * mean)
            self.register_buffer("std", 255 * std)
        self.takes_uint8 = normalization is not None

    def forward(self, images: Shaped[Tensor, "batch ..."]) -> tuple[Tensor, ...]:
        """The outputs as float32, in the order of ``outputs``."""
        if self.takes_uint8:
            images = images.permute(0, 3, 1, 2).contiguous()
            images = (images.float() - self.mean) / self.std
        if self.half_precision:
            images = images.half()
        if isinstance(self.backbone, TraceableViT):
            found = self.backbone.features(images, attention="attention" in self.outputs)
        else:
            found = {"cls": self.backbone(images)}
        if self.head is not None:
            found["logits"] = self.head(found["cls"].float())
        return tuple(found[name].float() for name in self.outputs)


class TraceableViT(ViTBackbone):
    """A Vision Transformer whose graph holds for every image size, not that of the example alone.

    It shares the network of the backbone it is made from.
    """

    fixed_positions: Tensor | None
    """Position embeddings for the one size that it is for, if it is for one."""

    def __init__(self, network: nn.Module, *, arch: str, patch_size: int, image_size: int) -> None:
        super().__init__(network, arch=arch, patch_size=patch_size, image_size=image_size)
        self.register_buffer("fixed_positions", None)

    def features(self, images: Tensor, *, attention: bool) -> dict[str, Tensor]:
        """All that the last block tells, with its [CLS] attention if that is wanted."""
        *blocks, last = self._blocks()
        embedded, found = self._through(blocks, self._embedded(images)), {}
        if attention:
            found["attention"] = self._cls_row(last, embedded)
        x, prefix = self._normed(self._block(last, embedded)), self.num_prefix_tokens
        return found | {"cls": x[:, 0], "patches": x[:, prefix:]}

    def _positions(self, grid: tuple[int, int], *, square: bool) -> Tensor:
        if self.fixed_positions is not None:
            return self.fixed_positions
        positions: Tensor = self.network.pos_embed  # type: ignore[assignment]
        count = 0 if self.network.no_embed_class else self.num_prefix_tokens
        side = math.isqrt(positions.shape[1] - count)
        table = positions[0, count:].float().reshape(side, side, -1)
        patches = resampled_in_graph(table, grid, square=square, how=self.position_embedding)
        return torch.cat([positions[:, :count], patches[None].to(positions.dtype)], dim=1)


class TraceableRotaryViT(RotaryViTBackbone, TraceableViT):
    """A ``TraceableViT`` with rotary positions."""

    def _embedded(self, images: Tensor) -> Embedded:
        embedded = ViTBackbone._embedded(self, images)
        return embedded._replace(rotary=rotary_in_graph(self.network.rope, embedded.grid))


class ExportedHead(nn.Module):
    """The projection head of DINO, from its tensors in a checkpoint.

    Args:
        tensors: ``mlp.N.*`` of linear layers and batch norms, ``last_layer.weight_v`` and, where
            the norms were trained, ``last_layer.weight_g``.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        numbers = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("mlp.")})
        layers: list[nn.Module] = []
        for i in numbers:
            layer = {n.split(".")[2]: t for n, t in tensors.items() if n.startswith(f"mlp.{i}.")}
            if layers and not _is_norm(layer):
                layers.append(nn.GELU())
            layers.append(_layer(layer))
        self.mlp = nn.Sequential(*layers)
        direction = tensors["last_layer.weight_v"].float()
        length = tensors.get("last_layer.weight_g", torch.ones(len(direction), 1)).float()
        out_dim, in_dim = direction.shape
        self.last_layer = nn.Linear(in_dim, out_dim, bias=False)
        self.last_layer.weight = nn.Parameter(F.normalize(direction, dim=1) * length)

    def forward(self, features: Float[Tensor, "batch in_dim"]) -> Float[Tensor, "batch out_dim"]:
        """Logits, before centring and temperature."""
        logits: Tensor = self.last_layer(F.normalize(self.mlp(features), dim=-1))
        return logits


def check_outputs(outputs: Sequence[str], backbone: Backbone, *, has_head: bool) -> None:
    """Refuse outputs that are unknown or that the network does not have.

    Raises:
        ValueError: With the outputs that there are.
    """
    have = default_outputs(backbone) + (("logits",) if has_head else ())
    if unknown := [name for name in outputs if name not in OUTPUTS]:
        raise ValueError(f"`outputs` must be among {', '.join(OUTPUTS)}, got {unknown[0]!r}")
    if len(set(outputs)) < len(outputs):
        raise ValueError(f"`outputs` must name each output once, got {', '.join(outputs)}")
    if missing := [name for name in outputs if name not in have]:
        why = (
            "the weights hold no head or none was asked for"
            if missing[0] == "logits"
            else f"{backbone.arch!r} is no Vision Transformer"
        )
        raise ValueError(
            f"there is no output {missing[0]!r}, because {why}; ask for: {', '.join(have)}"
        )
    if "cls" not in outputs:
        raise ValueError(
            f"`outputs` must hold 'cls', the feature, got {', '.join(outputs) or 'none'}"
        )


def default_outputs(backbone: Backbone) -> tuple[Output, ...]:
    """Names of all outputs that the network has."""
    return ("cls", "patches", "attention") if backbone.has_attention else ("cls",)


def _traceable(backbone: Backbone, fixed_size: tuple[int, int] | None) -> Backbone:
    if not isinstance(backbone, ViTBackbone):
        return backbone
    rotary = isinstance(backbone, RotaryViTBackbone)
    traceable = (TraceableRotaryViT if rotary else TraceableViT)(
        backbone.network,
        arch=backbone.arch,
        patch_size=backbone.patch_size,
        image_size=backbone.image_size,
    )
    traceable.position_embedding = backbone.position_embedding
    if fixed_size is not None and not rotary:
        grid, square = backbone.grid_of(*fixed_size), fixed_size[0] == fixed_size[1]
        traceable.fixed_positions = backbone._positions(grid, square=square).detach()
    return traceable


def _is_norm(layer: Mapping[str, Tensor]) -> bool:
    return "running_mean" in layer


def _layer(tensors: Mapping[str, Tensor]) -> nn.Module:
    """A linear layer or a batch norm, with these weights."""
    layer: nn.Module
    if _is_norm(tensors):
        layer = nn.BatchNorm1d(len(tensors["weight"]))
    else:
        out_features, in_features = tensors["weight"].shape
        layer = nn.Linear(in_features, out_features)
    layer.load_state_dict(dict(tensors))
    return layer.float()
