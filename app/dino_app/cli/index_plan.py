"""dino-index plan: what a large index takes, before it is built."""

import tyro

from dino_app.cli.index_options import Flag
from dino_infer.cli.options import check_positive
from dino_infer.cli.plan import PriceOptions, check_count


def plan(
    *,
    images: float,
    dim: int = 384,
    memory_gb: float = 24.0,
    cores: int = 2,
    queries_per_s: float | None = None,
    without_thumbnails: Flag = False,
    prices: tyro.conf.OmitArgPrefixes[PriceOptions] = PriceOptions(),  # noqa: B008
) -> int:
    """Print disk, memory, hours, machines and money of a large index.

    Every line says what it is computed from. Nothing is read or written.

    Args:
        images: Number of images; 1e9 is one.
        dim: Width of a vector.
        memory_gb: Memory of a machine in gigabytes.
        cores: Cores of a machine.
        queries_per_s: Queries a second to answer; by default whatever one copy answers.
        without_thumbnails: Leave thumbnails out.
        prices: Prices.
    """
    count = check_count(images)
    given = {"--dim": dim, "--memory-gb": memory_gb, "--cores": cores}
    for name, value in {**given, "--queries-per-s": queries_per_s}.items():
        check_positive(name, value)
    from dino_app.indexing.plan import index_plan

    print(
        index_plan(
            count,
            dim=dim,
            memory_gb=memory_gb,
            cores=cores,
            queries_per_s=queries_per_s,
            thumbnails=not without_thumbnails,
            prices=prices.prices,
        )
    )
    return 0
