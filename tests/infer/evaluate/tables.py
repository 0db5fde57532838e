"""Tables that tests of evaluation read and write."""

import re


def figures(stdout):
    """The values of a printed table of figures: by name of the value, then of the contestant."""
    head, *lines = (re.split(r"\s{2,}", line) for line in stdout.split("\n\n")[0].splitlines())
    return {
        name: {
            of: float(cell.split()[0])
            for of, cell in zip(head[1:], cells, strict=True)
            if cell != "-"
        }
        for name, *cells in lines
    }


def labels_csv(path, names):
    path.write_text("path,label\n" + "".join(f"{n},{n.split('-')[0]}\n" for n in names))
    return path
