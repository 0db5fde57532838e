"""Tensors under the names that other projects give them: the opposite of ``weights.layouts``.

From timm's names to those of the project that published the architecture, and from there to
those of the classes in transformers.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dino_infer.networks.build import ViTShape
from dino_infer.weights.layouts import Rules, State, renamed

ORIGINAL_DINOV2: Rules = ((r"^reg_token$", "register_tokens"),)
ORIGINAL_GATED: Rules = ((r"\.mlp\.fc1\.", ".mlp.w12."), (r"\.mlp\.fc2\.", ".mlp.w3."))
ORIGINAL_DINOV3: Rules = (
    (r"^reg_token$", "storage_tokens"),
    (r"^rope\.", "rope_embed."),
    (r"\.gamma_(\d)$", r".ls\1.gamma"),
)
ORIGINAL_DINOV3_GATED: Rules = (
    (r"\.mlp\.fc1_g\.", ".mlp.w1."),
    (r"\.mlp\.fc1_x\.", ".mlp.w2."),
    (r"\.mlp\.fc2\.", ".mlp.w3."),
)
ORIGINAL_XCIT: Rules = ((r"^pos_embed\.", "pos_embeder."),)

HUGGING_FACE: Rules = (
    (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    (r"^storage_tokens$", "embeddings.register_tokens"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
)
HUGGING_FACE_DINOV2: Rules = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.w12\.", ".mlp.weights_in."),
    (r"\.mlp\.w3\.", ".mlp.weights_out."),
    (r"^norm\.", "layernorm."),
)
HUGGING_FACE_VIT: Rules = (
    *HUGGING_FACE_DINOV2,
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
HUGGING_FACE_DINOV3: Rules = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"^blocks\.", "layer."),
    (r"\.attn\.query\.", ".attention.q_proj."),
    (r"\.attn\.key\.", ".attention.k_proj."),
    (r"\.attn\.value\.", ".attention.v_proj."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.mlp\.(fc1|w2)\.", ".mlp.up_proj."),
    (r"\.mlp\.(fc2|w3)\.", ".mlp.down_proj."),
    (r"\.mlp\.w1\.", ".mlp.gate_proj."),
)


def in_original_names(state: Mapping[str, Tensor], shape: ViTShape | None) -> State:
    """Tensors as DINO, DINOv2 and DINOv3 publish them, with what their modules load strictly.

    Args:
        state: Tensors under timm's names.
        shape: Shape of a Vision Transformer; None for other networks.
    """
    if shape is None:
        return _xcit(state) if "pos_embed.token_projection.weight" in state else dict(state)
    if shape.rotary:
        return _dinov3(state, shape)
    return _dinov2(state, shape) if shape.layer_scale else dict(state)


def in_hugging_face_names(state: Mapping[str, Tensor], shape: ViTShape) -> State:
    """Tensors as the classes ViT, Dinov2, Dinov2WithRegisters and DINOv3ViT of transformers do."""
    original = _queries_apart(in_original_names(state, shape))
    if not shape.rotary:
        own = HUGGING_FACE_DINOV2 if shape.layer_scale else HUGGING_FACE_VIT
        return renamed(original, (*HUGGING_FACE, *own))
    unknown = re.compile(r"^rope_embed\.|\.bias_mask$|\.attn\.key\.bias$")
    kept = {name: tensor for name, tensor in original.items() if not unknown.search(name)}
    kept["mask_token"] = kept["mask_token"][None]
    return renamed(kept, (*HUGGING_FACE, *HUGGING_FACE_DINOV3))


def _dinov2(state: Mapping[str, Tensor], shape: ViTShape) -> State:
    original = renamed(state, ORIGINAL_DINOV2 + (ORIGINAL_GATED if shape.gated else ()))
    if shape.registers:  # here [CLS] has a position; timm has added it already
        positions = original["pos_embed"]
        original["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    return original | {"mask_token": torch.zeros(1, shape.embed_dim)}


def _dinov3(state: Mapping[str, Tensor], shape: ViTShape) -> State:
    original = renamed(state, ORIGINAL_DINOV3 + (ORIGINAL_DINOV3_GATED if shape.gated else ()))
    for query in [name for name in original if name.endswith(".q_bias")]:
        name = query.removesuffix("q_bias")
        q, v = original.pop(query), original.pop(f"{name}v_bias")
        ones, zeros = torch.ones_like(q), torch.zeros_like(q)
        original[f"{name}qkv.bias"] = torch.cat([q, zeros, v])
        original[f"{name}qkv.bias_mask"] = torch.cat([ones, zeros, ones])
    return original | {"mask_token": torch.zeros(1, shape.embed_dim)}


def _xcit(state: Mapping[str, Tensor]) -> State:
    """Class attention has one joint projection, which timm cuts into three."""
    original = renamed(state, ORIGINAL_XCIT)
    for query in [name for name in original if re.search(r"cls_attn_blocks.*\.attn\.q\.", name)]:
        parts = [original.pop(query.replace(".q.", f".{part}.")) for part in "qkv"]
        original[query.replace(".q.", ".qkv.")] = torch.cat(parts)
    return original


def _queries_apart(state: Mapping[str, Tensor]) -> State:
    apart: State = {}
    for name, tensor in state.items():
        if match := re.match(r"(blocks\.\d+\.attn\.)qkv\.(weight|bias)$", name):
            for word, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                apart[f"{match[1]}{word}.{match[2]}"] = part
        else:
            apart[name] = tensor
    return apart
