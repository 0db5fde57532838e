import dataclasses
import json
import subprocess
import sys

import pytest

from dino_train import recipes
from dino_train.config import (
    OptimConfig,
    TeacherConfig,
    TrainConfig,
    as_dict,
    from_dict,
)

ALL_RECIPES = {**recipes.RECIPES, "auto": lambda: recipes.auto(num_images=5000)}


@pytest.mark.parametrize("name", ALL_RECIPES)
def test_every_recipe_survives_json(name: str):
    config = ALL_RECIPES[name]()
    assert config.recipe == name
    assert from_dict(json.loads(json.dumps(as_dict(config)))) == config


def test_an_unknown_setting_in_a_file_is_refused():
    values = as_dict(TrainConfig())
    values["optim"]["learning_rate"] = 1.0
    with pytest.raises(ValueError, match="OptimConfig has no setting 'learning_rate'"):
        from_dict(values)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TeacherConfig(teacher_temp=0.0), r"teacher.teacher_temp must lie in \(0"),
        (lambda: TeacherConfig(momentum=1.5), r"teacher.momentum must lie in \[0, 1\], got 1.5"),
        (lambda: OptimConfig(batch_size=0), "optim.batch_size must lie in"),
        (lambda: OptimConfig(epochs=5, warmup_epochs=5.0), "optim.warmup_epochs must be below"),
        (
            lambda: dataclasses.replace(
                TrainConfig(),
                crops=dataclasses.replace(TrainConfig().crops, local_crops_size=8),
            ),
            "crops.local_crops_size must hold at least one patch of 16 px, got 8",
        ),
        (
            lambda: dataclasses.replace(TrainConfig().crops, global_crops_scale=(0.5, 1.5)),
            "global_crops_scale",
        ),
    ],
)
def test_settings_out_of_range_are_named_with_their_value(build, message: str):
    with pytest.raises(ValueError, match=message):
        build()


def test_local_crops_may_be_smaller_than_a_patch_when_there_are_none():
    crops = dataclasses.replace(TrainConfig().crops, local_crops_number=0, local_crops_size=8)
    assert TrainConfig(crops=crops).crops.local_crops_number == 0


@pytest.mark.parametrize("num_images", [10, 500, 5_000, 50_000, 1_300_000])
@pytest.mark.parametrize("arch", ["vit_small", "resnet50"])
@pytest.mark.parametrize("image_side", [1, 28, 64, 65, 128, 500])
@pytest.mark.parametrize("on_cpu", [False, True])
def test_auto_gives_a_run_that_can_start_for_any_images(num_images, arch, image_side, on_cpu):
    config = recipes.auto(num_images=num_images, arch=arch, image_side=image_side, on_cpu=on_cpu)
    assert config.optim.batch_size <= num_images
    assert 256 <= config.head.out_dim <= 65536
    lines = recipes.explain_auto(config, num_images=num_images)
    assert len(lines) == (8 if config.loss.kind == "dino" else 7)


def test_auto_takes_the_epochs_that_are_given():
    config = recipes.auto(num_images=50_000, image_side=32, epochs=1)
    assert config.optim.epochs == 1 and config.optim.warmup_epochs == 0.1


def test_auto_wants_fewer_prototypes_and_a_faster_teacher_for_less_data():
    small, large = (recipes.auto(num_images=n) for n in (2_000, 1_300_000))
    assert small.head.out_dim < large.head.out_dim == 65536
    assert small.teacher.momentum < large.teacher.momentum


def test_auto_crops_tiny_images_at_their_own_size():
    config = recipes.auto(num_images=50_000, image_side=32, arch="resnet_micro")
    assert config.crops.global_crops_size == 32 and config.crops.local_crops_number == 0
    assert config.model.small_stem and config.optim.batch_size == 64
    assert config.teacher.momentum < 0.999


@pytest.mark.parametrize(
    ("image_side", "sizes", "patch_size"),
    [(65, (64, 24), 8), (128, (128, 48), 16), (160, (160, 64), 16), (500, (224, 96), 16)],
)
def test_auto_enlarges_no_image_and_blurs_small_crops_less(image_side, sizes, patch_size):
    config = recipes.auto(num_images=5_000, image_side=image_side)
    assert (config.crops.global_crops_size, config.crops.local_crops_size) == sizes
    assert config.model.patch_size == patch_size
    assert config.crops.blur_sigma[1] == pytest.approx(2.0 * sizes[0] / 224, abs=1e-3)


def test_auto_raises_the_rate_of_a_step_with_the_root_of_the_batch():
    peaks = [
        recipes.auto(num_images=9_000, batch_size=size, arch="resnet18").optim.lr * size / 256
        for size in (64, 256)
    ]
    assert peaks[1] == pytest.approx(2 * peaks[0])


def test_continued_training_is_slow_and_warms_the_head_up():
    fresh = recipes.auto(num_images=20_000)
    config = recipes.continued(
        fresh, num_images=20_000, arch="vit_base", patch_size=8, image_size=224
    )
    assert config.model.arch == "vit_base" and config.model.patch_size == 8
    assert config.optim.lr < fresh.optim.lr
    assert config.teacher.momentum > fresh.teacher.momentum
    assert config.optim.freeze_backbone_epochs == 1


def test_an_unknown_recipe_is_told_the_nearest_names():
    message = recipes.unknown_recipe("imagenet_vits")
    assert "did you mean imagenet_vits16" in message and "tiny_cpu" in message


def test_help_needs_no_torch():
    code = (
        "import sys; from dino_train.cli import main; main(['--help']);"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
