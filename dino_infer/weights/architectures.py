"""The architecture that tensors belong to, told by their names and shapes.

Names are timm's, see ``layouts``.
"""

import dataclasses
import math
from collections.abc import Mapping

from torch import Tensor

from dino_infer.errors import CheckpointError
from dino_infer.networks.build import ARCHS, ViTShape, imported_timm
from dino_infer.weights.info import CheckpointInfo

HEAD_DIM = 64  # of every published DINO, but for the 7B model of DINOv3
DINOV2_IMAGE_SIZE, DINOV2_INPUT_SIZE = 518, 224
DINOV3_IMAGE_SIZE = 256  # rotary positions know no size; this is what its features are shown at

DINOV2 = {
    "vit_small_patch14_dinov2": ViTShape(embed_dim=384, depth=12, num_heads=6),
    "vit_base_patch14_dinov2": ViTShape(embed_dim=768, depth=12, num_heads=12),
    "vit_large_patch14_dinov2": ViTShape(embed_dim=1024, depth=24, num_heads=16),
    "vit_giant_patch14_dinov2": ViTShape(
        embed_dim=1536, depth=40, num_heads=24, hidden_dim=4096, gated=True
    ),
}
DINOV3 = {
    "vit_tiny_patch16_dinov3": ViTShape(embed_dim=192, depth=12, num_heads=3),
    "vit_small_patch16_dinov3": ViTShape(embed_dim=384, depth=12, num_heads=6),
    "vit_small_plus_patch16_dinov3": ViTShape(embed_dim=384, depth=12, num_heads=6, gated=True),
    "vit_base_patch16_dinov3": ViTShape(embed_dim=768, depth=12, num_heads=12),
    "vit_large_patch16_dinov3": ViTShape(embed_dim=1024, depth=24, num_heads=16),
    "vit_huge_plus_patch16_dinov3": ViTShape(embed_dim=1280, depth=32, num_heads=20, gated=True),
    "vit_7b_patch16_dinov3": ViTShape(
        embed_dim=4096, depth=40, num_heads=32, hidden_dim=8192, gated=True
    ),
}
FIRST_CONVOLUTIONS = (
    "patch_embed.proj.weight", "patch_embed.proj.0.0.weight", "conv1.weight", "conv1.0.weight",
    "stem.0.weight", "conv_stem.weight",
)  # fmt: skip
XCIT = {
    (128, 12): "nano_12",
    (192, 12): "tiny_12",
    (192, 24): "tiny_24",
    (384, 12): "small_12",
    (384, 24): "small_24",
    (512, 24): "medium_24",
    (768, 24): "large_24",
}


def _published() -> dict[str, ViTShape]:
    """Vision Transformers that timm has under a name, and all else that tells them apart."""
    shapes = dict(ARCHS)
    for name, shape in DINOV2.items():
        scaled = dataclasses.replace(shape, layer_scale=True)
        shapes[name] = scaled
        shapes[name.replace("_dinov2", "_reg4_dinov2")] = dataclasses.replace(scaled, registers=4)
    for name, shape in DINOV3.items():
        rotary = dataclasses.replace(shape, layer_scale=True, registers=4, rotary=True)
        shapes[f"{name}_qkvb"] = rotary
        shapes[name] = dataclasses.replace(rotary, qkv_bias=False)
    # timm has these only with biases, and the largest only without.
    del shapes["vit_tiny_patch16_dinov3"], shapes["vit_7b_patch16_dinov3_qkvb"]
    return shapes


PUBLISHED = _published()


def inferred_info(
    state: Mapping[str, Tensor], *, num_heads: int | None = None
) -> CheckpointInfo | None:
    """The architecture that tensors of these shapes belong to, or None if it is none we know.

    Args:
        state: Tensors under timm's names.
        num_heads: Attention heads, which no shape tells; by default those of the published
            network of this shape, or 64 dimensions each.
    """
    if [_blocks(state, f"layer{i}") for i in range(1, 5)] == [3, 4, 6, 3]:
        return _resnet50(state)
    if "pos_embed.token_projection.weight" in state:
        return _xcit(state)
    shape = _vit_shape(state, num_heads)
    return None if shape is None else _vit(state, shape)


def named_info(arch: str | None) -> CheckpointInfo | None:
    """The architecture that a training run's arguments name, or None if it is none we know."""
    if arch is None or not (arch in ARCHS or imported_timm().is_model(arch)):
        return None
    return CheckpointInfo(arch=arch, patch_size=16)


