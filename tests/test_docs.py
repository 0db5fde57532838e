"""README, docs and docstrings as printed: Python blocks run, and so does every command that can."""

import ast
import contextlib
import inspect
import io
import json
import os
import re
import shlex
import shutil
import subprocess
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer import Embedder, LinearHead, list_images
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo
from tests.infer.evaluate.clips import plain

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
]
SOURCES = ("dino_infer", "training/dino_train", "export/dino_export", "app/dino_app")
COMMANDS = {
    point.name: point for point in entry_points(group="console_scripts")
    if point.name.startswith("dino-")
}  # fmt: skip

NOT_RUN = {
    r"dino-train|torchrun": "trains for hours; short runs are in tests/train",
    r"dino-serve|dino-demo": "runs until it is stopped; tests/app/server and tests/browser do",
    r"dino-export ": "takes long for a test; tests/export runs each kind",
    r"dino-embed .*model\.onnx": "tests/infer/embedding/test_engines.py runs exports",
    r"dino-attention .*clip\.mp4": "needs a video; tests/infer/cli/test_attention.py has one",
    r"dino-eval objects .*VOC2007": "needs PASCAL VOC; tests/infer/cli/protocols has annotations",
    r"dino-index copy .* milvus:https": "needs a Milvus server; tests/app/cli copies to a file",
    r"dino-index build photos/ -o photos\.index$": "downloads the default weights",
    r"pip |\.venv/bin/pip |python3 -m venv": "changes the installation",
    r"python -m dino_infer\.samples": "tests/infer/test_samples.py does",
    r"python -c": "needs a GPU",
    r"python examples/": "tests/export/test_onnx.py runs it",
    r"make |docker ": "tests/test_demo.py, tests/app/server/test_container.py and CI do",
    r"python benchmarks/": "measures for minutes to hours",
}
"""Commands that are only compared with the help of their programs, and why."""
LINES = re.compile(r"(dino-|torchrun|python|pip|docker|make|\.venv|curl)\S*\s")
FLAG = re.compile(r"(?<![\w-])--?[a-zA-Z][\w.-]*")


class Block(NamedTuple):
    """A piece of code in a document."""

    document: Path
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"


def _blocks() -> list[Block]:
    """Fenced and indented code of all documents."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
            found.append(Block(document, _line(text, match.start()), match[1] or "sh", match[2]))
        bare = re.sub(r"^```.*?^```$", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S)
        for match in re.finditer(r"(?<=\n\n)(?: {4}.*\n)+", bare):
            found.append(Block(document, _line(text, match.start()), "sh", match[0]))
    return found


def _docstring_blocks() -> list[Block]:
    """Literal blocks of Python in docstrings: they begin with an import or load something."""
    found = []
    for path in sorted(path for source in SOURCES for path in (ROOT / source).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            for match in re.finditer(r"::\n\n((?: {4}.*\n?|\n)+)", text):
                code = inspect.cleandoc(match[1]) + "\n"
                if re.match(r"(from|import) |.*\.load\(", code):
                    found.append(Block(path, node.body[0].lineno, "python", code))
    return found


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _commands(block: Block) -> list[str]:
    """The command lines of a shell block, without comments."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [
        part.strip() for line in lines if LINES.match(line.strip())
        for part in _without_comment(line).split(" && ")
    ]  # fmt: skip


def _without_comment(line: str) -> str:
    return re.sub(r"\s+#.*$", "", line)


BLOCKS = _blocks()
PYTHON = [block for block in BLOCKS if block.kind == "python"]
DOCSTRINGS = _docstring_blocks()
SHELL = [(block, line) for block in BLOCKS if block.kind == "sh" for line in _commands(block)]


def _is_run(command: str) -> bool:
    return not any(re.match(pattern, command) for pattern in NOT_RUN)


def _save_weights(path: Path) -> None:
    """Weights with large patches: the commands show images of up to 480 pixels to them."""
    torch.manual_seed(0)
    backbone = build_backbone("vit_micro", patch_size=32, image_size=64)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, backbone, CheckpointInfo(arch="vit_micro", patch_size=32, image_size=64))


def _save_picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _save_copies(folder: Path) -> None:
    for seed in range(4):
        for part in ("original", "query"):
            _save_picture(folder / part / f"{seed}.jpg", 10 + seed)
    lines = [f"query/{seed}.jpg,original/{seed}.jpg\n" for seed in range(4)]
    (folder / "copies.csv").write_text("query,original\n" + "".join(lines))


