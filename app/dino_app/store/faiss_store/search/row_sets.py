"""Sets of rows as packed bits, in the order that FAISS reads."""

import numpy as np
from jaxtyping import Bool, Int64, UInt8

Bits = UInt8[np.ndarray, " _"]


def all_rows(count: int) -> Bits:
    """Every row."""
    return packed(np.ones(count, bool))


def packed(chosen: Bool[np.ndarray, " rows"]) -> Bits:
    """A set from its truth values."""
    return np.packbits(chosen, bitorder="little")


def of_rows(rows: Int64[np.ndarray, " chosen"], count: int) -> Bits:
    """A set from its members."""
    chosen = np.zeros(count, bool)
    chosen[rows] = True
    return packed(chosen)


def without(bits: Bits, rows: Int64[np.ndarray, " gone"]) -> Bits:
    """A set less some rows."""
    left = bits.copy()
    np.bitwise_and.at(left, rows >> 3, ~(1 << (rows & 7)).astype(np.uint8))
    return left


def rows_of(bits: Bits, count: int) -> Int64[np.ndarray, " chosen"]:
    """Members of a set in order."""
    return np.flatnonzero(np.unpackbits(bits, count=count, bitorder="little"))


def size(bits: Bits) -> int:
    """Number of rows in it."""
    return int(np.bitwise_count(bits).sum())


def holds(bits: Bits, rows: Int64[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Tell for each row if it is in the set."""
    chosen: Bool[np.ndarray, ...] = (bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 1
    return chosen
