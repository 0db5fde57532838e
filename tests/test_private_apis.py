"""Names of dependencies that are used beyond their public interface, each tried on its own.

``pyproject.toml`` bounds these dependencies from above. Who raises a bound runs this file first: a
failure names what has changed and the module that uses it. Those of the app stand in ``app/``.
"""

import io
import re
import tomllib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import tyro
import tyro._errors as refused

ROOT = Path(__file__).parents[1]
BOUNDED = ("torch", "torchvision", "timm", "gradio", "uvicorn", "tyro")


def test_each_dependency_that_is_used_privately_has_an_upper_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["app"]]
    bounds = {re.split(r"[<>=]", line)[0]: "<" in line for line in wanted}
    assert [name for name in BOUNDED if not bounds[name]] == []


def test_weight_norm_scales_rows():  # dino_train/head.py
    v, g = torch.randn(5, 3), torch.rand(5, 1)
    expected = F.normalize(v, dim=1) * g
    torch.testing.assert_close(torch._weight_norm(v, g, 0), expected)


def test_foreach_operators_work_on_lists():  # dino_train/optim.py, student_teacher.py
    tensors, ends = [torch.ones(2), torch.full((3,), 2.0)], [torch.zeros(2), torch.zeros(3)]
    assert [float(n) for n in torch._foreach_norm(tensors)] == pytest.approx([2**0.5, 12**0.5])
    torch._foreach_mul_(tensors, [torch.tensor(2.0), torch.tensor(0.5)])
    torch._foreach_lerp_(tensors, ends, 0.25)
    assert [t.tolist() for t in tensors] == [[1.5] * 2, [0.75] * 3]


def test_new_shared_storage_is_shared():  # dino_train/crops/memory.py
    storage = torch.UntypedStorage._new_shared(8)
    assert len(storage) == 8 and storage.is_shared()


def test_the_antialiased_operator_is_that_of_interpolate():  # dino_train/crops/in_workers.py
    pixels = torch.randint(0, 256, (1, 3, 20, 30), dtype=torch.uint8)
    made = torch.ops.aten._upsample_bicubic2d_aa.default(pixels, (8, 8), False, None, None)
    expected = F.interpolate(pixels, (8, 8), mode="bicubic", antialias=True)
    assert torch.equal(made, expected)


def test_cpus_tell_their_bfloat16():  # dino_infer/devices.py
    assert torch.cpu._is_avx512_bf16_supported() in (True, False)


def test_a_loader_asks_its_own_method_about_workers():  # dino_infer/embedding/decoding.py
    class Loader(torch.utils.data.DataLoader):
        asked = 0

        def check_worker_number_rationality(self):
            self.asked += 1

    assert Loader([1, 2], num_workers=1).asked == 1


def test_sizes_of_one_can_be_left_open_in_a_program():  # dino_export/exported_program.py
    from torch.fx.experimental import _config

    before = _config.backed_size_oblivious
    with _config.patch(backed_size_oblivious=True):
        assert _config.backed_size_oblivious is True
    assert _config.backed_size_oblivious == before


def test_archives_are_written_record_by_record():  # dino_export/torchscript.py
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    writer.write_record("data.pkl", b"text", 4)
    writer.write_end_of_file()
    buffer.seek(0)
    assert torch._C.PyTorchFileReader(buffer).get_record("data.pkl") == b"text"


def test_inductor_compiles_packages_and_loads_them():  # dino_export/runtimes.py
    from torch._inductor import aoti_compile_and_package, aoti_load_package
    from torch._inductor.exc import InductorError

    assert callable(aoti_compile_and_package) and callable(aoti_load_package)
    assert issubclass(InductorError, Exception)


def test_timm_networks_have_the_parts_that_are_walked_through():  # dino_infer/networks
    import timm
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import Block

    network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)
    block = network.blocks[0]
    assert type(block) is Block and type(block.attn) is Attention
    assert block.attn.gate is None and block.attn.attn_drop.p == 0
    images = torch.randn(1, 3, 32, 32)
    x = network.patch_embed.proj(images).flatten(2).transpose(1, 2)
    x = network.norm_pre(torch.cat([network.cls_token, x], dim=1) + network.pos_embed)
    for block in network.blocks:
        attn = block.attn
        q, k, v = attn.qkv(block.norm1(x)).unflatten(-1, (3, attn.num_heads, -1)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (attn.q_norm(q), attn.k_norm(k), v))
        weights = (q * attn.scale) @ k.transpose(-2, -1)
        mixed = attn.norm((weights.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))
        x = x + block.drop_path1(block.ls1(attn.proj_drop(attn.proj(mixed))))
        x = x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    torch.testing.assert_close(network.norm(x), network.forward_features(images), rtol=0, atol=1e-5)


def test_timm_turns_queries_by_positions():  # dino_infer/networks/vit.py, dino_export/positions.py
    import timm
    from timm.layers.pos_embed_sincos import apply_rot_embed_cat

    network = timm.create_model("vit_small_patch16_dinov3", img_size=32, num_classes=0)
    rope, attn = network.rope, network.blocks[0].attn
    embedding = rope.get_embed(shape=(2, 2))
    axis = torch.tensor([-0.5, 0.5])
    places = torch.cartesian_prod(axis, axis)
    turns = torch.cat(rope._get_pos_embed_from_coords(places), dim=-1)
    torch.testing.assert_close(turns, embedding)
    x = torch.randn(1, attn.num_heads, 4, embedding.shape[-1] // 2)
    assert apply_rot_embed_cat(x, embedding, half=attn.rotate_half).shape == x.shape


def test_tyro_calls_a_hook_before_it_refuses():  # dino_infer/cli/parsing.py
    def refuse(event: refused.ParseErrorEvent) -> None:
        assert isinstance(event, refused.MissingArgs)
        raise LookupError(event.prog)

    def command(value: int) -> int:
        return value

    with refused.on_parse_error(refuse), pytest.raises(LookupError, match="name"):
        tyro.cli(command, prog="name", args=[])
