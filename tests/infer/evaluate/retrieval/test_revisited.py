"""dino-eval retrieval of landmarks, against the protocol written as loops."""

import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from dino_infer.cli import eval as evaluation
from dino_infer.evaluate.data.revisited import QueryTruth
from dino_infer.evaluate.retrieval.revisited import cut_out, revisited_columns
from tests.infer.evaluate.tables import figures


@pytest.fixture
def outcome(capsys, weights, tmp_path):
    """A function that runs the verb, and gives exit code, stdout and stderr."""

    def run(*args):
        fixed = [
            "--weights",
            weights,
            "--device",
            "cpu",
            "--seed",
            5,
            "--cache",
            tmp_path / "cache",
        ]
        code = evaluation.main([str(word) for word in ["retrieval", *fixed, *args]])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def town(tmp_path):
    """Three landmarks, each in three photos of other sizes, and a query cut out of a fourth."""
    rng = np.random.default_rng(0)
    root = tmp_path / "rtown"
    (root / "jpg").mkdir(parents=True)
    truth = {"imlist": [], "qimlist": [], "gnd": []}
    for landmark in range(3):
        cells = rng.integers(0, 256, (6, 8, 3))
        for i in range(4):
            pixels = np.kron(cells, np.ones((10 + i, 10, 1))).astype(np.uint8)
            name = f"place_{landmark}{i}"
            Image.fromarray(pixels).save(root / "jpg" / f"{name}.jpg", quality=95)
            truth["imlist" if i else "qimlist"].append(name)
        at = 3 * landmark
        truth["gnd"].append(
            {"bbx": [0, 0, 79.6, 59], "easy": [at], "hard": [at + 1], "junk": [at + 2]}
        )
    (root / "gnd_rtown.json").write_text(json.dumps(truth))
    return root


def by_loops(order, relevant, junk, ks=(1, 5, 10)):
    """AP by trapezoids and precision at k of one query, as the paper's authors evaluate."""
    kept = [place for place in order if place not in junk]
    places = [i for i, place in enumerate(kept) if place in relevant]
    area = 0.0
    for found, place in enumerate(places):
        left = found / place if place else 1.0
        area += (left + (found + 1) / (place + 1)) / 2 / len(relevant)
    depths = [min(k, places[-1] + 1) for k in ks]
    return [area, *(sum(place < depth for place in places) / depth for depth in depths)]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.permutations(range(9)),
            st.lists(st.sampled_from(["easy", "hard", "junk", ""]), min_size=9, max_size=9),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_setups_differ_in_what_is_relevant_and_what_is_junk(queries):
    scores = np.zeros((len(queries), 9))
    truth, expected = [], {"easy": [], "medium": [], "hard": []}
    for i, (order, kinds) in enumerate(queries):
        scores[i, list(order)] = -np.arange(9)
        of = {k: tuple(j for j in range(9) if kinds[j] == k) for k in ("easy", "hard", "junk")}
        truth.append(QueryTruth(**of, box=None))
        for setup, relevant, junk in (
            ("easy", of["easy"], of["hard"] + of["junk"]),
            ("medium", of["easy"] + of["hard"], of["junk"]),
            ("hard", of["hard"], of["easy"] + of["junk"]),
        ):
            if relevant:
                expected[setup].append(by_loops(order, relevant, junk))
    values = revisited_columns(scores, truth)
    assert len(values) == 4 * sum(map(bool, expected.values()))
    for setup, rows in expected.items():
        if rows:
            names = [f"map_{setup}_percent", *(f"mp_at_{k}_{setup}_percent" for k in (1, 5, 10))]
            found = [values[name].mean() for name in names]
            np.testing.assert_allclose(found, 100 * np.mean(rows, axis=0))


def test_landmarks_are_found_beside_the_floors(outcome, town, tmp_path):
    code, stdout, stderr = outcome("--data", town, "--size", 64, "-o", tmp_path / "out")
    assert code == 0, stderr
    shown = figures(stdout)
    assert list(shown["map_medium_percent"]) == ["model", "untrained", "raw pixels"]
    assert shown["map_hard_percent"]["raw pixels"] == 100
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["headline"] == "map_medium_percent"
    assert result["data"]["queries"] == 3 and result["data"]["images"] == 9
    with Image.open(tmp_path / "out" / "nearest.png") as picture:
        assert picture.width > 5 * 200
    scaled = figures(outcome("--data", town, "--size", 64, "--multiscale")[1])
    assert scaled.keys() == shown.keys()


def test_unreadable_photos_of_database_and_queries_are_left_out(outcome, town):
    (town / "jpg" / "place_00.jpg").write_bytes(b"no image")  # a query
    (town / "jpg" / "place_11.jpg").write_bytes(b"no image")  # the easy image of another
    code, stdout, stderr = outcome("--data", town, "--size", 64)
    assert code == 3
    assert "2 images could not be read" in stderr
    assert figures(stdout)["map_hard_percent"]["raw pixels"] == 100


def test_a_query_without_an_image_to_find_is_a_line(outcome, town):
    path = town / "gnd_rtown.json"
    truth = json.loads(path.read_text())
    truth["gnd"][1] |= {"easy": [], "hard": []}
    path.write_text(json.dumps(truth))
    code, _, stderr = outcome("--data", town, "--size", 64, "--no-floors")
    assert code == 0
    assert "left out: 1 queries have no image to find" in stderr


def test_a_box_outside_of_its_photo_is_a_line(outcome, town):
    path = town / "gnd_rtown.json"
    truth = json.loads(path.read_text())
    truth["gnd"][1]["bbx"] = [500, 500, 600, 600]
    path.write_text(json.dumps(truth))
    code, _, stderr = outcome("--data", town, "--size", 64)
    assert code == 0
    assert "left out: 1 queries whose bbx lies outside (place_10.jpg)" in stderr


def test_a_box_is_rounded_and_ends_at_the_photo():
    picture = np.arange(20 * 30 * 3, dtype=np.int64).astype(np.uint8).reshape(20, 30, 3)
    assert np.array_equal(cut_out(picture, (1.6, -3.0, 99.0, 9.4)), picture[:9, 2:])
    assert cut_out(picture, (40, 0, 50, 9)).size == 0


@pytest.mark.parametrize("args", [["--queries", "x"], ["--crop", "center"]])
def test_flags_of_classes_are_refused_for_landmarks(outcome, town, args):
    code, _, stderr = outcome("--data", town, *args)
    assert code == 2 and "gnd_rtown.json names the queries" in stderr
