"""Small networks, and their weights in exactly the layouts that other projects publish."""

import argparse
import json
import math
import re

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from dino_infer.networks.build import ViTShape, build_backbone
from dino_infer.weights.checkpoints import weights_sha256

DINOV2 = ViTShape(embed_dim=64, depth=2, num_heads=1, layer_scale=True)
DINOV2_GIANT = ViTShape(
    embed_dim=64, depth=2, num_heads=1, layer_scale=True, gated=True, hidden_dim=88
)
DINOV2_REGISTERS = ViTShape(embed_dim=64, depth=2, num_heads=1, layer_scale=True, registers=4)
DINOV3 = ViTShape(embed_dim=128, depth=2, num_heads=2, layer_scale=True, registers=4, rotary=True)
DINOV3_PLUS = ViTShape(
    embed_dim=128, depth=2, num_heads=2, layer_scale=True, registers=4, rotary=True, gated=True
)

# Positions are taken off [CLS] and added again: one rounding of float32, through two blocks.
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}


def network_of(shape, *, patch_size=14, image_size=70):
    """A ViT with no parameter left at the zero or one it starts with."""
    backbone = build_backbone("vit", shape=shape, patch_size=patch_size, image_size=image_size)
    if shape.registers and not shape.rotary:
        backbone.position_embedding = "antialiased"
    return with_random_weights(backbone)


def with_random_weights(backbone):
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return backbone.eval()


