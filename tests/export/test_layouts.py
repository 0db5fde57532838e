"""Names of other projects, against their tensors as they are published."""

import pytest

from dino_export.layouts import in_hugging_face_names, in_original_names
from tests.export.networks import PLAIN, REGISTERS, ROTARY, small_network
from tests.infer.weights.foreign_weights import DINOV2_GIANT, hub_state, meta_dinov2, meta_dinov3

SHAPES = {"vit": PLAIN, "dinov2": DINOV2_GIANT, "registers": REGISTERS, "dinov3": ROTARY}
MODEL_TYPES = {
    "vit": "vit",
    "dinov2": "dinov2",
    "registers": "dinov2_with_registers",
    "dinov3": "dinov3_vit",
}


def published(kind, backbone):
    """The original's tensors, written by hand."""
    if kind == "vit":
        return backbone.network.state_dict()
    return meta_dinov3(backbone) if kind == "dinov3" else meta_dinov2(backbone)


def names_and_shapes(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("kind", SHAPES)
def test_original_files_have_the_tensors_that_the_original_loads_strictly(kind):
    backbone, _ = small_network(SHAPES[kind])
    found = in_original_names(backbone.network.state_dict(), SHAPES[kind])
    expected = names_and_shapes(published(kind, backbone))
    expected.pop("local_cls_norm.weight", None)  # of the largest DINOv3 alone
    periods = {name for name in expected if name.startswith("rope_embed.")}
    assert names_and_shapes(found) == {n: s for n, s in expected.items() if n not in periods}


@pytest.mark.parametrize("kind", SHAPES)
def test_hugging_face_files_have_the_tensors_of_its_classes(kind):
    backbone, _ = small_network(SHAPES[kind])
    found = in_hugging_face_names(backbone.network.state_dict(), SHAPES[kind])
    original = {n: t for n, t in published(kind, backbone).items() if "rope_embed" not in n}
    expected = names_and_shapes(hub_state(original, model_type=MODEL_TYPES[kind]))
    if kind == "dinov3":
        expected["embeddings.mask_token"] = (1, 1, backbone.embed_dim)
    assert names_and_shapes(found) == expected
