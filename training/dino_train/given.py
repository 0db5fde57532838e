"""The flags of dino-train that others are derived from."""

from dataclasses import dataclass, replace

import tyro

from dino_train.config import DINO_SETTINGS, LossKind


@dataclass(frozen=True, kw_only=True)
class GivenOptim:
    """Length and batch, where they are given."""

    batch_size: int | None = None
    epochs: int | None = None


@dataclass(frozen=True, kw_only=True)
class GivenModel:
    """The backbone, where it is given."""

    arch: str | None = None


@dataclass(frozen=True, kw_only=True)
class GivenLoss:
    """The loss, where it is given."""

    kind: LossKind | None = None


@dataclass(frozen=True, kw_only=True)
class GivenSettings:
    """The flags that auto derives others from; None is a flag that was not given.

    No default that ``--help`` shows could say that: users may type it.
    """

    optim: GivenOptim = GivenOptim()
    model: GivenModel = GivenModel()
    loss: GivenLoss = GivenLoss()


def read_given(arguments: list[str]) -> GivenSettings:
    """Read from the command line the settings that others are derived from.

    Settings that only DINO's loss has a use for choose it.
    """
    given = tyro.cli(GivenSettings, args=arguments, return_unknown_args=True)[0]
    if given.loss.kind is None and settings_of_dino(arguments):
        return replace(given, loss=GivenLoss(kind="dino"))
    return given


def settings_of_dino(arguments: list[str]) -> list[str]:
    """Names of the settings on the command line that only DINO's loss has a use for."""
    given = {argument.partition("=")[0].replace("-", "_") for argument in arguments}
    return [
        f"{group}.{name}"
        for group, _, name in (setting.partition(".") for setting in DINO_SETTINGS)
        if not given.isdisjoint((f"__{group}.{name}", f"__{group}.no_{name}"))
    ]
