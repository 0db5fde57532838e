"""Ways to order, decode, keep and crop images that users choose from; imports nothing heavy."""

from typing import Literal

Order = Literal["random", "quasi-random"]
"""Order of the images; quasi-random reads a listing in long stretches."""

Executor = Literal["worker", "device"]
"""Place where crops are made."""

CachePlace = Literal["none", "ram", "gpu"]
"""Place of decoded images after their first use."""

Cache = Literal["auto", CachePlace]

Decoder = Literal["cpu", "gpu"]
"""Decoder of plain JPEGs."""
