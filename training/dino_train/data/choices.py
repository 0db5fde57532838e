"""Ways to order, decode, keep and crop images that users choose from; imports nothing heavy."""

from typing import Literal

Order = Literal["random", "quasi-random"]
"""Order of the images; quasi-random reads a listing in long stretches."""

Executor = Literal["worker", "device"]
"""Place where crops are made: in ``CropDataset``, or by ``make_crops`` on the device."""

CachePlace = Literal["none", "ram", "gpu"]
"""Place of decoded images after their first use."""

Cache = Literal["auto", CachePlace]
"""auto keeps images where they fit and are as the files have them, so that crops are the same
whatever memory happened to be free."""

Decoder = Literal["cpu", "gpu"]
"""Decoder of plain JPEGs; gpu decodes in ``Batch.to``, for crops on the device without a cache."""
