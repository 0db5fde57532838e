"""The README followed from a clone: python benchmarks/first_ten_minutes.py [--work FOLDER].

Clones the repository into a new folder, runs the shell blocks of "Install" and "Ten minutes" line
by line, and prints seconds for each, by the clock and of the processors: installation, first
training, first vectors, first search page. A command that serves ends once its page has answered.
"""

import argparse
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("Install", "Ten minutes")
WAIT_S = 120


class Seconds(NamedTuple):
    """Time that a command took."""

    clock: float
    cpu: float
    """Of all its processes that have ended."""


def main() -> int:
    """Run the blocks and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--work", type=Path, help="folder to clone into; by default a temporary one"
    )
    work = parser.parse_args().work or Path(tempfile.mkdtemp())
    clone = work / "clone"
    rows = [("git clone", timed(["git", "clone", "--quiet", str(ROOT), str(clone)], work))]
    environment = dict(os.environ)
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    environment["PATH"] = f"{clone}/.venv/bin{os.pathsep}{environment['PATH']}"
    for line in lines((clone / "README.md").read_text(encoding="utf-8")):
        print(f"$ {line}", flush=True)
        if line.startswith("dino-demo"):
            rows.append((line, page(line, clone, environment)))
        elif not line.startswith(". "):  # what activating does is done above
            rows.append((line, timed(["bash", "-ec", line], clone, environment)))
    print("\n| command | s | CPU s |\n|---|---|---|")
    for command, took in [
        *rows,
        ("all", Seconds(*map(sum, zip(*(s for _, s in rows), strict=True)))),
    ]:
        print(f"| `{command}` | {took.clock:.0f} | {took.cpu:.0f} |")
    return 0


def lines(readme: str) -> list[str]:
    """The commands of the shell blocks of the sections."""
    found = []
    for name in SECTIONS:
        section = re.search(rf"^## {name}$(.*?)^## ", readme, re.M | re.S)
        assert section is not None, name
        for block in re.findall(r"^```sh\n(.*?)^```$", section[1], re.M | re.S):
            found += [re.sub(r"\s+#.*", "", line) for line in block.splitlines() if line.strip()]
    return found


def timed(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> Seconds:
    """Seconds that a command took; it must succeed."""
    start = now()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=sys.stderr)
    return since(start)


def now() -> Seconds:
    """Time by the clock, and of child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Seconds(time.monotonic(), used.ru_utime + used.ru_stime)


def since(start: Seconds) -> Seconds:
    """Seconds from then to now."""
    clock, cpu = now()
    return Seconds(clock - start.clock, cpu - start.cpu)


def page(line: str, folder: Path, environment: dict[str, str]) -> Seconds:
    """Seconds until a served page has answered and was ended."""
    start = now()
    process = subprocess.Popen(
        ["bash", "-ec", f"exec {line}"], cwd=folder, env=environment,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        for said in process.stderr:
            if address := re.search(r"open (http://\S+)", said):
                with urllib.request.urlopen(address[1], timeout=WAIT_S) as answer:
                    assert answer.status == 200
                break
        else:
            sys.exit(f"error: {line} ended without a page")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(WAIT_S)
    return since(start)


if __name__ == "__main__":
    sys.exit(main())
