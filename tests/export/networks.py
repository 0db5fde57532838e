"""Small networks to export, and their weights as files."""

import torch

from dino_infer.networks.build import ViTShape, build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo

PLAIN = ViTShape(embed_dim=64, depth=2, num_heads=2)
REGISTERS = ViTShape(embed_dim=64, depth=2, num_heads=2, layer_scale=True, registers=4)
ROTARY = ViTShape(
    embed_dim=64, depth=2, num_heads=2, layer_scale=True, registers=4, rotary=True, gated=True
)
PATCH, SIZE = 8, 32


def small_network(shape=PLAIN):
    """A ViT with no parameter left at the zero or one it starts with, and what it is."""
    torch.manual_seed(1)
    backbone = build_backbone("vit", shape=shape, patch_size=PATCH, image_size=SIZE)
    positions = "rotary" if shape.rotary else "antialiased" if shape.registers else "dino"
    if positions == "antialiased":
        backbone.position_embedding = positions
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    info = CheckpointInfo(
        arch="vit",
        shape=shape,
        patch_size=PATCH,
        image_size=SIZE,
        position_embedding=positions,
        recipe="small",
        step=7,
    )
    return backbone.eval(), info


def weights_file(path, shape=PLAIN):
    save_checkpoint(path, *small_network(shape))
    return path
