"""Ground truth of copies in its forms, and what does not fit."""

import pytest
from PIL import Image

from dino_infer.errors import DataError
from dino_infer.evaluate.data.copies import read_copies


@pytest.fixture
def folder(tmp_path):
    """A function that makes a folder of different images."""

    def make(*names, root="set"):
        for i, name in enumerate(names):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (i, len(root), 7)).save(path)
        return tmp_path / root

    return make


IMAGES = ("original/a.png", "original/b.png", "query/a_1.png", "query/a_2.png", "query/b_1.png")


def names(copies):
    """Each query with its originals and transform."""
    reference = [copies.references.name(i) for i in range(len(copies.references))]
    return {
        copies.queries.name(i): ([reference[j] for j in own], transform)
        for i, (own, transform) in enumerate(zip(copies.originals, copies.transforms, strict=True))
    }


def test_a_table_of_pairs_names_copies_below_its_folder(folder):
    root = folder(*IMAGES)
    (root / "copies.csv").write_text(
        "query,original,transform\nquery/a_1.png,original/a.png,crop\na_2.png,a.png,blur\n"
        "query/b_1.png,original/b.png,crop\n"
    )
    expected = {
        "query/a_1.png": (["original/a.png"], "crop"),
        "query/a_2.png": (["original/a.png"], "blur"),
        "query/b_1.png": (["original/b.png"], "crop"),
    }
    assert names(read_copies(root)) == expected == names(read_copies(root / "copies.csv"))
    assert read_copies(root).excluded == []


def test_a_table_beside_the_folder_has_its_name_and_may_list_an_image_a_line(folder, tmp_path):
    root = folder(*IMAGES)
    lines = ["file,original_id,role,transform,source_file"]
    lines += ["set/original/a.png,7,original,none,x", "set/original/b.png,8,original,none,x"]
    lines += ["set/query/a_1.png,7,query,crop,x", "set/query/b_1.png,8,query,blur,x"]
    (tmp_path / "set.csv").write_text("\n".join(lines))
    copies = read_copies(root)
    assert names(copies) == {
        "query/a_1.png": (["original/a.png"], "crop"),
        "query/b_1.png": (["original/b.png"], "blur"),
    }
    (line,) = copies.excluded
    assert line.startswith("1 images below") and line.endswith("in no line (set/query/a_2.png)")


def test_folders_of_transforms_name_originals_as_copydays_does(folder):
    root = folder(
        *("original/200000.png", "original/200100.png", "crops/20/200000.png"),
        *("strong/200002.png", "strong/200101.png", "strong/209901.png"),
    )
    copies = read_copies(root)
    assert names(copies) == {
        "crops/20/200000.png": (["original/200000.png"], "crops/20"),
        "strong/200002.png": (["original/200000.png"], "strong"),
        "strong/200101.png": (["original/200100.png"], "strong"),
    }
    assert copies.excluded == ["1 images have no original of their name (strong/209901.png)"]


def test_all_of_the_folder_of_originals_is_the_database(folder):
    root = folder(*IMAGES)
    (root / "copies.csv").write_text("query,original\nquery/a_1.png,original/a.png\n")
    assert len(read_copies(root).references) == 2


def test_a_query_without_an_original_is_a_distractor_and_a_line(folder):
    root = folder(*IMAGES)
    (root / "copies.csv").write_text("query,original\na_1.png,a.png\na_2.png,\nb_1.png,b.png\n")
    copies = read_copies(root)
    assert names(copies)["query/a_2.png"] == ([], "")
    assert copies.excluded == [
        "1 queries have no original and count in μAP and recall at P90 alone (query/a_2.png)"
    ]


def test_originals_without_an_id_are_those_of_no_query(folder):
    root = folder(*IMAGES)
    rows = ("a.png,,original", "b.png,1,original", "a_1.png,,query", "b_1.png,1,query")
    (root / "copies.csv").write_text("\n".join(["file,original_id,role", *rows]))
    found = names(read_copies(root))
    assert found["query/a_1.png"] == ([], "")
    assert found["query/b_1.png"] == (["original/b.png"], "")


def test_an_original_that_is_there_twice_counts_once(folder):
    root = folder(*IMAGES)
    (root / "original" / "twin.png").write_bytes((root / "original" / "a.png").read_bytes())
    (root / "copies.csv").write_text("query,original\na_1.png,twin.png\nb_1.png,b.png\n")
    copies = read_copies(root)
    assert names(copies)["query/a_1.png"] == (["original/a.png"], "")
    assert "1 originals repeat another one byte for byte (original/twin.png)" in copies.excluded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,original\nx.png,a.png\na_1.png,y.png\n", r"names 2 images that are not .*x.*y"),
        ("query,original\na_1.png,a.png\na_1.png,a.png\n", r"1 pairs or images a second .*a_1"),
        ("query,original,transform\na_1.png,a.png,x\na_1.png,b.png,y\n", "a second time"),
        ("query,original\na.png,b.png\n", "names 1 images that are not there"),
        ("query,original\noriginal/a.png,b.png\n", "1 images .* are a query and an original too"),
        ("path,label\na,b\n", "must have the header query,original.* got 'path,label'"),
        ("query,original\na_1.png,\n", "has no query with an original"),
        ("", "must have the header .* got ''"),
        ("file,original_id,role\na_1.png,1,query\na.png,2,original\n", "1 queries have an .*a_1"),
        ("file,original_id,role\na_1.png,1,copy\n", "must be original or query, got 'copy'"),
        ("file,original_id,role\na.png,1,original\na.png,1,original\na_1.png,1,query\n", "second"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(folder, text, message):
    root = folder(*IMAGES)
    (root / "copies.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_copies(root)


def test_a_folder_without_copies_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"no query with an original; expected a file copies.csv"):
        read_copies(folder("original/a.png", "query/a_1.png"))
    with pytest.raises(DataError, match="'.*none' does not exist; give a folder of copies"):
        read_copies(tmp_path / "none")
