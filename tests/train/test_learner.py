import pytest
import torch

from dino_infer.backbones import build_backbone, vision_transformer
from dino_train import optim
from dino_train.distributed import Process
from dino_train.head import DINOHead
from dino_train.learner import Learner, Rates
from dino_train.loss import Center
from dino_train.student_teacher import MultiCropNetwork, teacher_of, update_teacher

CPU = Process(rank=0, world_size=1, device=torch.device("cpu"))
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


def learner(precision="fp32", **options) -> Learner:
    student = network(**options.pop("head", {}))
    optimizer = optim.build_optimizer(
        options.pop("optimizer", "adamw"), optim.parameter_groups(student), device=CPU.device
    )
    teacher = teacher_of(student, network())
    return Learner(
        student, teacher, Center(32), optimizer, process=CPU, precision=precision, **options
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


def test_a_non_finite_step_changes_nothing():
    ours = learner()
    ours.step([crops()], rates=RATES)
    before = {name: state(part) for name, part in parts(ours).items()}
    bad = crops()
    bad[1][0, 0, 0, 0, 0] = float("nan")
    assert not ours.step([bad], rates=RATES).applied
    for name, part in parts(ours).items():
        assert not changed(part, before[name]), name
    assert ours.step([crops()], rates=RATES).applied


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
    second.load_state(first.state())
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
        optim.build_optimizer("sgd", groups, device=CPU.device),
        process=CPU,
    )
    ours.step([crops(batch=3)], rates=RATES)
    name = "backbone.network.bn1.running_mean"
    assert teacher.state_dict()[name].any()
    assert not torch.equal(teacher.state_dict()[name], student.state_dict()[name])
