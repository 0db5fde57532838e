import copy
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dino_infer.devices import LateNumbers
from dino_infer.networks.build import build_backbone, vision_transformer
from dino_train import optim, sliced_loss
from dino_train.distributed import Process
from dino_train.head import DINOHead
from dino_train.health import SkippedSteps
from dino_train.learner import Learner, Rates
from dino_train.loss import Center
from dino_train.student_teacher import (
    MultiCropNetwork,
    teacher_of,
    update_teacher,
    use_plain_attention,
)

CPU = Process(rank=0, world_size=1, device=torch.device("cpu"))
BF16 = 2**-6  # of the largest value: two roundings in a row, and some room
RATES = Rates(lr=1e-3, weight_decay=0.04, momentum=0.9, teacher_temp=0.04)


def network(drop_path_rate: float = 0.0, **head) -> MultiCropNetwork:
    backbone = vision_transformer(
        embed_dim=16,
        depth=2,
        num_heads=2,
        patch_size=4,
        image_size=16,
        drop_path_rate=drop_path_rate,
    )
    return MultiCropNetwork(backbone, DINOHead(16, 32, hidden_dim=24, bottleneck_dim=8, **head))


def learner(precision="fp32", process=CPU, **options) -> Learner:
    head = options.pop("head", {})
    student = network(**head).to(process.device)
    optimizer = optim.build_optimizer(
        options.pop("optimizer", "adamw"), optim.parameter_groups(student)
    )
    teacher = teacher_of(student, network(**head).to(process.device))
    center = Center(32).to(process.device)
    return Learner(
        student, teacher, center, optimizer, process=process, precision=precision, **options
    )


def crops(batch: int = 4, local: int = 3) -> list[torch.Tensor]:
    groups = [torch.randn(2, batch, 3, 16, 16)]
    return [*groups, torch.randn(local, batch, 3, 8, 8)] if local else groups


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {
        name for name, value in module.state_dict().items() if not torch.equal(value, before[name])
    }


def test_a_step_moves_student_teacher_and_centre():
    ours = learner()
    student, teacher = state(ours.student), state(ours.teacher)
    outcome = ours.step([crops()], rates=RATES)
    assert outcome.applied
    assert changed(ours.student, student) and changed(ours.teacher, teacher)
    assert ours.center.center.any()


def test_two_global_crops_alone_are_enough():
    assert learner().step([crops(local=0)], rates=RATES).applied


def test_the_teacher_gets_no_gradient():
    ours = learner()
    ours.step([crops()], rates=RATES)
    assert all(p.grad is None and not p.requires_grad for p in ours.teacher.parameters())


def test_teacher_follows_the_student_by_one_minus_momentum():
    student, teacher = network(), network()
    expected = [
        0.75 * t + 0.25 * s for t, s in zip(teacher.parameters(), student.parameters(), strict=True)
    ]
    update_teacher(teacher, student, momentum=0.75)
    for parameter, value in zip(teacher.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter, value)


def test_momentum_one_changes_no_teacher():
    student, teacher = network(), network()
    before = state(teacher)
    update_teacher(teacher, student, momentum=1.0)
    assert not changed(teacher, before)


def test_only_the_student_has_stochastic_depth():
    student = network(drop_path_rate=0.5)
    teacher = teacher_of(student, network())
    images = torch.randn(2, 8, 3, 16, 16)
    torch.testing.assert_close(teacher(images)[0], teacher(images)[0], rtol=0, atol=0)
    assert not torch.equal(student(images)[0], student(images)[0])


def test_frozen_last_layer_stands_still_and_the_rest_learns():
    ours = learner()
    before = state(ours.student)
    ours.step([crops()], rates=RATES, freeze_last_layer=True)
    moved = changed(ours.student, before)
    assert "head.last_layer.weight_v" not in moved
    assert "head.mlp.0.weight" in moved and "backbone.network.pos_embed" in moved


def test_frozen_backbone_stands_still_and_the_head_learns():
    ours = learner()
    before = state(ours.student)
    ours.step([crops()], rates=RATES, freeze_backbone=True)
    moved = changed(ours.student, before)
    assert moved and all(name.startswith("head.") for name in moved)


def test_norms_of_the_last_layer_move_only_when_asked():
    for norm_last_layer, moves in ((True, False), (False, True)):
        ours = learner(head={"norm_last_layer": norm_last_layer})
        before = state(ours.student)
        ours.step([crops()], rates=RATES)
        assert ("head.last_layer.weight_g" in changed(ours.student, before)) is moves


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_a_non_finite_step_changes_nothing(optimizer: str, value: float):
    ours = learner(optimizer=optimizer, head={"use_bn": True, "norm_last_layer": False})
    bad = crops()
    bad[1][0, 0, 0, 0, 0] = value
    for _ in range(2):  # the first time the optimizer has no moments yet
        before = copy.deepcopy(ours.state())
        assert not ours.step([bad], rates=RATES).applied
        assert_same(before, ours.state())
        assert ours.step([crops()], rates=RATES).applied
        assert changed(ours.student, before["student"])
    counts = ours.skipped.numbers()
    assert counts["skipped_steps"] == 2 and counts["skipped_in_a_row"] == 1


def assert_same(before: dict, after: dict, path: str = "") -> None:
    """Bit for bit; moments that were not there yet may be there now, as zeros."""
    for key, value in after.items():
        name = f"{path}/{key}"
        if isinstance(value, dict):
            assert_same(before.get(key, {}), value, name)
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, before.get(key, torch.zeros_like(value))), name


