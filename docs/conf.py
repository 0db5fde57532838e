"""The site: ``make docs`` builds it offline into build/site, with warnings as errors.

Pages are plain Markdown that reads in the repository too, and the site has the folders of the
repository, so that their links hold in both; the README is its first page, and contents.txt its
table of contents. The API pages are written here from the stubs
(``__init__.pyi``) of the packages, a section for each room.
"""

import ast
import importlib
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SOURCES = (".", "training", "export", "app")
sys.path[:0] = [str(ROOT / source) for source in SOURCES]

project = "DINO toolkit"
author = "its contributors"
version = release = importlib.import_module("dino_infer").__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
root_doc = "README"
include_patterns = ["*.md", "docs/**", "benchmarks/*.md", "benchmarks/**/*.md"]
exclude_patterns = [".*", "**/.*", "build", "demo", "runs"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a page may begin with a picture

html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_use_rtype = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 80

PACKAGES = {
    "dino_infer": ROOT / "dino_infer",
    "dino_infer.evaluate": ROOT / "dino_infer" / "evaluate",
    "dino_train": ROOT / "training" / "dino_train",
    "dino_export": ROOT / "export" / "dino_export",
    "dino_app": ROOT / "app" / "dino_app",
}


def write_api_pages(_app: object = None) -> None:
    """Write api/PACKAGE.rst, with the public names of each room under its first line."""
    (DOCS / "api").mkdir(exist_ok=True)
    for package, folder in PACKAGES.items():
        page = [_heading(package, "="), importlib.import_module(package).__doc__ or ""]
        for room, names in _public_names(package, folder).items():
            module = importlib.import_module(room)
            page += [_heading((module.__doc__ or room).splitlines()[0].rstrip("."), "-")]
            page += [_entry(package, name) for name in names]
        path = DOCS / "api" / f"{package}.rst"
        text = "\n\n".join(page) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}"


def _public_names(package: str, folder: Path) -> dict[str, list[str]]:
    """The names that a package gives to its users, by the module that its stub takes them from."""
    stub = folder / "__init__.pyi"
    if not stub.exists():
        return {package: sorted(importlib.import_module(package).__all__)}
    rooms: dict[str, list[str]] = {}
    for line in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(line, ast.ImportFrom):
            for name in line.names:
                room = f"{package}.{line.module or name.name}"
                rooms.setdefault(room, []).append(name.name)
    return rooms


def _entry(package: str, name: str) -> str:
    thing = getattr(importlib.import_module(package), name)
    if isinstance(thing, type):
        kind = "autoexception" if issubclass(thing, Exception) else "autoclass"
    else:
        kind = "autofunction" if callable(thing) else "automodule"
    return f".. {kind}:: {package}.{name}"


LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s:]+)\)")


def adapt_page(_app: object, page: str, source: list[str]) -> None:
    """Make links to folders plain text, as a site has no page for them; add the contents."""
    here = (ROOT / page).parent

    def plain(link: re.Match[str]) -> str:
        return f"`{link[1].strip('`')}`" if (here / link[2]).is_dir() else link[0]

    source[0] = LINK.sub(plain, source[0])
    if page == root_doc:
        source[0] += "\n" + (DOCS / "contents.txt").read_text(encoding="utf-8")


def write_entrance(app: object, error: Exception | None) -> None:
    """Write index.html at the top, which leads to the first page."""
    page = '<!doctype html><meta http-equiv="refresh" content="0; url=README.html">\n'
    if error is None:
        Path(app.outdir, "index.html").write_text(page, encoding="utf-8")  # type: ignore[attr-defined]


def setup(app: object) -> None:
    """Sphinx calls this."""
    app.connect("builder-inited", write_api_pages)  # type: ignore[attr-defined]
    app.connect("source-read", adapt_page)  # type: ignore[attr-defined]
    app.connect("build-finished", write_entrance)  # type: ignore[attr-defined]
