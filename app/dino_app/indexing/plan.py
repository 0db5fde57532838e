"""The plan of a large index: disk, memory, building, time of a search, machines, money."""

import math
from dataclasses import dataclass

from dino_app.store.faiss_store.search.approximate import EXACT_ROWS, QUERIES, RECALL_WANTED
from dino_app.store.faiss_store.writing import MOST_WAITING_ROWS, WAITING_ROWS
from dino_infer.plan import HOURS_A_MONTH, REPORTS, Figure, Plan, Prices, amount, duration, size

_PLANNING = f"measured by us on one core of an Intel Xeon: {REPORTS}planning_2026-12.md"
_STORE = f"measured by us on an AMD EPYC: {REPORTS}retrieval_store_2026-11.md"
ITEM_BYTES = Figure(328, f"328 bytes an item with its metadata, {_PLANNING}")
THUMBNAIL_BYTES = Figure(6900, f"6.9 kB a thumbnail, {_PLANNING}")
UPSERT_S = Figure(1 / 9750, f"9,750 rows a second, merges on a second core, {_STORE}")
WAITING_BYTES = Figure(5200, f"5.2 kB a row at the most, mapped files included, {_STORE}")
ASSIGN_S = Figure(2.53e-8 / 384, f"25 ns a row and list at 384 values, {_PLANNING}")
CODE_S = Figure(14.5e-6, f"9 us an item, 1 us a vector and 4.5 us a code, {_PLANNING}")
HASH_S = Figure(1.15e-9, f"1.15 ns a byte, {_PLANNING}")
QUERY_S = Figure(
    1.1e-3,
    "1.1 ms, and 0.07 us a list, 3.5 us a list visited, 0.02 us a row in it, 0.7 us a row scored "
    f"again, {_PLANNING}",
)
SCAN_S = Figure(12.3e-3 / 100_000, f"12.3 ms of CPU for 100,000 rows of 384, {_PLANNING}")
LISTS_VISITED = 32  # as it was found at 100,000 rows, and a tenth of the trials to find it
ROWS_SCORED = 100
TRIALS = 10
TRAINING_ROWS_A_LIST = 64
LEAST_TRAINING_ROWS = 65_536
KMEANS_ROUNDS = 10
MOST_ROWS = 20_000_000
"""Rows of a part: beyond, all merges of its filling take more than a night of one core."""
CODES_SHARE = 0.5
"""Share of a machine's memory that codes may take; the rest keeps vectors that are read often."""


@dataclass(frozen=True, kw_only=True)
class IndexCost:
    """Seconds of one core, and bytes, of an index of so many rows, as ``auto`` makes it."""

    rows: int
    dim: int

    @property
    def exact(self) -> bool:
        """True where every row is compared."""
        return self.rows <= EXACT_ROWS

    @property
    def lists(self) -> int:
        """Lists that the rows are divided into; 0 where search is exact."""
        return 0 if self.exact else 2 ** round(math.log2(math.sqrt(self.rows)))

    @property
    def code_bytes(self) -> float:
        """Memory of the index, in bytes: codes, factors and row numbers, blocks part filled."""
        return 0.0 if self.exact else 1.1 * self.rows * (self.dim / 8 + 16)

    @property
    def query_s(self) -> float:
        """Seconds of one search for ten rows."""
        if self.exact:
            return SCAN_S.value * self.rows * self.dim / 384
        visited = LISTS_VISITED * (3.5e-6 + 0.02e-6 * self.rows / self.lists * self.dim / 384)
        return QUERY_S.value + 0.07e-6 * self.lists + visited + 0.7e-6 * ROWS_SCORED

    @property
    def build_s(self) -> float:
        """Seconds of the last merge, which makes the index: everything but the upserts."""
        files = self.rows * (4 * self.dim + ITEM_BYTES.value) + self.code_bytes
        seconds = self.rows * CODE_S.value + files * HASH_S.value
        if self.exact:
            return seconds
        training = max(LEAST_TRAINING_ROWS, TRAINING_ROWS_A_LIST * self.lists)
        compared = self.lists * (KMEANS_ROUNDS * training + self.rows) + QUERIES * self.rows
        return seconds + ASSIGN_S.value * self.dim * compared + TRIALS * QUERIES * self.query_s

    @property
    def merges_s(self) -> float:
        """Seconds of all merges while it is filled, each of which makes the index anew."""
        rows, seconds = 0, 0.0
        while rows < self.rows:
            come = min(max(rows, WAITING_ROWS), MOST_WAITING_ROWS)
            rows = min(self.rows, rows + come)
            seconds += IndexCost(rows=rows, dim=self.dim).build_s
        return seconds


