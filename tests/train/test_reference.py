"""Numbers that the original implementation produced, through the classes that training uses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dino_infer.networks.build import vision_transformer
from dino_train import optim, schedules
from dino_train.distributed import Process
from dino_train.head import DINOHead
from dino_train.learner import Learner, Rates
from dino_train.loss import Center, dino_loss
from dino_train.student_teacher import MultiCropNetwork, teacher_of

REFERENCE = Path(__file__).parents[1] / "reference"
LOSS_TOLERANCE = 1e-5  # float32 against the float64 sum of the original's terms
GRADIENT_TOLERANCE = 1e-6  # a few float32 roundings of values below 1
PARAMETER_TOLERANCE = 3e-5  # nine AdamW steps; float32 and float64 runs differ by as much
CPU = Process(rank=0, world_size=1, device=torch.device("cpu"))


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(REFERENCE / f"{name}.npz") as file:
        return dict(file)


def weights(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith(prefix)
    }


def test_head_gives_the_original_logits():
    arrays = load("head")
    head = DINOHead(48, 192, hidden_dim=128, bottleneck_dim=32)
    head.load_state_dict(weights(arrays, "weights/"))
    output = head(torch.from_numpy(arrays["input"]))
    torch.testing.assert_close(output, torch.from_numpy(arrays["output"]), rtol=0, atol=1e-6)


def test_loss_gradient_and_centre_follow_the_original_over_five_epochs():
    arrays = load("loss")
    meta = json.loads(str(arrays["meta"]))
    center = Center(meta["out_dim"], momentum=meta["center_momentum"])
    temp = schedules.teacher_temp_schedule(
        warmup_temp=meta["warmup_teacher_temp"],
        temp=meta["teacher_temp"],
        warmup_epochs=meta["warmup_teacher_temp_epochs"],
        steps_per_epoch=1,
    )
    for epoch in range(meta["epochs"]):
        student = torch.from_numpy(arrays[f"epoch{epoch}/student"])
        student = student.reshape(meta["n_crops"], -1, meta["out_dim"]).requires_grad_()
        teacher = torch.from_numpy(arrays[f"epoch{epoch}/teacher"]).reshape(2, -1, meta["out_dim"])
        targets = center.targets(teacher, teacher_temp=temp(epoch))
        loss = dino_loss(student, targets, student_temp=meta["student_temp"])
        loss.backward()
        center.update(teacher.mean(dim=(0, 1)))
        assert loss.item() == pytest.approx(float(arrays[f"epoch{epoch}/loss"]), abs=LOSS_TOLERANCE)
        gradient = student.grad.flatten(0, 1).numpy()
        np.testing.assert_allclose(
            gradient, arrays[f"epoch{epoch}/grad_student"], atol=GRADIENT_TOLERANCE
        )
        np.testing.assert_allclose(
            center.center[None].numpy(), arrays[f"epoch{epoch}/center_after"], atol=1e-6
        )


@pytest.mark.parametrize("name", ["lr", "wd", "momentum"])
def test_schedules_equal_the_original_arrays(name: str):
    arrays = load("schedules")
    base, final, epochs, iterations, warmup_epochs = json.loads(str(arrays["meta"]))[name]
    value = schedules.cosine_schedule(
        base=float(base),
        final=float(final),
        total_steps=epochs * iterations,
        warmup_steps=warmup_epochs * iterations,
    )
    ours = [value(step) for step in range(epochs * iterations)]
    np.testing.assert_allclose(ours, arrays[name], rtol=0, atol=1e-12)


def network(meta: dict) -> MultiCropNetwork:
    backbone = vision_transformer(
        embed_dim=meta["embed_dim"],
        depth=meta["depth"],
        num_heads=meta["num_heads"],
        patch_size=meta["patch_size"],
        image_size=meta["img_size"],
    )
    head = DINOHead(
        meta["embed_dim"],
        meta["out_dim"],
        hidden_dim=meta["head_hidden_dim"],
        bottleneck_dim=meta["head_bottleneck_dim"],
        norm_last_layer=meta["norm_last_layer"],
    )
    return MultiCropNetwork(backbone, head)


def original_names(net: MultiCropNetwork) -> dict[str, Tensor]:
    return {
        name.replace("backbone.network.", "backbone."): value
        for name, value in net.state_dict().items()
    }


def our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("backbone.", "backbone.network."): value for name, value in state.items()}


def test_nine_optimizer_steps_follow_the_original():
    arrays = load("trajectory")
    meta = json.loads(str(arrays["meta"]))
    per_epoch, total = meta["iters_per_epoch"], meta["epochs"] * meta["iters_per_epoch"]
    student = network(meta)
    student.load_state_dict(our_names(weights(arrays, "init/")))
    teacher = teacher_of(student, network(meta))
    learner = Learner(
        student,
        teacher,
        Center(meta["out_dim"]),
        optim.build_optimizer("adamw", optim.parameter_groups(student)),
        process=CPU,
        clip_grad=meta["clip_grad"],
    )
    lr = schedules.cosine_schedule(
        base=meta["peak_lr"],
        final=meta["min_lr"],
        total_steps=total,
        warmup_steps=meta["lr_warmup_epochs"] * per_epoch,
    )
    wd = schedules.cosine_schedule(base=meta["wd"][0], final=meta["wd"][1], total_steps=total)
    momentum = schedules.cosine_schedule(
        base=meta["momentum"][0], final=float(meta["momentum"][1]), total_steps=total
    )
    temp = schedules.teacher_temp_schedule(
        warmup_temp=meta["warmup_teacher_temp"],
        temp=meta["teacher_temp"],
        warmup_epochs=meta["warmup_teacher_temp_epochs"],
        steps_per_epoch=per_epoch,
    )
    for step in range(total):
        crops = [
            torch.from_numpy(arrays[f"step{step}/crop{i}"].astype(np.float32))
            for i in range(2 + meta["n_local"])
        ]
        outcome = learner.step(
            [[torch.stack(crops[:2]), torch.stack(crops[2:])]],
            rates=Rates(
                lr=lr(step),
                weight_decay=wd(step),
                momentum=momentum(step),
                teacher_temp=temp(step),
            ),
            freeze_last_layer=step // per_epoch < meta["freeze_last_layer_epochs"],
        )
        assert outcome.applied
        loss = outcome.health["loss_nats"].item()
        assert loss == pytest.approx(arrays["losses"][step], abs=LOSS_TOLERANCE)

    center = learner.center.center[None].numpy()
    np.testing.assert_allclose(center, arrays["center"], atol=PARAMETER_TOLERANCE)
    for net, prefix in ((student, "final_student/"), (teacher, "final_teacher/")):
        ours, expected = original_names(net), weights(arrays, prefix)
        assert ours.keys() == expected.keys()
        for name, value in expected.items():
            # The key third of qkv.bias has gradient zero: AdamW makes steps of its rounding.
            both = (ours[name], value)
            if name.endswith("qkv.bias"):
                third = meta["embed_dim"]
                both = tuple(torch.cat([t[:third], t[2 * third :]]) for t in both)
            torch.testing.assert_close(*both, rtol=0, atol=PARAMETER_TOLERANCE, msg=name)
