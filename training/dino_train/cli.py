"""dino-train: pretrain a backbone on a folder of images.

    dino-train --data photos/ --out runs/photos
    dino-train imagenet_vits16 --data imagenet/train --out runs/vits16 --optim.batch-size 1024
    torchrun --nproc-per-node 8 -m dino_train.cli imagenet_vits16 --data ... --out ...
    dino-train replay runs/photos    # a step that was not finite, once more

Run the same command again to go on where it stopped.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dino_infer.cli.exit_codes import INTERRUPTED, USAGE, UsageError, exit_code, usage_errors
from dino_infer.cli.options import check_out
from dino_infer.cli.parsing import parsed
from dino_infer.cli.plan import FLAG
from dino_train import recipes
from dino_train.config import LossConfig, Machine, SettingsError, TrainConfig, from_dict
from dino_train.given import GivenSettings, read_given, settings_of_dino

if TYPE_CHECKING:
    from dino_infer.sources.image_list import ImageList

HELP = f"""\
usage: dino-train [RECIPE] --data PATH [PATH ...] --out RUN [options]
       dino-train replay RUN     takes the step that was not finite again
       dino-train [RECIPE] --plan --images N    prints machines, hours, storage and money

RECIPE is auto (the default, which derives settings from your data) or one of:
  {", ".join(recipes.RECIPES)}
"dino-train RECIPE --help" lists every option with the recipe's values.
"""
SHOWN_BY_HELP = recipes.auto(num_images=10_000)
WRITTEN = {
    "settings": "config.json",
    "metrics": "metrics.jsonl",
    "tensorboard": "tensorboard",
    "steps that were not finite": "nonfinite",
    "snapshots": "snapshots",
    "weights": "checkpoint.safetensors",
    "report": "report/index.html",
}
"""Files and folders of a run; ``failures.jsonl`` is named with its count."""
# Stands in until the data has been seen: any number of epochs and any size of crops fits it.
PLACEHOLDER = replace(
    SHOWN_BY_HELP,
    model=replace(SHOWN_BY_HELP.model, patch_size=1),
    optim=replace(SHOWN_BY_HELP.optim, warmup_epochs=0.0),
)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Input, output and machine of a run."""

    data: tuple[str, ...]
    """Folders (searched recursively), text files of paths, or tars of images."""
    image_column: str | None = None
    """Column of .parquet tables that holds the images; by default the first with a usual name."""
    out: Path
    """Run folder to write to; an existing run goes on where it stopped."""
    eval_data: Path | None = None
    """Class folders, or a folder with train/ and val/ of such, for online k-NN; by default
    none is measured."""
    init_from: str | None = None
    """Weights to start from: a run folder, .safetensors, or a .pth with or without its head; by
    default random ones."""
    checkpoint_key: str = "teacher"
    """Network of an --init-from that holds several: teacher (or another average, or the only one),
    student, or its prefix in the file."""
    machine: tyro.conf.OmitArgPrefixes[Machine] = field(default_factory=Machine)
    extend: bool = False
    """Let an existing run train for more epochs."""
    tensorboard: bool = True
    """Write RUN/tensorboard."""
    wandb: str | None = None
    """Weights & Biases project to log to as well; by default none."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run dino-train; returns the exit code."""
    arguments = _without_local_rank(sys.argv[1:] if argv is None else argv)
    return exit_code(_main, prog="dino-train", args=arguments)


def _main(arguments: list[str]) -> int:
    name = "auto"
    if arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
    elif not arguments or arguments == ["-h"] or arguments == ["--help"]:
        print(HELP, end="")
        if not arguments:
            return USAGE
        name, arguments = "auto", ["--help"]
    if name == "replay":
        return parsed(_replay, args=arguments, prog="dino-train replay")  # type: ignore[no-any-return]
    if name != "auto" and name not in recipes.RECIPES:
        raise UsageError(recipes.unknown_recipe(name))
    if FLAG in arguments:
        from dino_train.planning.command import plan_of_training

        return plan_of_training(name, [each for each in arguments if each != FLAG])
    if name == "auto":
        if not {"-h", "--help"}.isdisjoint(arguments):
            _parsed(name, arguments, SHOWN_BY_HELP)  # prints it and exits
        given = read_given(arguments)
        options, _ = _parsed(name, arguments, _placeholder(given))
        return _train(*_auto(arguments, given, options))
    return _train(*_parsed(name, arguments, recipes.RECIPES[name]()))


def _placeholder(given: GivenSettings) -> TrainConfig:
    """``PLACEHOLDER`` with a loss that every flag fits, unless the loss is given."""
    return replace(PLACEHOLDER, loss=LossConfig(kind=given.loss.kind or "coding-rate"))


