"""Backbones as torch.export programs: .pt2 files, and packages that AOTInductor has compiled."""

import io
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as shape_config

from dino_export.errors import ExportError
from dino_export.graph import ExportedNetwork
from dino_export.settings import METADATA_KEY, ExportSettings
from dino_infer.errors import first_line

MAX_BATCH, MAX_SIDE = 1 << 16, 1 << 14  # torch.export wants bounds; these are beyond any memory
EXAMPLE_BATCH = 2


def example_images(settings: ExportSettings, *, device: torch.device) -> Tensor:
    """A batch of the kind that the network takes; its values mean nothing."""
    batch = EXAMPLE_BATCH if settings.dynamic_batch else 1
    height, width = settings.size
    if settings.preprocess:
        return torch.zeros(batch, height, width, 3, dtype=torch.uint8, device=device)
    return torch.zeros(batch, 3, height, width, device=device)


def captured_program(
    network: ExportedNetwork, settings: ExportSettings, *, device: torch.device
) -> ExportedProgram:
    """The network as one graph that holds for every batch and size that the settings promise."""
    sizes: dict[int, Any] = {}
    if settings.dynamic_batch:
        sizes[0] = Dim("batch", min=1, max=MAX_BATCH)
    if settings.dynamic_size:
        smallest = network.backbone.patch_size
        first = 1 if settings.preprocess else 2
        sizes[first] = Dim("height", min=smallest, max=MAX_SIDE)
        sizes[first + 1] = Dim("width", min=smallest, max=MAX_SIDE)
    images = example_images(settings, device=device)
    # Without this a grid of one row or column would be a case of its own, which the graph forbids.
    one_is_no_exception = shape_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with torch.no_grad(), one_is_no_exception:
        return torch.export.export(
            network,
            (images,),
            dynamic_shapes=(sizes,),
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def save_program(path: Path, program: ExportedProgram, metadata: Mapping[str, Any]) -> None:
    """Write a .pt2 file, which torch.export.load reads."""
    # Where this machine keeps its code is private, and would make files differ.
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        described = {METADATA_KEY: json.dumps(metadata, sort_keys=True)}
        archive = io.BytesIO()  # to a file it would write the file's name, and this is a temporary
        torch.export.save(program, archive, extra_files=described)
    path.write_bytes(archive.getbuffer())


def save_compiled(path: Path, program: ExportedProgram, metadata: Mapping[str, Any]) -> None:
    """Compile for the device that the program is on, and write a package that needs no compiler.

    Raises:
        ExportError: There is no working C++ compiler.
    """
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.exc import InductorError

    described = {METADATA_KEY: json.dumps(metadata, sort_keys=True)}
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            aoti_compile_and_package(
                program,
                package_path=str(path),
                inductor_configs={"aot_inductor.metadata": described},
            )
    except (InductorError, RuntimeError) as error:
        reason = first_line(error)
        raise ExportError(
            f"AOTInductor could not compile the network ({reason}); it needs a C++ compiler such "
            "as g++, or use `format='onnx'`"
        ) from error
