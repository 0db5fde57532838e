"""Tables that tests of evaluation read and write."""


def table(stdout):
    """The numbers of a printed table, without its heading."""
    return [[float(cell) for cell in line.split()] for line in stdout.splitlines()[1:]]


def labels_csv(path, names):
    path.write_text("path,label\n" + "".join(f"{n},{n.split('-')[0]}\n" for n in names))
    return path