def _replay(run: tyro.conf.Positional[Path]) -> int:
    """Take the first step of a run that was not finite again; exit code 1 means other bits.

    Args:
        run: Run folder that the step was captured in.
    """
    from dino_train.monitoring.captures import replay

    found = replay(run)
    shown = ", ".join(found.images[:8]) + (", ..." if len(found.images) > 8 else "")
    print(f"step {found.step}, {len(found.images)} images: {shown}")
    for name, value in found.numbers.items():
        print(f"{name}: {value:.6g}")
    print(f"gradients that are not finite: {', '.join(found.not_finite) or 'none'}")
    print("the same bits as the first time" if found.same else "other bits than the first time")
    return 0 if found.same else 1


def _without_local_rank(arguments: Sequence[str]) -> list[str]:
    """Drop what older launchers put in front of everything; the environment has the rank."""
    kept: list[str] = []
    left = iter(arguments)
    for argument in left:
        name, has_value, _ = argument.partition("=")
        if name not in ("--local-rank", "--local_rank"):
            kept.append(argument)
        elif not has_value:
            next(left, None)
    return kept


def _parsed(
    name: str, arguments: list[str], defaults: TrainConfig
) -> tuple[RunOptions, TrainConfig]:
    def command(
        options: Annotated[RunOptions, tyro.conf.arg(name="")],
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = defaults,
    ) -> tuple[RunOptions, TrainConfig]:
        return options, config

    with usage_errors():  # the settings check each other when they meet
        options, config = parsed(
            command, args=arguments, prog=f"dino-train {name}", description=__doc__
        )
    _check_loss(arguments, config)
    check_out(options.out / WRITTEN["settings"])
    return options, replace(config, recipe=defaults.recipe)


def _check_loss(arguments: list[str], config: TrainConfig) -> None:
    """Refuse flags that were given and that the chosen loss has no use for."""
    if config.loss.kind == "dino":  # whose config refuses those of others itself
        return
    for setting in settings_of_dino(arguments):
        raise UsageError(
            f"--{setting.replace('_', '-')} belongs to --loss.kind dino and does nothing with "
            f"{config.loss.kind}; leave it out, or choose that kind"
        )


def _auto(
    arguments: list[str], given: GivenSettings, options: RunOptions
) -> tuple[RunOptions, TrainConfig, "ImageList | None"]:
    """Settings for this data, or of the run that is there; flags on the command line win.

    The data comes along where it was listed.
    """
    from dino_infer.sources.image_list import list_images
    from dino_train.records.run_folder import saved_settings

    if saved := saved_settings(options.out):
        try:
            defaults = from_dict(saved)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"this version cannot read the settings of {str(options.out)!r} ({error}); "
                "choose another --out"
            ) from error
        return *_parsed("auto", arguments, defaults), None
    images = list_images(options.data, image_column=options.image_column)
    num_images = len(images)
    defaults = _derived(given, images, options)
    options, config = _parsed("auto", arguments, defaults)
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"auto settings for {num_images:,} images:", file=sys.stderr)
        for line in recipes.explain_auto(config, num_images=num_images):
            print(f"  {line}", file=sys.stderr)
    return options, config, images


def _derived(given: GivenSettings, images: "ImageList", options: RunOptions) -> TrainConfig:
    return recipes.auto_for(
        images,
        batch_size=given.optim.batch_size,
        epochs=given.optim.epochs,
        arch=given.model.arch,
        loss=given.loss.kind,
        init_from=options.init_from,
        checkpoint_key=options.checkpoint_key,
        device=options.machine.device,
    )


def _train(options: RunOptions, config: TrainConfig, images: "ImageList | None" = None) -> int:
    from dino_infer.sources.image_list import list_images
    from dino_train import train
    from dino_train.data.failures import listed_failures

    if images is None:
        images = list_images(options.data, image_column=options.image_column)
    with usage_errors(SettingsError):
        result = train(
            config,
            data=options.data,
            out=options.out,
            eval_data=options.eval_data,
            init_from=options.init_from,
            checkpoint_key=options.checkpoint_key,
            machine=options.machine,
            images=images,
            extend=options.extend,
            tensorboard=options.tensorboard,
            wandb=options.wandb,
        )
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{options.out}: step {result.steps} of {result.total_steps}")
        for name, value in result.numbers.items():
            print(f"{name}: {value:.2f}")
        failures = options.out / "failures.jsonl"
        if count := len(listed_failures(failures)):
            print(f"unreadable images: {count}, listed in {failures}")
        for what, name in WRITTEN.items():
            if (options.out / name).exists():  # say, no report without a readable image
                print(f"{what}: {options.out / name}")
    return 0 if result.finished else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