def check_channels(state: Mapping[str, Tensor]) -> None:
    """Refuse a network for other than RGB images.

    Raises:
        CheckpointError: Its first convolution takes another number of channels.
    """
    first = next((state[name] for name in FIRST_CONVOLUTIONS if name in state), None)
    if first is None or first.ndim != 4 or first.shape[1] == 3:
        return
    remedy = "give weights that were trained on RGB"
    if first.shape[1] == 1:
        remedy = "save it with its first convolution repeated for R, G and B and divided by 3"
    raise CheckpointError(
        f"the network takes images of {first.shape[1]} channels, expected 3 for RGB; {remedy}"
    )


def _resnet50(state: Mapping[str, Tensor]) -> CheckpointInfo | None:
    if "layer1.0.conv3.weight" not in state or "conv1.weight" not in state:
        return None
    small_stem = state["conv1.weight"].shape[-1] == 3
    return CheckpointInfo(arch="resnet50", patch_size=32, small_stem=small_stem)


def _xcit(state: Mapping[str, Tensor]) -> CheckpointInfo | None:
    """Patches come from three or four strided convolutions: of 8 or 16 pixels."""
    embed_dim = state["pos_embed.token_projection.weight"].shape[0]
    size = XCIT.get((embed_dim, _blocks(state, "blocks")))
    patch_size = 16 if "patch_embed.proj.6.0.weight" in state else 8
    if size is None:
        return None
    return CheckpointInfo(arch=f"xcit_{size}_p{patch_size}_224", patch_size=patch_size)


def _vit(state: Mapping[str, Tensor], shape: ViTShape) -> CheckpointInfo:
    patch_size = state["patch_embed.proj.weight"].shape[-1]
    name = _name(shape, patch_size)
    info = CheckpointInfo(arch=name or "vit", patch_size=patch_size, shape=None if name else shape)
    if shape.rotary:
        return dataclasses.replace(info, image_size=DINOV3_IMAGE_SIZE, position_embedding="rotary")
    patches = state["pos_embed"].shape[1] - (0 if shape.registers else 1)
    image_size = math.isqrt(patches) * patch_size
    dinov2 = shape.layer_scale and image_size == DINOV2_IMAGE_SIZE
    return dataclasses.replace(
        info,
        image_size=image_size,
        input_size=DINOV2_INPUT_SIZE if dinov2 else None,
        position_embedding="antialiased" if shape.registers else "dino",
    )


def _name(shape: ViTShape, patch_size: int) -> str | None:
    for name, published in PUBLISHED.items():
        if shape == published and (name in ARCHS or f"_patch{patch_size}_" in name):
            return name
    return None


def _vit_shape(state: Mapping[str, Tensor], num_heads: int | None) -> ViTShape | None:
    """Shape that the tensors of a Vision Transformer tell, or None if they are of none."""
    patches, mlp = state.get("patch_embed.proj.weight"), state.get("blocks.0.mlp.fc2.weight")
    if "cls_token" not in state or patches is None or patches.ndim != 4 or mlp is None:
        return None
    embed_dim, hidden_dim = mlp.shape
    registers, rotary = state.get("reg_token"), "pos_embed" not in state
    packed = state.get("blocks.0.mlp.fc1.weight")
    shape = ViTShape(
        embed_dim=embed_dim,
        depth=_blocks(state, "blocks"),
        num_heads=1,
        hidden_dim=None if hidden_dim == 4 * embed_dim else hidden_dim,
        gated=packed is None or packed.shape[0] == 2 * hidden_dim,
        registers=0 if registers is None else registers.shape[1],
        layer_scale=bool({"blocks.0.ls1.gamma", "blocks.0.gamma_1"} & state.keys()),
        qkv_bias=bool({"blocks.0.attn.qkv.bias", "blocks.0.attn.q_bias"} & state.keys()),
        rotary=rotary,
    )
    heads = num_heads or _usual_heads(shape, state.get("rope.periods"))
    return None if not heads or embed_dim % heads else dataclasses.replace(shape, num_heads=heads)


def _usual_heads(shape: ViTShape, periods: Tensor | None) -> int:
    """Heads of the published network of this shape; 0 if 64 does not divide the width."""
    if periods is not None:  # each period turns four dimensions of a head
        return shape.embed_dim // (4 * len(periods))
    for published in PUBLISHED.values():
        if dataclasses.replace(shape, num_heads=published.num_heads) == published:
            return published.num_heads
    return 0 if shape.embed_dim % HEAD_DIM else shape.embed_dim // HEAD_DIM


def _blocks(state: Mapping[str, Tensor], stage: str) -> int:
    """Number of ``stage.N.*`` that there are."""
    return len({name.split(".")[1] for name in state if name.startswith(f"{stage}.")})
