"""Images that are byte for byte another one."""

import pytest
from PIL import Image

from dino_infer.evaluate.data.repeats import repeats, warn_of_shared
from dino_infer.sources.image_list import list_images


@pytest.fixture
def folder(tmp_path):
    """A function that writes images of one colour each."""

    def write(name, **levels):
        (tmp_path / name).mkdir()
        for file, level in levels.items():
            Image.new("RGB", (4, 4), (level, 0, 0)).save(tmp_path / name / f"{file}.png")
        return list_images([tmp_path / name])

    return write


def test_later_images_of_a_list_repeat_the_first_of_their_content(folder):
    assert repeats(folder("a", a=1, b=2, c=1, d=1)) == {2: 0, 3: 0}
    assert repeats(folder("b", a=1, b=2)) == {}


def test_images_of_one_list_repeat_those_of_another(folder):
    assert repeats(folder("a", x=9, y=1, z=1), of=folder("b", a=1, b=2)) == {1: 0, 2: 0}


def test_images_that_are_gone_repeat_none(folder, tmp_path):
    images = folder("a", a=1, b=1)
    (tmp_path / "a" / "b.png").unlink()
    assert repeats(images) == {}
    assert repeats(images, of=images) == {0: 0}


def test_files_of_two_lists_are_told_by_any_name(folder, tmp_path, caplog):
    known = folder("a", a=1, b=1)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "c.png").symlink_to(tmp_path / "a" / "b.png")
    warn_of_shared(known, folder("b", a=1))
    assert caplog.text == ""
    warn_of_shared(known, list_images([tmp_path / "links"]))
    assert "1 of the 1 images to judge are among those to judge by" in caplog.text
    assert "(c.png)" in caplog.text
