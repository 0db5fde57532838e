"""Tensor names of other projects, turned into timm's.

Read are the layouts of DINO (whose ViTs and ResNets timm names alike), DINO's XCiT, DINOv2 with
and without registers, DINOv3 ViTs, and Hugging Face's ViT, DINOv2 and DINOv3 classes, which are
first given the names of the project that published the weights; and mmpretrain's ViT.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dino_infer.errors import CheckpointError

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]

# What no feature depends on: the token of masked training, and parts used in training alone.
TRAINING_ONLY = re.compile(
    r"mask_token$|\.bias_mask$|^local_cls_norm\.|^(\w+\.)?(pooler|classifier)\."
)

HUGGING_FACE: Rules = (
    (r"^(vit|dinov2|dinov2_with_registers|dinov3_vit)\.", ""),
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^(encoder\.|model\.)?layer\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
HUGGING_FACE_MLP: Rules = ((r"\.up_proj\.", ".fc1."), (r"\.down_proj\.", ".fc2."))
HUGGING_FACE_GATED_MLP: Rules = (
    (r"\.gate_proj\.", ".w1."),
    (r"\.up_proj\.", ".w2."),
    (r"\.down_proj\.", ".w3."),
)
DINOV2: Rules = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # trained in chunks of blocks
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
DINOV3: Rules = (
    (r"^storage_tokens$", "reg_token"),
    (r"^rope_embed\.", "rope."),
    (r"\.ls(\d)\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
MMPRETRAIN: Rules = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^layers\.(\d+)\.(attn|ffn)\.gamma(\d)\.weight$", r"blocks.\1.ls\3.gamma"),
    (r"^layers\.(\d+)\.ln(\d)\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"^ln1\.", "norm."),
)
XCIT: Rules = ((r"^pos_embeder\.", "pos_embed."),)


def in_timm_names(state: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """The tensors under timm's names, and the names of those that no feature depends on.

    Tensors that already carry timm's names, or names of a layout that is not known, stay.

    Raises:
        CheckpointError: The layout is known and not supported, or two tensors get one name.
    """
    if any("downsample_layers." in name for name in state):
        raise CheckpointError(
            "ConvNeXt weights are not read from files of this layout; pass their timm name, e.g. "
            "timm:convnext_tiny.dinov3_lvd1689m"
        )
    left_out = [name for name in state if TRAINING_ONLY.search(name)]
    kept = {name: tensor for name, tensor in state.items() if name not in left_out}
    if any("embeddings.patch_embeddings." in name for name in kept):
        kept = _from_hugging_face(kept)
    if "patch_embed.projection.weight" in kept and "layers.0.ln1.weight" in kept:
        kept = renamed(kept, MMPRETRAIN)
    if "pos_embeder.token_projection.weight" in kept:
        kept = _split(renamed(kept, XCIT), r"^(cls_attn_blocks\.\d+\.attn)\.qkv\.(\w+)$", "qkv")
    elif "storage_tokens" in kept:
        kept = _from_dinov3(kept)
    elif "cls_token" in kept:
        kept = _from_dinov2(kept)
    return kept, left_out


def _from_hugging_face(state: State) -> State:
    gated = any(".mlp.gate_proj." in name for name in state)
    mlp = HUGGING_FACE_GATED_MLP if gated else HUGGING_FACE_MLP
    state = renamed(state, HUGGING_FACE + mlp)
    if "pos_embed" not in state and "register_tokens" in state:  # DINOv3's word for registers
        state["storage_tokens"] = state.pop("register_tokens")
    queries = [name for name in state if ".attn.query." in name]
    for query in queries:
        parts = [state.pop(query)]
        for word in ("key", "value"):
            name = query.replace(".query.", f".{word}.")
            if name not in state and word == "key" and name.endswith("bias"):
                parts.append(torch.zeros_like(parts[0]))  # DINOv3 has none
            elif name in state:
                parts.append(state.pop(name))
        state[query.replace(".query.", ".qkv.")] = torch.cat(parts)
    return state


def _from_dinov2(state: State) -> State:
    state = renamed(state, DINOV2)
    if "register_tokens" in state:  # timm adds no positions to [CLS] and registers
        positions = state["pos_embed"]
        state["reg_token"] = state.pop("register_tokens")
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        state["pos_embed"] = positions[:, 1:]
    return state


def _from_dinov3(state: State) -> State:
    """Drop the bias of keys, which DINOv3 lacks: that third of the file's bias is masked."""
    state = _split(renamed(state, DINOV3), r"^(blocks\.\d+\.attn)\.qkv\.(bias)$", "qkv")
    biases = [name for name in state if re.search(r"\.attn\.[qkv]\.bias$", name)]
    for name in biases:
        bias = state.pop(name)
        if not name.endswith(".k.bias"):
            state[re.sub(r"\.([qv])\.bias$", r".\1_bias", name)] = bias
    return state


def _split(state: State, pattern: str, parts: Iterable[str]) -> State:
    """Joint tensors cut into equal parts: ``X.qkv.bias`` to ``X.q.bias``, ``X.k.bias`` ..."""
    result: State = {}
    for name, tensor in state.items():
        if match := re.match(pattern, name):
            names = [f"{match[1]}.{part}.{match[2]}" for part in parts]
            result.update(zip(names, tensor.chunk(len(names)), strict=True))
        else:
            result[name] = tensor
    return result


def renamed(state: Mapping[str, Tensor], rules: Rules) -> State:
    """The tensors under the names that all rules, one after the other, make of theirs.

    Raises:
        CheckpointError: Two tensors get one name.
    """
    result: State = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in result:
            raise CheckpointError(f"two tensors of the weights would be {new!r}; one is {name!r}")
        result[new] = tensor
    return result