def test_called_off_steps_are_counted_in_a_row_and_in_all():
    counted = SkippedSteps(CPU.device)
    for applied in (True, False, False, True, False):
        counted.count(torch.tensor(applied))
    numbers = {name: value.item() for name, value in counted.numbers().items()}
    assert numbers == {"skipped_steps": 3, "skipped_in_a_row": 2}


class NoReading(TorchDispatchMode):
    """Refuses to let the host see a number of a tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host reads a number"
        assert func is not torch.ops.aten.nonzero.default, "a shape depends on a number"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_a_step_lets_the_host_see_no_number(monkeypatch, optimizer: str, precision: str):
    monkeypatch.setattr(sliced_loss, "_READ_AT_ONCE", ())  # as on a GPU
    ours = learner(precision, optimizer=optimizer, head={"use_bn": True})
    with NoReading():
        for freeze in (True, False):
            ours.step([crops(), crops()], rates=RATES, freeze_last_layer=freeze)


def test_a_number_that_the_host_reads_is_noticed():
    with pytest.raises(AssertionError, match="the host reads a number"), NoReading():
        bool(torch.ones(1) > 0)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_host_never_waits_for_the_gpu(optimizer: str, precision: str):
    cuda = Process(rank=0, world_size=1, device=torch.device("cuda"))
    ours = learner(precision, optimizer=optimizer, process=cuda)
    batch = [group.cuda() for group in crops()]
    ours.step([batch], rates=RATES)  # the first step makes moments and handles
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            outcome = ours.step([batch], rates=RATES)
            numbers = LateNumbers(torch.stack(list(outcome.health.values())))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert outcome.applied and all(math.isfinite(number) for number in numbers.values())


def parts(ours: Learner) -> dict[str, torch.nn.Module]:
    return {"student": ours.student, "teacher": ours.teacher, "center": ours.center}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_accumulating_two_halves_equals_the_whole_batch(optimizer: str):
    whole, halves = learner(optimizer=optimizer), learner(optimizer=optimizer)
    halves.student.load_state_dict(whole.student.state_dict())
    halves.teacher.load_state_dict(whole.teacher.state_dict())
    for _ in range(3):
        batch = crops(batch=6)
        whole.step([batch], rates=RATES)
        halves.step([[g[:, :3] for g in batch], [g[:, 3:] for g in batch]], rates=RATES)
    for name, part in parts(whole).items():
        for key, value in part.state_dict().items():
            other = parts(halves)[name].state_dict()[key]
            # Key biases have gradient zero; Adam makes steps of their rounding noise.
            both = [value, other]
            if key.endswith("qkv.bias"):
                both = [torch.cat([v[:16], v[32:]]) for v in both]
            torch.testing.assert_close(*both, rtol=0, atol=1e-5, msg=f"{name} {key}")


def fused(net: torch.nn.Module) -> set[bool]:
    return {module.fused_attn for module in net.modules() if hasattr(module, "fused_attn")}


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_only_bf16_on_a_cpu_forms_small_attention_matrices(precision: str):
    ours = learner(precision)
    assert fused(ours.student) == fused(ours.teacher) == {precision != "bf16"}


def test_formed_attention_matrices_change_nothing_but_the_rounding():
    backbone = network().backbone.eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        before = backbone(images)
        use_plain_attention(backbone)
        assert torch.allclose(backbone(images), before, atol=BF16 * before.abs().max().item())


def test_large_attention_matrices_are_not_formed():
    backbone = vision_transformer(
        embed_dim=16, depth=1, num_heads=2, patch_size=4, image_size=84, drop_path_rate=0.0
    )
    use_plain_attention(backbone)
    assert fused(backbone) == {True}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_steps_keep_float32_weights_and_learn(precision):
    ours = learner(precision=precision)
    before = state(ours.student)
    outcomes = [ours.step([crops()], rates=RATES) for _ in range(30)]
    # fp16 skips steps while its scale settles: a head this narrow has gradients in the hundreds.
    assert sum(outcome.applied for outcome in outcomes[15:]) >= 12
    assert changed(ours.student, before)
    assert all(p.dtype == torch.float32 for p in ours.student.parameters())


def test_state_restores_a_learner_bit_for_bit():
    first, second = learner(precision="fp16"), learner(precision="fp16")
    batches = [crops() for _ in range(4)]
    for batch in batches[:2]:
        first.step([batch], rates=RATES)
    second.load_state(copy.deepcopy(first.state()))
    for batch in batches[2:]:
        first.step([batch], rates=RATES)
        second.step([batch], rates=RATES)
    for name, part in parts(first).items():
        assert not changed(part, parts(second)[name].state_dict())


def test_batch_norm_statistics_of_the_teacher_are_its_own():
    def resnet() -> MultiCropNetwork:
        backbone = build_backbone("resnet18", small_stem=True)
        head = DINOHead(512, 16, hidden_dim=8, bottleneck_dim=4, use_bn=True)
        return MultiCropNetwork(backbone, head)

    student = resnet()
    teacher = teacher_of(student, resnet())
    groups = optim.parameter_groups(student)
    ours = Learner(
        student,
        teacher,
        Center(16),
        optim.build_optimizer("sgd", groups),
        process=CPU,
    )
    ours.step([crops(batch=3)], rates=RATES)
    name = "backbone.network.bn1.running_mean"
    assert teacher.state_dict()[name].any()
    assert not torch.equal(teacher.state_dict()[name], student.state_dict()[name])
