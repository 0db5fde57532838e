"""Backbones as TorchScript: traced, so each file holds for one height and width.

PyTorch has deprecated TorchScript; this is for systems that read nothing else.
"""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dino_export.exported_program import example_images
from dino_export.graph import ExportedNetwork
from dino_export.settings import METADATA_KEY, ExportSettings

PREFIX = "___torch_mangle_"
NUMBERED = re.compile(PREFIX + r"\d+")
DEBUG_ENDING = ".debug_pkl"  # which line of which source file made a node


def save_torchscript(
    path: Path,
    network: ExportedNetwork,
    settings: ExportSettings,
    metadata: Mapping[str, Any],
    *,
    device: torch.device,
) -> None:
    """Trace the network at its size and write a file that torch.jit.load reads."""
    images = example_images(settings, device=device)
    described = {METADATA_KEY: json.dumps(metadata, sort_keys=True)}
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # It warns that it is deprecated, and of every size that it freezes.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, (images,), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(torch.jit.freeze(traced), buffer, _extra_files=described)
    path.write_bytes(_without_traces(buffer))


def _without_traces(archive: io.BytesIO) -> bytes:
    """An archive copied record by record, but for what tells where and after what it was made.

    That is the paths of the code that was traced, and the numbers that a process gives to classes
    of one name.
    """
    numbers: dict[str, str] = {}

    def renumbered(text: str) -> str:
        return NUMBERED.sub(
            lambda match: numbers.setdefault(match[0], f"{PREFIX}{len(numbers)}"), text
        )

    copy = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(copy)
    with zipfile.ZipFile(archive) as records:
        for name in records.namelist():
            _, _, inside = name.partition("/")
            own = inside in ("version", "byteorder", ".data/serialization_id")
            if not own and not inside.endswith(DEBUG_ENDING):
                content = records.read(name)
                if inside == "data.pkl" or inside.startswith("code/"):
                    content = renumbered(content.decode("latin-1")).encode("latin-1")
                writer.write_record(renumbered(inside), content, len(content))
    writer.write_end_of_file()
    return copy.getvalue()
