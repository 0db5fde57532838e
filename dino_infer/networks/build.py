"""Backbones by arch name: timm's modules, DINO's position embeddings and initialisation.

``build_backbone("vit_small", patch_size=8)`` gives a ViT whose weights carry the original key
names; any other arch is a timm model name (``resnet50``, ``xcit_small_12_p16_224`` ...). A
``ViTShape`` describes Vision Transformers that have no name, with the parts DINOv2 and DINOv3 add.
"""

import difflib
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from dino_infer.errors import MissingExtraError
from dino_infer.networks.backbone import Backbone
from dino_infer.networks.rotary import RotaryViTBackbone
from dino_infer.networks.vit import ViTBackbone

NORM_EPS = 1e-6  # of every LayerNorm in a DINO or DINOv2 ViT; PyTorch's default would be 1e-5
ROTARY_NORM_EPS = 1e-5  # in DINOv3
LAYER_SCALE_START = 1e-5


@dataclass(frozen=True, kw_only=True)
class ViTShape:
    """Dimensions and parts of a Vision Transformer, but for the sizes of patches and images."""

    embed_dim: int
    """Width of the tokens."""
    depth: int
    """Number of blocks."""
    num_heads: int
    """Attention heads; must divide ``embed_dim``."""
    hidden_dim: int | None = None
    """Width inside the MLP; 4 x ``embed_dim`` by default."""
    gated: bool = False
    """The MLP is a SwiGLU, as in the largest DINOv2."""
    registers: int = 0
    """Tokens beside [CLS] that stand for no patch. With them, [CLS] has no position."""
    layer_scale: bool = False
    """Each block learns how much it adds, channel by channel: DINOv2 and later."""
    qkv_bias: bool = True
    """Queries, keys and values have a bias."""
    rotary: bool = False
    """Positions turn queries and keys, as in DINOv3, whose keys have no bias."""


ARCHS = {
    "vit_micro": ViTShape(embed_dim=128, depth=6, num_heads=4),  # ours: laptops and demos
    "vit_tiny": ViTShape(embed_dim=192, depth=12, num_heads=3),
    "vit_small": ViTShape(embed_dim=384, depth=12, num_heads=6),
    "vit_base": ViTShape(embed_dim=768, depth=12, num_heads=12),
    "vit_large": ViTShape(embed_dim=1024, depth=24, num_heads=16),
}
RESNET_MICRO = {"layers": (1, 1, 1, 1), "channels": (32, 64, 128, 256), "stem_width": 16}
"""``resnet_micro``, ours: timm's resnet10t with half its channels, for training on CPUs. It starts
as timm's, with which it was measured."""


def vision_transformer(
    *,
    embed_dim: int,
    depth: int,
    num_heads: int,
    patch_size: int = 16,
    image_size: int = 224,
    drop_path_rate: float = 0.0,
    arch: str = "vit",
) -> ViTBackbone:
    """A DINO Vision Transformer of any shape, initialised as the original; see ``ViTShape``.

    Raises:
        ValueError: The sizes do not fit each other.
    """
    return _vit_of_shape(
        ViTShape(embed_dim=embed_dim, depth=depth, num_heads=num_heads),
        patch_size=patch_size,
        image_size=image_size,
        drop_path_rate=drop_path_rate,
        arch=arch,
    )


def _vit_of_shape(
    shape: ViTShape, *, patch_size: int, image_size: int, drop_path_rate: float, arch: str
) -> ViTBackbone:
    if shape.embed_dim % shape.num_heads:
        raise ValueError(
            f"num_heads must divide embed_dim={shape.embed_dim}, got {shape.num_heads}"
        )
    if not 1 <= patch_size <= image_size:
        raise ValueError(f"patch_size must lie in [1, image_size={image_size}], got {patch_size}")
    options = {
        "img_size": image_size,
        "patch_size": patch_size,
        "embed_dim": shape.embed_dim,
        "depth": shape.depth,
        "num_heads": shape.num_heads,
        "qkv_bias": shape.qkv_bias,
        "num_classes": 0,
        "drop_path_rate": drop_path_rate,
        "init_values": LAYER_SCALE_START if shape.layer_scale else None,
    }
    network = _rotary_network(shape, options) if shape.rotary else _network(shape, options)
    network.apply(_initialise)
    for token in (network.cls_token, network.pos_embed, network.reg_token):
        if token is not None:
            nn.init.trunc_normal_(token, std=0.02)
    kind = RotaryViTBackbone if shape.rotary else ViTBackbone
    return kind(network, arch=arch, patch_size=patch_size, image_size=image_size)


def _network(shape: ViTShape, options: dict[str, Any]) -> Any:
    timm = imported_timm()
    hidden_dim = shape.hidden_dim or 4 * shape.embed_dim
    if shape.gated:
        options |= {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU}
    return timm.models.vision_transformer.VisionTransformer(
        mlp_ratio=_ratio(2 * hidden_dim if shape.gated else hidden_dim, shape.embed_dim),
        reg_tokens=shape.registers,
        no_embed_class=shape.registers > 0,
        norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
        weight_init="skip",
        **options,
    )


def _rotary_network(shape: ViTShape, options: dict[str, Any]) -> Any:
    hidden_dim = shape.hidden_dim or 4 * shape.embed_dim
    return imported_timm().models.eva.Eva(
        mlp_ratio=_ratio(hidden_dim, shape.embed_dim),
        swiglu_mlp=shape.gated,
        swiglu_align_to=1,  # keeps gate and value apart, as the published weights do
        num_reg_tokens=shape.registers,
        norm_layer=partial(nn.LayerNorm, eps=ROTARY_NORM_EPS),
        use_fc_norm=False,
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_temperature=100,
        rope_rotate_half=True,
        dynamic_img_size=True,
        **options,
    )


