"""Feature matrices on disk: ``.npy``, ``.safetensors``, or a column of the Parquet row table.

The first two are a header of fixed length and then the rows, so rows can be appended while their
number is unknown, and the header is written at the end.
"""

import io
import json
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from dino_infer.errors import DataError

SUFFIXES = (".npy", ".safetensors", ".parquet")
TENSOR_NAME = "features"
_SAFETENSORS_HEADER = 256
_SAFETENSORS_TYPES = {"float32": "F32", "float16": "F16"}


def header_length(suffix: str) -> int:
    """Bytes in front of the rows in a file of this kind."""
    return len(header(suffix, (1, 1), "float32"))


def header(suffix: str, shape: tuple[int, ...], dtype: str) -> bytes:
    """Return the header in front of the rows; its length is the same for every shape.

    Args:
        suffix: One of ``SUFFIXES``.
        shape: Shape of the whole matrix.
        dtype: "float32" or "float16".
    """
    if suffix == ".parquet":
        return b""
    if suffix == ".npy":
        described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, described)
        return file.getvalue()
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    tensor = {"dtype": _SAFETENSORS_TYPES[dtype], "shape": shape, "data_offsets": [0, size]}
    text = json.dumps({TENSOR_NAME: tensor}).encode().ljust(_SAFETENSORS_HEADER - 8)
    return len(text).to_bytes(8, "little") + text


def read_matrix(path: Path) -> Shaped[np.ndarray, "rows ..."]:
    """The matrix of a file, mapped where the format allows it.

    Raises:
        DataError: The safetensors file is none of ours.
        ValueError: The file is damaged.
        OSError: It cannot be read.
    """
    if path.suffix == ".npy":
        mapped: np.ndarray = np.lib.format.open_memmap(path, mode="r")
        return mapped
    if path.suffix == ".parquet":
        return _embedding_column(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size:
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        described = json.loads(file.read(length))
    if TENSOR_NAME not in described:
        raise DataError(f"{str(path)!r} holds no tensor named {TENSOR_NAME!r}")
    tensor = described[TENSOR_NAME]
    dtype = {code: name for name, code in _SAFETENSORS_TYPES.items()}[tensor["dtype"]]
    shape = tuple(tensor["shape"])
    offset = 8 + length + tensor["data_offsets"][0]
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


def _embedding_column(path: Path) -> Shaped[np.ndarray, "rows dim"]:
    import pyarrow.parquet

    column = pyarrow.parquet.read_table(path, columns=["embedding"], partitioning=None)["embedding"]
    values: np.ndarray = column.combine_chunks().flatten().to_numpy()
    return values.reshape(len(column), column.type.list_size)
