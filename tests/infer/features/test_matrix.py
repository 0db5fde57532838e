"""Feature matrices on disk: a header of fixed length, and what is read back."""

import numpy as np
import pytest

from dino_infer.errors import DataError
from dino_infer.features.matrix import header, header_length, read_matrix


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_headers_have_one_length_whatever_the_shape(suffix, dtype):
    shapes = [(0,), (1, 1), (10**10, 384), (10**9, 3136, 1536)]
    assert {len(header(suffix, shape, dtype)) for shape in shapes} == {header_length(suffix)}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_a_header_and_its_rows_are_read_as_the_matrix(tmp_path, suffix, dtype):
    rows = np.arange(24, dtype=dtype).reshape(4, 2, 3)
    path = tmp_path / f"feats{suffix}"
    path.write_bytes(header(suffix, rows.shape, dtype) + rows.tobytes())
    found = read_matrix(path)
    assert found.dtype == rows.dtype
    np.testing.assert_array_equal(found, rows)


def test_a_safetensors_file_whose_header_is_too_long_or_of_others_is_refused(tmp_path):
    path = tmp_path / "feats.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="a header of 1099511627776 bytes in a file of 10"):
        read_matrix(path)
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(DataError, match="holds no tensor named 'features'"):
        read_matrix(path)