def _ratio(hidden_dim: int, embed_dim: int) -> float:
    """Factor of ``embed_dim`` for timm, which truncates: the half keeps rounding harmless."""
    return (hidden_dim + 0.5) / embed_dim


def build_backbone(
    arch: str,
    *,
    patch_size: int = 16,
    image_size: int = 224,
    drop_path_rate: float = 0.0,
    small_stem: bool = False,
    shape: ViTShape | None = None,
) -> Backbone:
    """An untrained backbone by name.

    Args:
        arch: One of ``ARCHS``, ``resnet_micro``, or any timm model name.
        patch_size: Side of a patch in pixels for the archs in ``ARCHS``; timm names bring theirs.
        image_size: Side in pixels for which position embeddings are learned.
        drop_path_rate: Stochastic depth of the last block, rising from 0, where there is any.
        small_stem: For images below 64 px: a ResNet without its max-pool, and with a 3x3
            convolution of stride 1 where the stem is one 7x7 convolution.
        shape: A Vision Transformer of this shape; ``arch`` is then only what it is called.

    Raises:
        ValueError: Unknown arch (the nearest names are given), or sizes that do not fit.
    """
    shape = shape or ARCHS.get(arch)
    if shape is not None:
        if small_stem:
            raise ValueError(f"small_stem is for ResNets, got arch {arch!r}")
        return _vit_of_shape(
            shape,
            patch_size=patch_size,
            image_size=image_size,
            drop_path_rate=drop_path_rate,
            arch=arch,
        )
    timm = imported_timm()
    if arch == "resnet_micro":
        network = timm.create_model(
            "resnet10t", num_classes=0, drop_path_rate=drop_path_rate, **RESNET_MICRO
        )
    elif timm.is_model(arch):
        network = _timm_network(timm, arch, image_size=image_size, drop_path_rate=drop_path_rate)
    else:
        raise ValueError(_unknown_arch(arch, timm.list_models()))
    if small_stem:
        _shrink_stem(network, arch)
    if kind := _vit_kind(timm, network):
        patch = network.patch_embed.patch_size[0]
        return kind(network, arch=arch, patch_size=patch, image_size=image_size)
    stride = max((info["reduction"] for info in network.feature_info), default=1)
    backbone = Backbone(network, arch=arch, patch_size=stride, image_size=image_size)
    backbone.small_stem = small_stem
    return backbone


def takes_small_stem(arch: str) -> bool:
    """True if ``small_stem`` fits a network of this name, which not every ResNet's does."""
    try:
        with torch.device("meta"):  # nothing is allocated or drawn
            build_backbone(arch, small_stem=True)
    except ValueError:
        return False
    return True


def _vit_kind(timm: Any, network: Any) -> type[ViTBackbone] | None:
    """The class for a timm network with a [CLS] token over a grid of patches."""
    if isinstance(network, timm.models.vision_transformer.VisionTransformer):
        return ViTBackbone
    if not isinstance(network, timm.models.eva.Eva) or not hasattr(network.rope, "periods"):
        return None
    like_dinov3 = network.blocks[0].attn.qkv is not None  # some later models share keys
    return RotaryViTBackbone if like_dinov3 else None


def _timm_network(timm: Any, arch: str, *, image_size: int, drop_path_rate: float) -> nn.Module:
    """The timm model without its classifier, told what only its kind of network understands.

    ViT-like models need the image size. ResNets and RegNets start with the last norm of a block at
    1, as torchvision's that the original trained; timm would start them at 0.
    """
    depth: dict[str, Any] = {"drop_path_rate": drop_path_rate}
    for own in ({"img_size": image_size} | depth, {"zero_init_last": False} | depth, depth):
        try:
            return timm.create_model(arch, num_classes=0, **own)  # type: ignore[no-any-return]
        except TypeError:  # networks refuse what they do not know
            continue
    return timm.create_model(arch, num_classes=0)  # type: ignore[no-any-return]


def _shrink_stem(network: Any, arch: str) -> None:
    """Give a ResNet the stem for small images, in place."""
    if not isinstance(getattr(network, "maxpool", None), nn.MaxPool2d):
        raise ValueError(f"small_stem is for ResNets with a max-pool, got {arch!r}")
    network.maxpool = nn.Identity()
    old = network.conv1
    if isinstance(old, nn.Conv2d):
        network.conv1 = nn.Conv2d(3, old.out_channels, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")


def _initialise(module: nn.Module) -> None:
    """Linear weights N(0, 0.02), zero bias; norms 1 and 0; convolutions as PyTorch does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.LayerNorm):
        module.reset_parameters()


def _unknown_arch(arch: str, timm_names: list[str]) -> str:
    ours = [*ARCHS, "resnet_micro"]
    near = difflib.get_close_matches(arch, [*ours, *timm_names], n=5)
    hint = f"nearest: {', '.join(near)}" if near else "see timm.list_models()"
    return f"no arch named {arch!r}; choose one of {', '.join(ours)} or a timm model ({hint})"


def imported_timm() -> Any:
    """timm, imported on first use: it costs seconds, and a mixed torch install breaks it."""
    try:
        import timm
        import timm.models.eva
        import timm.models.vision_transformer
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        raise MissingExtraError(
            "torch and torchvision come from different builds and cannot work together "
            f"({error}); install both from one place, e.g. pip install --force-reinstall "
            "torch torchvision"
        ) from error
    return timm
