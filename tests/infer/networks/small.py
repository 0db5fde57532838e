"""A small Vision Transformer for the tests of this folder."""

from dino_infer.networks.build import (
    vision_transformer,
)


def small_vit(**options):
    shape = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 4, "image_size": 16}
    return vision_transformer(**(shape | options)).eval()