def _save_landmarks(folder: Path) -> None:
    """Two photos of each of two places, and a query for each."""
    names = [f"photo{number}" for number in range(4)]
    for seed, name in enumerate([*names, "query0", "query1"]):
        _save_picture(folder / "jpg" / f"{name}.jpg", seed)
    truth = [
        {"bbx": [0, 0, 40, 40], "easy": [2 * place], "hard": [2 * place + 1], "junk": []}
        for place in range(2)
    ]
    content = {"imlist": names, "qimlist": ["query0", "query1"], "gnd": truth}
    (folder / "gnd_roxford5k.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with what the documents name."""
    folder = tmp_path_factory.mktemp("documents")
    _save_weights(folder / "runs" / "photos" / "checkpoint.safetensors")
    for seed in range(1, 9):
        for place in ("photos", "labelled/train", "labelled/val", "more"):
            name = ("dogs", "cats")[seed % 2]
            _save_picture(folder / place / name / f"{seed}.jpg", seed)
    for seed in range(4):
        _save_picture(folder / "masked" / "images" / f"{seed}.jpg", seed)
        mask = np.zeros((40, 48), np.uint8)
        mask[8 : 20 + seed, 10:30] = 255
        (folder / "masked" / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / "masked" / "masks" / f"{seed}.png")
    plain(folder / "clip", count=3)
    _save_copies(folder / "copies")
    _save_landmarks(folder / "roxford5k")
    [suite] = [block.text for block in BLOCKS if block.kind == "toml"]
    (folder / "suite.toml").write_text(suite)
    for seed in range(20, 24):
        _save_picture(folder / "others" / f"{seed}.jpg", seed)
    for name in ("a.jpg", "b.jpg", "b.png", "cat.jpg", "2.jpg"):
        _save_picture(folder / name, 9)
    return folder


@pytest.fixture
def workplace(prepared, tmp_path, monkeypatch):
    """A copy of that folder, in which the test runs."""
    monkeypatch.chdir(shutil.copytree(prepared, tmp_path / "here"))
    return Path.cwd()


def _save_heads() -> None:
    """Heads as dino-eval linear saves them, where the blocks look for them."""
    for path, feature in {
        "head.safetensors": "cls",
        "report/linear/head.safetensors": "last4",
    }.items():
        embedder = Embedder.load("runs/photos", device="cpu", feature=feature)
        dim = embedder("a.jpg").size
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        LinearHead(
            weight=np.eye(2, dim, dtype=np.float32), bias=np.zeros(2, np.float32),
            classes=("cats", "dogs"), made_by=embedder.description(),
        ).save(path)  # fmt: skip


def _names() -> dict[str, object]:
    """What the text around the blocks has made before."""
    embedder = Embedder.load("runs/photos", device="cpu")
    return {
        "Embedder": Embedder,
        "Image": Image,
        "LinearHead": LinearHead,
        "embedder": embedder,
        "list_images": list_images,
        "array": np.zeros((40, 48, 3), dtype=np.uint8),
        "tensor": torch.zeros(2, 3, 32, 32),
        "features": np.eye(6, dtype=np.float32),
        "labels": ["cat", "dog"] * 3,
    }


def _run(command: str) -> None:
    program, *args = shlex.split(command)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            code = COMMANDS[program].load()(args)
        except SystemExit as error:
            code = error.code
    assert not code, f"{command}: {said.getvalue()}"


@pytest.fixture(scope="module")
def server(prepared, tmp_path_factory):
    """A client of a server over an index of the photos, without keys."""
    from contextlib import closing

    from dino_app.server.app import create_app
    from dino_app.store.opening import open_store
    from dino_infer.embedding.embedder import Embedder
    from tests.app.server.conftest import served

    index = tmp_path_factory.mktemp("served") / "photos.index"
    weights = str(prepared / "runs" / "photos")
    _run(f"dino-index build {prepared / 'photos'} -o {index} --weights {weights}")
    embedder = Embedder.load(weights, device="cpu")
    with (
        closing(open_store(str(index), writable=True)) as store,
        served(create_app(embedder, store)) as client,
    ):
        yield client


def test_the_documents_hold_blocks_and_the_table_holds_nothing_that_is_gone():
    assert len(PYTHON) >= 4 and len(SHELL) >= 40 and len(DOCSTRINGS) >= 6
    for pattern in NOT_RUN:
        for one in pattern.split("|") if "(" not in pattern else [pattern]:
            assert any(re.match(one, command) for _, command in SHELL), one


@pytest.mark.parametrize("block", {b.text: b for b in [*PYTHON, *DOCSTRINGS]}.values(), ids=str)
def test_a_python_block_runs_as_printed(block, workplace, server):
    names = _names()
    if "head.safetensors" in block.text:
        _save_heads()
    if "train(" in block.text:
        shutil.rmtree("runs/photos")  # the run that is begun
        for seed in range(56):
            _save_picture(Path("photos") / f"{seed}.jpg", seed)
    if "photos.index" in block.text:
        _run("dino-index build photos/ -o photos.index --weights runs/photos")
    jaxtyping.config.update("jaxtyping_disable", "export(" in block.text)  # it traces symbols
    text = block.text.replace("http://127.0.0.1:8000", str(server.base_url))
    text = text.replace("auto_for(images)", "auto_for(images, epochs=1)")  # for seconds
    try:
        exec(compile(text, str(block.document), "exec"), names)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    if "train(" in block.text:
        assert Path("runs/photos/checkpoint.safetensors").is_file()
    if "embedding" in names:
        assert len(names["embedding"].features) == 8 and not names["embedding"].failures


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_a_document_run_one_after_the_other(document, workplace, capsys):
    for block, command in SHELL:
        if block.document == document and command.startswith("dino-") and _is_run(command):
            if command.startswith("dino-index build feats.npy"):
                _run("dino-embed photos/ -o feats.npy --weights runs/photos")
            if "photos/train" in command:  # as the samples have it
                shutil.copytree("labelled/train", "photos/train", dirs_exist_ok=True)
            _run(command)


@pytest.mark.parametrize("command", [c for _, c in SHELL if c.startswith("curl")])
def test_a_request_with_curl_is_answered(command, workplace, server):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    address = f"{server.base_url.host}:{server.base_url.port}"
    printed = command.replace("localhost:8000", address).replace(
        "curl -s", "curl -s --fail-with-body"
    )
    environment = {**os.environ, "no_proxy": "*"}
    done = subprocess.run(shlex.split(printed), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout


def test_every_command_is_one_of_ours_or_has_a_reason_not_to_run():
    for block, command in SHELL:
        program = command.split()[0]
        assert program in COMMANDS or program == "curl" or not _is_run(command), (block, command)


HELP: dict[tuple[str, ...], str] = {}


def _help(*words: str) -> str:
    """The help of a program, or of its verb."""
    if words not in HELP:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            COMMANDS[words[0]].load()([*words[1:], "--help"])
        HELP[words] = shown.getvalue()
    return HELP[words]


OURS = [(b, c) for b, c in SHELL if re.match(r"dino-|torchrun", c)]


@pytest.mark.parametrize(("block", "command"), OURS, ids=str)
def test_every_flag_of_a_command_exists(block, command):
    words = shlex.split(
        command.replace("torchrun", "").partition("-m dino_train.cli")[2] or command
    )
    program = "dino-train" if command.startswith("torchrun") else words.pop(0)
    verbs = {"dino-index": 1, "dino-eval": 1, "dino-train": 1}.get(program, 0)
    verb = [word for word in words[:verbs] if re.fullmatch(r"[a-z][a-z0-9_-]+", word)]
    plan = [word for word in words if word == "--plan"]  # which has flags of its own
    known = set(FLAG.findall(_help(program, *verb, *plan)))
    given = {word for word in words if FLAG.fullmatch(word)}
    assert known and given <= known, f"{block}: {command}: {sorted(given - known)}"


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_lead_to_files_of_the_repository(document):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
    assert not [to for to in links if "://" not in to and not (document.parent / to).exists()]


def test_the_guide_to_the_code_names_files_that_exist():
    packages = ("dino_infer", "training", "export", "app")
    names = {path.name for package in packages for path in (ROOT / package).rglob("*.py")}
    named = re.findall(r"`([a-z_]+\.py)`", (ROOT / "docs" / "code.md").read_text(encoding="utf-8"))
    assert named and not set(named) - names
