"""Numbers that the host reads from the device without stopping it."""

import torch
from jaxtyping import Float
from torch import Tensor


class LateNumbers:
    """Numbers on their way to the host; asked for one step later, nothing has to wait for them.

    Args:
        values: The numbers; they may change on the device afterwards.
    """

    def __init__(self, values: Float[Tensor, " numbers"]) -> None:
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        else:
            self._host = values.clone()

    def values(self) -> list[float]:
        """The numbers; waits for the work that was queued before them, not for later work."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.tolist()
