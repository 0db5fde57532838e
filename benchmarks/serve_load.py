"""dino-serve under load: search against bare FAISS and Milvus Lite, overload, batching.

    python benchmarks/serve_load.py --parts search overload batching --milvus

The server is a process of its own, for the search on one core. Vectors are clustered, weights are
random, images are JPEGs of 500 x 375. What is compared takes turns, in every round, so that other
work on the machine hits all of it.
"""

import argparse
import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

K = 10
CLUSTERS = 1000
RUN = "import sys; from dino_app.cli.{} import main; sys.exit(main())"
PATIENCE_S = 0.05  # within which a refusal should come


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print lines of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=["search", "overload", "batching"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--arch", default="vit_small")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--milvus", action="store_true", help="measure Milvus Lite as well")
    options = parser.parse_args(arguments)
    show(machine=platform.processor() or platform.machine(), cores=len(os.sched_getaffinity(0)),
         versions={name: version(name) for name in ("torch", "faiss-cpu", "fastapi", "uvicorn")},
         options=vars(options))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        weights = random_weights(Path(folder), options.arch, options.image_size)
        if "search" in options.parts:
            measure_search(Path(folder), weights, options)
        if "overload" in options.parts:
            measure_overload(weights, options)
        if "batching" in options.parts:
            measure_batching(weights, options)
    return 0


def show(**values: Any) -> None:
    """One line of results."""
    print(json.dumps(values), flush=True)


def random_weights(folder: Path, arch: str, image_size: int) -> Path:
    """A network of the right cost."""
    from dino_infer.networks.build import build_backbone
    from dino_infer.weights.checkpoints import save_checkpoint
    from dino_infer.weights.info import CheckpointInfo

    path = folder / f"{arch}.safetensors"
    backbone = build_backbone(arch, patch_size=16, image_size=image_size)
    info = CheckpointInfo(arch=arch, patch_size=16, image_size=image_size)
    save_checkpoint(path, backbone, info)
    return path


@contextlib.contextmanager
def server(*flags: str, one_core: bool = False) -> Iterator[tuple[str, int]]:
    """A running dino-serve: host and port."""
    with started("serve", *flags, "--no-access-log", one_core=one_core) as place:
        yield place


@contextlib.contextmanager
def started(program: str, *flags: str, one_core: bool = False) -> Iterator[tuple[str, int]]:
    """A running "serve" or "demo" on a free port: host and port."""
    command = [sys.executable, "-c", RUN.format(program), *flags, "--port", "0"]
    # Each stage decides on its own threads; the process starts with one for each core.
    child = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=dict(os.environ, OMP_NUM_THREADS="1")
    )
    if one_core:
        os.sched_setaffinity(child.pid, {min(os.sched_getaffinity(0))})
    try:
        assert child.stderr is not None
        lines = iter(child.stderr.readline, "")
        found = next(m for line in lines if (m := re.search(r" http://([^:]+):(\d+)", line)))
        threading.Thread(target=child.stderr.read, daemon=True).start()
        yield found[1], int(found[2])
    finally:
        child.terminate()
        child.wait(60)


class Client:
    """One connection; ``ask`` gives the status and the seconds it took."""

    def __init__(self, place: tuple[str, int]) -> None:
        self._connection = http.client.HTTPConnection(*place, timeout=120)

    def ask(self, path: str, body: bytes) -> tuple[int, float]:
        """Send one request and read the answer."""
        start = time.perf_counter()
        self._connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        answer.read()
        return answer.status, time.perf_counter() - start


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds."""
    return {f"p{p}_ms": round(1000 * float(np.percentile(seconds, p)), 2) for p in (50, 99)}


def closed_loop(
    place: tuple[str, int], path: str, bodies: Sequence[bytes], *, clients: int, seconds: float
) -> dict[str, float]:
    """Each client sends its next request when it has the answer to the last."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    def work(first: int) -> None:
        client, number = Client(place), first
        while time.perf_counter() < end:
            status, took = client.ask(path, bodies[number % len(bodies)])
            assert status == 200, status
            times.append(took)
            number += clients

    threads = [threading.Thread(target=work, args=(i,)) for i in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"per_s": round(len(times) / (time.perf_counter() - start), 1)} | percentiles(times)