def index_plan(
    images: int,
    *,
    dim: int,
    memory_gb: float = 24.0,
    cores: int = 2,
    queries_per_s: float | None = None,
    thumbnails: bool = True,
    prices: Prices = Prices(),  # noqa: B008
) -> Plan:
    """Plan an index of many images, and the machines that serve it.

    Args:
        images: Number of images.
        dim: Width of a vector.
        memory_gb: Memory of a machine in gigabytes.
        cores: Cores of a machine.
        queries_per_s: Queries a second that all machines together must answer.
        thumbnails: Keep a thumbnail of each image.
        prices: Prices.
    """
    whole = IndexCost(rows=images, dim=dim)
    of_memory = whole.code_bytes / (CODES_SHARE * memory_gb * 1e9)
    parts = max(1, math.ceil(of_memory), math.ceil(images / MOST_ROWS))
    part = IndexCost(rows=math.ceil(images / parts), dim=dim)
    plan = Plan(f"Index of {images:,} images, {dim} values each, {memory_gb:g} GB a machine")
    kind = "exact" if part.exact else f"IVF{part.lists},RaBitQfs"
    where = "a folder on one machine" if parts == 1 else "Milvus: NOT MEASURED, each node as here"
    plan.add("parts", f"{parts:,}", f"{kind}; {where}")
    vectors, items = 4.0 * dim * images, ITEM_BYTES.value * images
    codes = parts * part.code_bytes
    pictures = THUMBNAIL_BYTES.value * images if thumbnails else 0.0
    plan.add("vectors", size(vectors), f"float32, {4 * dim} bytes a row")
    plan.add("items", size(items), "", ITEM_BYTES)
    plan.add("index", size(codes), f"{dim // 8 + 8} bytes of code a row, 8 of its number")
    if thumbnails:
        plan.add("thumbnails", size(pictures), "--thumbnails 0 leaves them out", THUMBNAIL_BYTES)
    stored = vectors + items + codes + pictures
    plan.add("disk", size(stored), f"and {size(stored - pictures)} more while a merge writes")
    plan.add("memory of a part", size(part.code_bytes), "its own; files that are mapped beside it")
    plan.add("", size(4.0 * dim * part.rows), "of vectors, kept by the system as far as they fit")
    waiting = WAITING_BYTES.value * min(part.rows, MOST_WAITING_ROWS)
    plan.add("  while it is built", size(waiting), "", WAITING_BYTES)
    upserts_h, merges_h = part.rows * UPSERT_S.value / 3600, part.merges_s / 3600
    cited = [CODE_S, HASH_S] if part.exact else [CODE_S, HASH_S, ASSIGN_S]
    plan.add("putting rows in", duration(upserts_h), "each part", UPSERT_S)
    last = f"each part, beside it on one core; the last {duration(part.build_s / 3600)}"
    plan.add("merges", duration(merges_h), last, *cited)
    plan.add("recall@10", f"{RECALL_WANTED}", "measured at every build, else search stays exact")
    searched = SCAN_S if part.exact else QUERY_S
    plan.add("a search", f"{1e3 * part.query_s:.2g} ms", "of one core, rows in memory", searched)
    answered = cores / part.query_s
    plan.add("  a machine", f"{amount(answered)} a second", f"{cores} cores")
    copies = 1 if queries_per_s is None else max(1, math.ceil(queries_per_s / answered))
    if queries_per_s is not None:
        plan.add("copies", f"{copies:,}", f"of every part, for {amount(queries_per_s)} a second")
    machines = parts * copies
    plan.add("machines", f"{machines:,}")
    plan.add_money(prices, machine_hours=machines * HOURS_A_MONTH, stored_bytes=copies * stored)
    return plan
