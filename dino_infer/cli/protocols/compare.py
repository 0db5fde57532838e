"""dino-eval compare."""

from pathlib import Path

import tyro

from dino_infer.cli.exit_codes import printable


def compare(a: tyro.conf.Positional[Path], b: tyro.conf.Positional[Path], /) -> int:
    """Tell which figures of two scorecards differ by more than their spread.

    A difference counts from two standard deviations on. Values without a spread are listed, not
    judged; protocols that were measured on other data or with other settings are named.

    Args:
        a: A scorecard.json or result.json to compare with.
        b: The scorecard.json or result.json to judge.
    """
    from dino_infer.evaluate.reports.comparison import compare as compared
    from dino_infer.evaluate.reports.result import Table, text_of
    from dino_infer.evaluate.reports.scorecard import read_figures

    found = compared(read_figures(a), read_figures(b))
    columns = ("protocol", "value", "A", "B", "B - A", "±", "B is")
    rows = [
        ["-" if cell is None else cell for cell in difference] for difference in found.differences
    ]
    if rows:
        print(text_of(Table(columns, rows)))
    for line in (*found.otherwise, *found.incomparable):
        print(printable(line))
    return 0
