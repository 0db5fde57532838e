"""``dino-train [RECIPE] --plan``: prints machines, hours, storage and money of a run."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.parsing import parsed
from dino_infer.cli.plan import FLAG, MachineName, MachineOptions, PriceOptions, check_count
from dino_train import recipes
from dino_train.config import TrainConfig
from dino_train.planning.plan import training_plan


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Images and machines of a run; beside them every setting of a recipe can be given."""

    images: float
    """Number of images; 1.7e9 is one."""
    machine: tyro.conf.OmitArgPrefixes[MachineOptions] = field(default_factory=MachineOptions)
    prices: tyro.conf.OmitArgPrefixes[PriceOptions] = field(default_factory=PriceOptions)


@dataclass(frozen=True, kw_only=True)
class _Given:
    images: float = 10_000  # for --help
    machine: MachineName = "h100"


def plan_of_training(name: str, arguments: list[str]) -> int:
    """Print the plan of a recipe, or of what ``auto`` derives from the number of images."""
    shown = {"-h", "--help"}
    plain = [each for each in arguments if each not in shown]
    if name == "auto":
        given = tyro.cli(_Given, args=plain, return_unknown_args=True)[0]
        images = check_count(given.images)
        defaults = recipes.auto(num_images=images, on_cpu=given.machine == "cpu")
    else:
        defaults = recipes.RECIPES[name]()

    def command(
        options: Annotated[PlanOptions, tyro.conf.arg(name="")],
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = defaults,
    ) -> tuple[PlanOptions, TrainConfig]:
        return options, config

    prog = f"dino-train {name} {FLAG}"
    try:
        options, config = parsed(command, prog=prog, args=arguments, description=__doc__)
    except ValueError as error:  # the settings check each other when they meet
        raise UsageError(str(error)) from error
    machine = options.machine
    print(  # noqa: T201
        training_plan(
            check_count(options.images),
            config,
            machine=machine.machine,
            cores=machine.cores,
            images_per_s=machine.images_per_s,
            image_kb=machine.image_kb,
            machines=machine.machines,
            hours=machine.within_hours,
            prices=options.prices.prices,
        )
    )
    return 0
