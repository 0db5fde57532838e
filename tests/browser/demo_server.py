"""``dino-demo`` as people start it: a process of its own on a free port."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

START = "import sys; from dino_app.cli.demo import main; sys.exit(main())"
START_S = 180  # importing takes seconds, on a busy machine minutes


@contextmanager
def demo_server(*flags: str, attacked: bool = False) -> Iterator[str]:
    """The address of a running demo; it ends with the block.

    Its log must be free of tracebacks, unless it is ``attacked``: Gradio logs what it refuses.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", START, *flags, "--port", "0", "--device", "cpu"],
        env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    lines: list[str] = []
    address = threading.Event()
    reader = threading.Thread(target=_read, args=(process, lines, address))
    reader.start()
    try:
        address.wait(START_S)
        found = re.search(r"open (http://\S+)", "".join(lines))
        assert found, f"the demo did not start:\n{''.join(lines)}"
        yield found[1]
        assert process.poll() is None, f"the demo ended:\n{''.join(lines)}"
    finally:
        process.terminate()
        process.wait(30)
        reader.join()
        process.stderr.close()
    assert attacked or "Traceback" not in "".join(lines), "".join(lines)


def _read(process: subprocess.Popen, lines: list[str], address: threading.Event) -> None:
    for line in process.stderr:
        lines.append(line)
        if "open http" in line:
            address.set()
    address.set()
