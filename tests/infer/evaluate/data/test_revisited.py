"""Ground truth of the revisited sets: the published pickles as data, and what does not fit."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from dino_infer.errors import DataError
from dino_infer.evaluate.data.revisited import ground_truth_in, read_revisited

NAMES = [f"town_{i:06}" for i in range(5)]
TRUTH = {
    "imlist": NAMES[:4],
    "qimlist": NAMES[4:],
    "gnd": [{"bbx": [1.5, 2.0, 30.0, 20.0], "easy": [0], "hard": [2, 3], "junk": []}],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "jpg").mkdir()
    for i, name in enumerate(NAMES):
        Image.new("RGB", (40, 30), (40 * i, 0, 0)).save(tmp_path / "jpg" / f"{name}.jpg")
    return tmp_path


def check(data):
    (query,) = data.truth
    assert (query.easy, query.hard, query.junk) == ((0,), (2, 3), ())
    assert query.box == (1.5, 2.0, 30.0, 20.0)
    assert [data.database.name(i) for i in range(4)] == [f"{name}.jpg" for name in NAMES[:4]]
    assert data.queries.name(0) == f"{NAMES[4]}.jpg"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [list, np.array, lambda values: np.array(values, ">f4")])
def test_a_pickle_of_lists_or_arrays_is_read_in_every_protocol(folder, protocol, kind):
    entry = {key: kind(value) for key, value in TRUTH["gnd"][0].items()}
    if kind is not list:
        entry["easy"] = [np.int64(0)]
    path = folder / "gnd_town.pkl"
    path.write_bytes(pickle.dumps({**TRUTH, "gnd": [entry]}, protocol))
    check(read_revisited(path))
    assert ground_truth_in(folder) == path


def test_a_pickle_of_python_2_is_read(folder):
    # As Python 2 and NumPy 1 wrote it: byte strings without a type, and the old module.
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
        b"S'\\x02\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x03\\x00\\x00\\x00\\x00\\x00\\x00\\x00'\ntb"
    )
    lists = b"(dS'imlist'\n(lS'%s'\naS'%s'\naS'%s'\naS'%s'\nasS'qimlist'\n(lS'%s'\nas" % tuple(
        name.encode() for name in NAMES
    )
    entry = b"(dS'bbx'\n(lF1.5\naF2.0\naF30.0\naF20.0\nasS'easy'\n(lI0\nasS'junk'\n(lsS'hard'\n"
    text = lists + b"S'gnd'\n(l" + entry + array + b"sas."
    (folder / "gnd_town.pkl").write_bytes(text)
    check(read_revisited(folder / "gnd_town.pkl"))


def test_json_of_the_same_form_is_read_first(folder):
    (folder / "gnd_town.pkl").write_bytes(b"")
    (folder / "gnd_town.json").write_text(json.dumps(TRUTH))
    check(read_revisited(folder))


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    "content",
    [
        Evil(),
        {**TRUTH, "gnd": [Evil()]},
        {**TRUTH, "more": pytest.raises},
        {**TRUTH, "imlist": np.array([Evil()], dtype=object)},
        {**TRUTH, "more": np.random.default_rng(0)},
    ],
)
def test_a_pickle_that_could_run_code_is_refused_unrun(folder, content, capsys):
    (folder / "gnd_town.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="gnd_town.pkl' cannot be read: it holds .*could run code"):
        read_revisited(folder / "gnd_town.pkl")
    assert capsys.readouterr().out == ""


def test_what_a_pickle_may_name_stays_as_it_is_whatever_it_sets(folder):
    # GLOBAL numpy.dtype, then BUILD of its attributes.
    attack = b"\x80\x02cnumpy\ndtype\n}X\x07\x00\x00\x00numbersK\x01sb."
    (folder / "gnd_a.pkl").write_bytes(attack)
    with pytest.raises(DataError):
        read_revisited(folder / "gnd_a.pkl")
    entry = {key: np.array(value) for key, value in TRUTH["gnd"][0].items()}
    entry["junk"] = []
    (folder / "gnd_a.pkl").write_bytes(pickle.dumps({**TRUTH, "gnd": [entry]}))
    check(read_revisited(folder / "gnd_a.pkl"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imlist": [*NAMES[:3], "gone"]}, r"1 of 5 images of gnd_town.json are not in .*\(gone\)"),
        ({"imlist": [*NAMES[:3], NAMES[0]]}, "'town_000000' is listed twice"),
        ({"gnd": []}, "gnd has 0 entries for 1 queries"),
        ({"gnd": [{**TRUTH["gnd"][0], "junk": [0]}]}, "positions of query 'town_000004' repeat"),
        ({"gnd": [{**TRUTH["gnd"][0], "junk": [4]}]}, r"are not in 0\.\.3"),
        ({"gnd": [{**TRUTH["gnd"][0], "bbx": [5, 5, 5, 9]}]}, "bbx of query .* is empty"),
        ({"gnd": [{**TRUTH["gnd"][0], "junk": [float("inf")]}]}, "cannot convert float infinity"),
        ({"gnd": [{"easy": [0], "hard": []}]}, "no 'junk'"),
        ({"gnd": "abc"}, "no ground truth of a revisited set"),
    ],
)
def test_ground_truth_that_does_not_fit_is_refused(folder, changes, message):
    (folder / "gnd_town.json").write_text(json.dumps({**TRUTH, **changes}))
    with pytest.raises(DataError, match=message):
        read_revisited(folder / "gnd_town.json")


@pytest.mark.parametrize("content", [b"", b"\x80", b"[]", b"not a pickle", b"\x80\x04]."])
def test_damaged_files_are_refused(folder, content):
    for ending in ("pkl", "json"):
        path = folder / f"gnd_town.{ending}"
        path.write_bytes(content)
        with pytest.raises(DataError, match="gnd_town"):
            read_revisited(path)


def test_images_that_the_ground_truth_does_not_name_are_a_line(folder):
    Image.new("RGB", (8, 8)).save(folder / "jpg" / "other.jpg")
    (folder / "gnd_town.json").write_text(json.dumps(TRUTH))
    data = read_revisited(folder / "gnd_town.json")
    assert data.excluded == ["1 images are not in gnd_town.json (other)"]


def test_a_folder_has_one_ground_truth_or_none(folder):
    assert ground_truth_in(folder) is None
    with pytest.raises(DataError, match="has no gnd_NAME.pkl or gnd_NAME.json"):
        read_revisited(folder)
    for name in "ab":
        (folder / f"gnd_{name}.json").write_text("{}")
    with pytest.raises(DataError, match=r"several sets \(gnd_a.json, gnd_b.json\); keep one"):
        ground_truth_in(folder)