def measure_search(folder: Path, weights: Path, options: argparse.Namespace) -> None:
    """(a) Vector search over HTTP on one core, next to bare FAISS and to Milvus Lite."""
    rng = np.random.default_rng(0)
    dim = build_index(folder / "index", weights, options.rows, rng)
    vectors = np.load(folder / "vectors.npy")
    picked = vectors[rng.integers(0, len(vectors), options.queries)]
    queries = picked + rng.standard_normal(picked.shape, dtype=np.float32) * 0.02
    bodies = [json.dumps({"vector": q.tolist(), "k": K, "include": []}).encode() for q in queries]
    bare = bare_faiss(vectors)
    milvus = milvus_lite(folder, vectors) if options.milvus else None
    flags = (str(folder / "index"), "--weights", str(weights), "--device", "cpu", "--read-only")
    with server(*flags, "--search-threads", "1", one_core=True) as place:
        for number in range(options.rounds):
            client = Client(place)  # an idle connection would be closed between rounds
            mine = [client.ask("/v1/search", body)[1] for body in bodies]
            theirs = [timed(bare, query) for query in queries]
            found = {"server": percentiles(mine), "bare FAISS": percentiles(theirs)}
            for clients in (1, options.clients):
                found[f"server, {clients} clients"] = closed_loop(
                    place, "/v1/search", bodies, clients=clients, seconds=options.seconds
                )
            if milvus is not None:
                times = [timed(milvus, query) for query in queries]
                rate = {"per_s": round(len(times) / sum(times), 1)}
                found["Milvus Lite, 1 client"] = rate | percentiles(times)
            show(part="search", round=number + 1, dim=dim, **found)


def timed(call: Callable[[np.ndarray], Any], query: np.ndarray) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call(query)
    return time.perf_counter() - start


