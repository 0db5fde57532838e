"""Small networks to export, their weights as files, and their exports."""

import torch

from dino_export.exports import export
from dino_export.runtimes import open_export
from dino_export.settings import ExportSettings
from dino_infer.networks.build import ViTShape, build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo

PLAIN = ViTShape(embed_dim=64, depth=2, num_heads=2)
REGISTERS = ViTShape(embed_dim=64, depth=2, num_heads=2, layer_scale=True, registers=4)
ROTARY = ViTShape(
    embed_dim=64, depth=2, num_heads=2, layer_scale=True, registers=4, rotary=True, gated=True
)
PATCH, SIZE = 8, 32
CPU = torch.device("cpu")
OUTPUTS = ("cls", "patches", "attention")

# The same operators in another order.
ROUNDING = {"rtol": 0, "atol": 1e-5}


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


def settings_of(form, **changes):
    changes = {"outputs": OUTPUTS, "size": (SIZE, SIZE)} | changes
    return ExportSettings(format=form, dynamic_size=form != "torchscript", **changes)


def exported(path, form, **changes):
    backbone, info = small_network()
    export(path, backbone, info, settings_of(form, **changes))
    return backbone


def assert_same(backbone, path, size):
    run = open_export(path, device=CPU).run
    for batch in (0, 3):
        images = torch.randn(batch, 3, *size)
        found = run(images)
        with torch.inference_mode():
            tokens = backbone.tokens(images)
        torch.testing.assert_close(torch.from_numpy(found["cls"]), tokens.cls, **ROUNDING)
        torch.testing.assert_close(torch.from_numpy(found["patches"]), tokens.patches, **ROUNDING)
