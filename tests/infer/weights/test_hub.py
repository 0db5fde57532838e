"""Hugging Face folders and names: the network they hold, and clear refusals of all others."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dino_infer.errors import CheckpointError
from dino_infer.networks.build import ViTShape, build_backbone
from dino_infer.weights.checkpoints import load_backbone, weights_sha256
from tests.infer.weights.foreign_weights import (
    DINOV2,
    DINOV2_GIANT,
    DINOV2_REGISTERS,
    DINOV3,
    DINOV3_PLUS,
    ROUNDING,
    hub_folder,
    hub_state,
    meta_dinov2,
    meta_dinov3,
    network_of,
    same_features,
    saved,
)


@pytest.mark.parametrize(
    ("model_type", "shape", "original"),
    [
        ("vit", ViTShape(embed_dim=64, depth=2, num_heads=4), meta_dinov2),
        ("dinov2", DINOV2, meta_dinov2),
        ("dinov2", DINOV2_GIANT, meta_dinov2),
        ("dinov2_with_registers", DINOV2_REGISTERS, meta_dinov2),
        ("dinov3_vit", DINOV3, meta_dinov3),
        ("dinov3_vit", DINOV3_PLUS, meta_dinov3),
    ],
)
def test_a_hugging_face_folder_gives_its_network(tmp_path, model_type, shape, original):
    network = network_of(shape, patch_size=16, image_size=64)
    state = hub_state(original(network), model_type=model_type)
    assert "embeddings.cls_token" in state
    folder = hub_folder(
        tmp_path / "model",
        state,
        model_type=model_type,
        heads=shape.num_heads,
        layer_norm_eps=1e-12,
        hidden_act="silu" if shape == DINOV3_PLUS else "gelu",
        use_gated_mlp=shape == DINOV3_PLUS,
    )
    loaded, info = load_backbone(folder)
    assert (info.shape, info.patch_size) == (shape, 16)
    same_features(loaded, network, size=(64, 64), **ROUNDING)
    same_features(loaded, network, size=(48, 80), **ROUNDING)
    assert loaded.network.norm.eps == (1e-5 if shape.rotary else 1e-6)


@pytest.fixture
def vit_folder(tmp_path):
    """A folder as Hugging Face's ViT class leaves it, with a pooler."""
    network = network_of(ViTShape(embed_dim=64, depth=2, num_heads=1), patch_size=16, image_size=64)
    state = hub_state(network.network.state_dict(), model_type="vit")
    state |= {"pooler.dense.weight": torch.ones(64, 64), "pooler.dense.bias": torch.ones(64)}
    return hub_folder(tmp_path / "model", state, model_type="vit", heads=1)


def test_the_log_says_how_many_tensors_matched_and_what_was_left_out(vit_folder, caplog):
    with caplog.at_level(logging.INFO, logger="dino_infer"):
        load_backbone(vit_folder)
    assert caplog.messages[0].startswith("no preprocessor_config.json beside the weights")
    assert caplog.messages[-1] == (
        f"{vit_folder / 'model.safetensors'}: 30 tensors matched, 2 left out (pooler.dense.bias, "
        "pooler.dense.weight)"
    )


def test_preprocessing_of_a_hugging_face_folder_is_taken_over(vit_folder):
    settings = {
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.2, 0.1],
        "size": {"shortest_edge": 80},
        "do_center_crop": True,
        "crop_size": {"height": 48, "width": 48},
    }
    (vit_folder / "preprocessor_config.json").write_text(json.dumps(settings))
    info = load_backbone(vit_folder)[1]
    assert (info.mean, info.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert (info.image_size, info.input_size) == (64, 48)
    settings |= {"do_center_crop": False, "size": 72}
    (vit_folder / "preprocessor_config.json").write_text(json.dumps(settings))
    assert load_backbone(vit_folder)[1].input_size == 72


def test_pickled_hugging_face_weights_do_as_well(vit_folder):
    expected = load_backbone(vit_folder)[0]
    safe = vit_folder / "model.safetensors"
    state = {f"vit.{name}": tensor for name, tensor in load_file(safe).items()}
    saved(vit_folder / "pytorch_model.bin", state)
    safe.unlink()
    assert weights_sha256(load_backbone(vit_folder)[0]) == weights_sha256(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "dinov3_convnext"}, "model_type must be 'vit' or 'dinov2' or .* got 'dino"),
        ({"hidden_act": "relu"}, "hidden_act must be 'gelu', got 'relu'; for other models"),
        ({"rope_theta": 10000.0}, "rope_theta must be 100.0, got 10000.0"),
        ({"num_attention_heads": None}, "lacks num_attention_heads"),
    ],
)
def test_a_config_of_another_model_is_refused(vit_folder, change, message):
    path = vit_folder / "config.json"
    config = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(CheckpointError, match=message):
        load_backbone(vit_folder)


def test_a_damaged_config_is_one_clear_line(vit_folder):
    for text, message in (("{", "cannot read .*config.json"), ("[]", "must hold a JSON object")):
        (vit_folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            load_backbone(vit_folder)


def test_a_config_of_something_else_beside_the_weights_is_not_read(tmp_path):
    network = build_backbone("vit_micro", patch_size=16, image_size=64).eval()
    save_file(network.network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"optimizer": "adamw"}')
    loaded, info = load_backbone(tmp_path)
    assert (info.arch, info.input_size) == ("vit_micro", None)
    assert weights_sha256(loaded) == weights_sha256(network)


def test_a_folder_of_timm_keeps_its_normalisation(tmp_path):
    network = build_backbone("vit_micro", patch_size=16, image_size=64).eval()
    save_file(network.network.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "x", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.4] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded, info = load_backbone(tmp_path)
    assert (info.arch, info.mean, info.std) == ("vit_micro", (0.5,) * 3, (0.4,) * 3)
    assert weights_sha256(loaded) == weights_sha256(network)


def downloaded(*names, cache):
    """What a process with no network and this cache gets for each ``hf:NAME``."""
    code = (
        "import sys; from dino_infer.weights import hub\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(hub.download(name))\n"
        "    except Exception as error: print(type(error).__name__, error)"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(cache),
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_a_hub_name_needs_no_network_once_it_is_cached_and_else_says_what_to_pass(tmp_path):
    revision = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--org--name" / "snapshots" / revision
    folder.mkdir(parents=True)
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text(revision)
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"")
    unknown = ("org/absent", "not a name")
    said = downloaded("org/name", f"org/name@{revision}", *unknown, cache=tmp_path)
    assert said[:2] == [str(folder)] * 2
    for name, line in zip(unknown, said[2:], strict=True):
        assert line.startswith(f"CheckpointError cannot get 'hf:{name}' (")
        assert "offline, give a folder that holds its config.json" in line
