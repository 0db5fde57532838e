"""Shares of a batch: processes divide it, and each computes its share in equal parts."""


def parts_of_share(batch_size: int, *, processes: int, parts: int, begun_by: int) -> int:
    """Parts in which each process computes its share of a batch; their gradients are summed.

    Other processes than a run was begun by take as few parts as keep each no larger than it was
    then, so that it fits into memory.

    Args:
        batch_size: Images in one optimizer step.
        processes: Number of processes now.
        parts: Parts of a share in the processes that the run was begun by.
        begun_by: Number of those.

    Raises:
        ValueError: The batch cannot be shared equally; the message says who could share it.
    """
    least = parts if processes == begun_by else 1
    if batch_size % (processes * least):
        fitting = [n for n in range(1, batch_size + 1) if batch_size % (n * least) == 0]
        nearest = [max(n for n in fitting if n < processes)] if fitting else []
        nearest += [n for n in fitting if n > processes][:1]
        could = f"; it is one with {' or '.join(map(str, nearest))} processes" if nearest else ""
        raise ValueError(
            "`optim.batch_size` must be a multiple of processes x accumulation steps = "
            f"{processes} x {least}, got {batch_size}{could}"
        )
    if processes == begun_by:
        return parts
    share, largest = batch_size // processes, max(1, batch_size // begun_by // parts)
    return next(n for n in range(1, share + 1) if share % n == 0 and share // n <= largest)
