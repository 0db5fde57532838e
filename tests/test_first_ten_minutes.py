"""The script that follows the README finds its commands."""

from benchmarks.first_ten_minutes import ROOT, lines


def test_the_commands_of_the_readme_are_found_in_order_and_without_comments():
    found = lines((ROOT / "README.md").read_text(encoding="utf-8"))
    programs = [line.split()[0] for line in found]
    steps = [".venv/bin/pip", "dino-train", "dino-embed", "dino-index", "dino-demo"]
    assert [program for program in programs if program in steps] == steps
    assert not any("#" in line for line in found)


def test_other_sections_and_other_languages_are_left_out():
    blocks = ["sh\npip it  # now", "python\nx", "sh\nno"]
    parts = zip(("Install", "Ten minutes", "Tests"), blocks, strict=True)
    readme = "".join(f"## {name}\n```{block}\n```\n" for name, block in parts)
    assert lines(readme) == ["pip it"]
