"""Files of ``torch.save``, read without running anything that they say.

Training states hold more than tensors: NumPy numbers in the optimizer's state, argument lists,
configurations. What no weights depend on is read as an ``Inert`` object, and is never imported.
"""

import argparse
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from dino_infer.errors import CheckpointError, first_line
from dino_infer.files import check_zip


class Inert:
    """Stand-in for an object of a training state that no weights depend on; holds nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Take the arguments of the original."""

    def __setstate__(self, state: Any) -> None:
        """Ignore the state that the original would restore."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore an item of what was a dict."""


# What the original's training states hold besides tensors. Its schedules put NumPy numbers into
# the optimizer's groups; NumPy 2 renamed the module. Paths come from SLURM launches; they are read
# as pure paths, on any system. A pickle can create these and call nothing else.
SAFE_TYPES: list[Any] = [
    argparse.Namespace,
    (PurePosixPath, "pathlib.PosixPath"),
    (PurePosixPath, "pathlib._local.PosixPath"),
    (Inert, "numpy.core.multiarray.scalar"),
    (Inert, "numpy._core.multiarray.scalar"),
    (Inert, "numpy.dtype"),
]
# Packages whose objects other projects' training states hold, read as ``Inert``.
INERT = re.compile(
    r"(collections|typing|enum|numpy|omegaconf|lightning|lightning_fabric|pytorch_lightning|"
    r"lightly_train|mmengine|mmcv|mmpretrain|stable_pretraining|timm|torch\.nn|torch\.optim|"
    r"torchmetrics)\."
)
SHARDS = "holds the shards of a distributed run: join them with the project that wrote them"


def read_torch(path: Path) -> Mapping[Any, Any]:
    """Return the whole content of a file of ``torch.save``.

    Raises:
        CheckpointError: It is damaged, no dict, or would need pickled code to run.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"PK"
        if zipped:  # older files carry no checksums
            check_zip(path)
        with torch.serialization.safe_globals(SAFE_TYPES + (_inert(path) if zipped else [])):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can make the reader raise nearly anything
        raise CheckpointError(_refused(path, error) or damaged(path, error)) from error
    if not isinstance(content, Mapping):
        whole = "a pickled object" if isinstance(content, Inert) else type(content).__name__
        raise CheckpointError(
            f"{str(path)!r} must hold a dict of tensors, got {whole}; "
            "save the state_dict() of the network instead"
        )
    return content


def damaged(path: Path, error: Exception) -> str:
    """The message on a file that cannot be read."""
    reason = first_line(error)
    return f"{str(path)!r} is damaged or cut short ({reason}); copy or download it again"


def check_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that claim more elements than the file holds, or hold none.

    Raises:
        CheckpointError: One does.
    """
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized:
            raise CheckpointError(
                f"{str(path)!r}: tensor {name!r} must be a plain one, got {tensor.layout} on "
                f"{tensor.device}; save the state_dict() of the network in float32"
            )
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{str(path)!r}: tensor {name!r} of shape {tuple(tensor.shape)} is larger than "
                "its data; copy or download the file again"
            )


def _inert(path: Path) -> list[Any]:
    """Stand-ins for what a zipped file names of ``INERT`` packages."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return [(Inert, name) for name in names if INERT.match(name)]


def _refused(path: Path, error: Exception) -> str | None:
    """The message on a file that holds more than data, or None if that is not the error."""
    if "Unsupported operand" in str(error) or "pickle protocol" in str(error):
        return (
            f"{str(path)!r} is of a pickle protocol that PyTorch does not read without running "
            "code; save it again without pickle_protocol, or as safetensors"
        )
    if isinstance(error, zipfile.BadZipFile) or not (
        name := re.search(r"GLOBAL (\S+)", str(error))
    ):
        return None
    if name[1].startswith("torch.distributed"):
        return f"{str(path)!r} {SHARDS}"
    return (
        f"{str(path)!r} is refused: it holds {name[1]!r}, and loading that could run "
        "code from the file; ask its author for a plain state dict or safetensors"
    )
