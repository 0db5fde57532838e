"""The journal of an unfinished set: only what the files bear out is believed."""

import zlib
from contextlib import ExitStack

import pytest

from dino_infer.features.journal import (
    APPENDED,
    JOURNAL,
    AppendedFile,
    Done,
    journal_line,
    open_appended,
    recover_journal,
)

HEADER = b"header"


@pytest.fixture
def states(tmp_path):
    """A folder with two lines in its journal, and the states that they tell."""
    contents, states = {name: b"" for name in APPENDED}, []
    contents["rows"] = HEADER
    for number in (1, 2):
        for name in APPENDED:
            contents[name] += f"{name} {number}\n".encode()
        sums = [zlib.crc32(contents[name].removeprefix(HEADER)) for name in APPENDED]
        sizes = tuple(len(contents[name]) for name in APPENDED)
        states.append(Done(images=number, shape=(number, 4), sizes=sizes, checksums=tuple(sums)))
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / JOURNAL).write_bytes(b"".join(map(journal_line, states)))
    return states


def test_the_last_line_is_believed(tmp_path, states):
    assert recover_journal(tmp_path, header_size=len(HEADER)) == states[1]


def test_a_torn_line_does_not_count(tmp_path, states):
    journal = tmp_path / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-5])
    assert recover_journal(tmp_path, header_size=len(HEADER)) == states[0]
    assert journal.read_bytes() == journal_line(states[0])


@pytest.mark.parametrize("name", APPENDED)
def test_a_changed_byte_takes_the_state_back(tmp_path, states, name):
    content = bytearray((tmp_path / name).read_bytes())
    content[-2] ^= 1
    (tmp_path / name).write_bytes(content)
    assert recover_journal(tmp_path, header_size=len(HEADER)) == states[0]


def test_without_a_believable_line_there_is_no_journal(tmp_path):
    (tmp_path / JOURNAL).write_bytes(b"no JSON\n")
    assert recover_journal(tmp_path, header_size=6) == Done(sizes=(6, 0, 0))
    assert not (tmp_path / JOURNAL).exists()


def test_what_follows_the_state_is_cut_off(tmp_path, states):
    with ExitStack() as opened:
        for file in open_appended(tmp_path, states[0], opened):
            file.write(b"more")
            file.sync()
    assert [(tmp_path / name).stat().st_size for name in APPENDED] == [
        size + len(b"more") for size in states[0].sizes
    ]


def test_a_file_keeps_the_checksum_of_what_it_holds(tmp_path):
    file = AppendedFile(tmp_path / "rows", size=0, checksum=0)
    for part in (b"one", b"two"):
        file.write(part)
    assert file.sync() == 6 and file.checksum == zlib.crc32(b"onetwo")
    file.close()