def training_state(backbone, *, arch, steps=3):
    """What the original's training writes after a few steps of AdamW under its schedules."""
    model = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW([{"params": [model.weight]}, {"params": [model.bias]}])
    optimizer.param_groups[1]["weight_decay"] = 0.0
    cosine = 0.5 * (1 + np.cos(math.pi * np.arange(steps) / steps))
    rates, decays = 1e-6 + 5e-4 * cosine, 0.4 - 0.36 * cosine
    for step in range(steps):
        for i, group in enumerate(optimizer.param_groups):
            group["lr"] = rates[step]
            if i == 0:
                group["weight_decay"] = decays[step]
        model(torch.randn(2, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert isinstance(optimizer.state_dict()["param_groups"][0]["lr"], np.float64)
    state = {f"backbone.{n}": t for n, t in backbone.network.state_dict().items()}
    state |= {"head.mlp.0.weight": torch.ones(2, 64), "head.last_layer.weight_v": torch.ones(8, 2)}
    return {
        "student": {f"module.{name}": -tensor for name, tensor in state.items()},
        "teacher": state,
        "optimizer": optimizer.state_dict(),
        "epoch": 1,
        "args": argparse.Namespace(arch=arch, patch_size=8, momentum_teacher=np.float32(0.996)),
        "dino_loss": {"center": torch.zeros(1, 8)},
        "fp16_scaler": {"scale": 65536.0, "_growth_tracker": 7},
    }


def renamed(state, *rules):
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor.clone()
    assert len(result) == len(state)
    return result


def meta_dinov2(backbone, *, chunked=False):
    """DINOv2 as its authors publish it."""
    state = renamed(backbone.network.state_dict(), (r"^reg_token$", "register_tokens"))
    dim = backbone.embed_dim
    if "register_tokens" in state:
        position = torch.randn(1, 1, dim)
        state["cls_token"] -= position
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    if "blocks.0.mlp.fc2.weight" in state and state["blocks.0.mlp.fc2.weight"].shape[1] != 4 * dim:
        state = renamed(state, (r"\.fc1\.", ".w12."), (r"\.fc2\.", ".w3."))
    if chunked:
        state = renamed(state, (r"^blocks\.(\d+)\.", r"blocks.0.\1."))
    return state | {"mask_token": torch.randn(1, dim)}


def meta_dinov3(backbone):
    """DINOv3 as its authors publish it; what is masked may be anything."""
    state = renamed(
        backbone.network.state_dict(),
        (r"^reg_token$", "storage_tokens"),
        (r"^rope\.", "rope_embed."),
        (r"\.gamma_(\d)$", r".ls\1.gamma"),
        (r"\.fc1_g\.", ".w1."),
        (r"\.fc1_x\.", ".w2."),
    )
    if "blocks.0.mlp.w1.weight" in state:
        state = renamed(state, (r"\.fc2\.", ".w3."))
    for name in [name for name in state if name.endswith(".q_bias")]:
        prefix, query = name.removesuffix("q_bias"), state.pop(name)
        value = state.pop(f"{prefix}v_bias")
        state[f"{prefix}qkv.bias"] = torch.cat([query, torch.full_like(query, torch.nan), value])
        state[f"{prefix}qkv.bias_mask"] = torch.ones(3 * len(query))
    return state | {
        "mask_token": torch.randn(1, backbone.embed_dim),
        "local_cls_norm.weight": torch.ones(backbone.embed_dim),
    }


def meta_xcit(backbone):
    """XCiT as DINO's authors publish it: one joint projection in class attention."""
    state = renamed(backbone.network.state_dict(), (r"^pos_embed\.", "pos_embeder."))
    for name in [name for name in state if re.search(r"cls_attn_blocks.*\.attn\.q\.", name)]:
        parts = [state.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        state[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    return state


def hub_state(state, *, model_type):
    """The original's tensors as the class of this type in transformers saves them."""
    later = model_type == "dinov3_vit"
    attention = "attention" if later else "attention.attention"
    words = ("q_proj", "k_proj", "v_proj") if later else ("query", "key", "value")
    state = renamed(
        {name: tensor for name, tensor in state.items() if not name.startswith("local_cls_norm")},
        (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
        (r"^storage_tokens$", "embeddings.register_tokens"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings." + "projection." * (not later)),
        (r"^blocks\.", "layer." if later else "encoder.layer."),
        (r"\.ls(\d)\.gamma$", r".layer_scale\1.lambda1"),
        (r"^norm\.", "norm." if later else "layernorm."),
        (r"\.attn\.proj\.", ".attention.o_proj." if later else ".attention.output.dense."),
        (r"\.w12\.", ".weights_in."),
        (r"\.w3\.", ".down_proj." if later else ".weights_out."),
        (r"\.w1\.", ".gate_proj."),
        (r"\.w2\.", ".up_proj."),
    )
    if model_type == "vit":
        state = renamed(
            state,
            (r"\.norm1\.", ".layernorm_before."),
            (r"\.norm2\.", ".layernorm_after."),
            (r"\.mlp\.fc1\.", ".intermediate.dense."),
            (r"\.mlp\.fc2\.", ".output.dense."),
        )
    if later:
        state = renamed(state, (r"\.fc1\.", ".up_proj."), (r"\.fc2\.", ".down_proj."))
        state = {name: tensor for name, tensor in state.items() if "bias_mask" not in name}
    for name in [name for name in state if ".attn.qkv." in name]:
        for word, part in zip(words, state.pop(name).chunk(3), strict=True):
            if (word, name.endswith("bias")) != ("k_proj", True):
                state[name.replace("attn.qkv", f"{attention}.{word}")] = part.clone()
    return state


def hub_folder(folder, state, *, model_type, heads, **config):
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in state.items()},
              folder / "model.safetensors")  # fmt: skip
    config = {"model_type": model_type, "num_attention_heads": heads, "hidden_act": "gelu"} | config
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def saved(path, content):
    torch.save(content, path)
    return path


def same_features(first, second, *, size, **tolerance):
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        for ours, expected in zip(first.tokens(images)[:3], second.tokens(images)[:3], strict=True):
            torch.testing.assert_close(ours, expected, **(tolerance or {"rtol": 0, "atol": 0}))


def same_weights(first, second):
    return weights_sha256(first) == weights_sha256(second)