def build_index(folder: Path, weights: Path, rows: int, rng: np.random.Generator) -> int:
    """The index that the server opens, and its vectors beside it; returns their width."""
    from dino_app.store.interface import Item
    from dino_app.store.opening import create_store
    from dino_infer.embedding.embedder import Embedder

    embedder = Embedder.load(weights, device="cpu")
    dim = embedder.feature_shape[0]
    vectors = rng.standard_normal((CLUSTERS, dim), dtype=np.float32)[
        rng.integers(0, CLUSTERS, rows)
    ]
    vectors += rng.standard_normal((rows, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(folder.with_name("vectors.npy"), vectors)
    store = create_store(folder, dim=dim, model=embedder.description())
    for start in range(0, rows, 20_000):
        part = range(start, min(start + 20_000, rows))
        store.upsert([Item(id=f"{i:08d}", vector=vectors[i], metadata={"n": i}) for i in part])
    store.close()
    return dim


def bare_faiss(vectors: np.ndarray) -> Callable[[np.ndarray], Any]:
    """Exact search with nothing around it, on one thread."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda query: index.search(query[None], K)


def milvus_lite(folder: Path, vectors: np.ndarray) -> Callable[[np.ndarray], Any]:
    """The same vectors in Milvus Lite."""
    from pymilvus import MilvusClient

    client = MilvusClient(str(folder / "milvus.db"))
    client.create_collection("v", dimension=vectors.shape[1], metric_type="IP", auto_id=False)
    for start in range(0, len(vectors), 5000):
        part = range(start, min(start + 5000, len(vectors)))
        client.insert("v", [{"id": i, "vector": vectors[i]} for i in part])
    client.load_collection("v")
    return lambda query: client.search("v", data=[query], limit=K)


def image_bodies(arch: str, count: int = 32) -> list[bytes]:
    """Embedding requests with photographs' worth of JPEG."""
    from PIL import Image

    rng, bodies = np.random.default_rng(0), []
    for _ in range(count):
        small = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG")
        uri = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
        asked = {"model": arch, "input": uri, "encoding_format": "base64"}
        bodies.append(json.dumps(asked).encode())
    return bodies


def measure_overload(weights: Path, options: argparse.Namespace) -> None:
    """(b) Requests at twice the capacity, whether or not the last was answered."""
    bodies = image_bodies(options.arch)
    flags = ("--weights", str(weights), "--device", "cpu", "--max-queue", "16")
    path = "/v1/embeddings"
    with server(*flags) as place:
        client = Client(place)
        closed_loop(place, path, bodies, clients=4, seconds=2)  # warm
        idle = statistics.median(client.ask(path, bodies[0])[1] for _ in range(10))
        capacity = closed_loop(place, path, bodies, clients=8, seconds=options.seconds)
        answers = asyncio.run(open_loop(place, bodies, 2 * capacity["per_s"], options.seconds))
        end = time.perf_counter()
        client = Client(place)  # the server has closed the idle one
        while client.ask(path, bodies[0])[1] > 2 * idle and time.perf_counter() - end < 60:
            pass
        recovered = time.perf_counter() - end
    accepted = [took for status, took in answers if status == 200]
    refused = [took for status, took in answers if status == 429]
    show(
        part="overload", capacity=capacity, sent=len(answers), idle_ms=round(1000 * idle, 1),
        accepted={"count": len(accepted)} | percentiles(accepted),
        refused={"count": len(refused), "within_50_ms": sum(t < PATIENCE_S for t in refused)}
        | (percentiles(refused) if refused else {}),
        others=len(answers) - len(accepted) - len(refused), recovered_s=round(recovered, 2),
    )  # fmt: skip


async def open_loop(
    place: tuple[str, int], bodies: Sequence[bytes], rate: float, seconds: float
) -> list[tuple[int, float]]:
    """Status and seconds of requests that come at random moments, so many a second."""
    rng = np.random.default_rng(0)
    moments = np.cumsum(rng.exponential(1 / rate, max(1, int(rate * seconds))))
    start = time.perf_counter()

    async def one(number: int, moment: float) -> tuple[int, float]:
        await asyncio.sleep(max(0.0, start + moment - time.perf_counter()))
        began = time.perf_counter()
        status = await sent(place, bodies[number % len(bodies)])
        return status, time.perf_counter() - began

    return await asyncio.gather(*(one(i, float(m)) for i, m in enumerate(moments)))


async def sent(place: tuple[str, int], body: bytes) -> int:
    """The status of one request on a connection of its own."""
    reader, writer = await asyncio.open_connection(*place)
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: {place[0]}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = await reader.read()
    writer.close()
    return int(answer[9:12])


def measure_batching(weights: Path, options: argparse.Namespace) -> None:
    """(c) Embeddings a second: batches on single cores, and one image at a time in two ways."""
    bodies = image_bodies(options.arch)
    ways = {
        "batches of up to 16, a core each": (),
        "batches of up to 16, one at a time on all cores": ("--embed-threads", "1"),
        "single images, a core each": ("--max-batch", "1"),
        "single images, one at a time on all cores": ("--max-batch", "1", "--embed-threads", "1"),
    }
    for number in range(options.rounds):
        for name, flags in ways.items():
            with server("--weights", str(weights), "--device", "cpu", *flags) as place:
                closed_loop(place, "/v1/embeddings", bodies, clients=4, seconds=2)  # warm
                one = closed_loop(
                    place, "/v1/embeddings", bodies, clients=1, seconds=options.seconds / 2
                )
                many = closed_loop(
                    place, "/v1/embeddings", bodies, clients=options.clients,
                    seconds=options.seconds,
                )  # fmt: skip
            show(part="batching", round=number + 1, way=name, one_client=one, clients=many)


if __name__ == "__main__":
    sys.exit(main())
