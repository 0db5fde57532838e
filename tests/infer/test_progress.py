"""Progress is a bar on a terminal and log lines elsewhere."""

import io
import logging
import sys

from dino_infer.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_there_are_log_lines(caplog, capsys):
    with caplog.at_level(logging.INFO), Progress("embed", total=8, line_every_s=0) as progress:
        progress.advance(3)
        progress.advance(5)
    assert capsys.readouterr().err == ""
    assert caplog.messages[0].startswith("embed: 3 of 8 images, ")
    assert caplog.messages[1].endswith(" images/s, 00:00 left")


def test_log_lines_are_rare(caplog):
    with caplog.at_level(logging.INFO), Progress("embed", total=1000) as progress:
        for _ in range(1000):
            progress.advance(1)
    assert caplog.messages == []


def test_on_a_terminal_there_is_a_bar(caplog, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with caplog.at_level(logging.INFO), Progress("embed", total=8, line_every_s=0) as progress:
        progress.advance(8)
    assert "embed: 100%" in sys.stderr.getvalue() and "8/8" in sys.stderr.getvalue()
    assert caplog.messages == []
