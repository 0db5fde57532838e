import io

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from skimage import data

from dino_app.demo.examples import PHOTOS, example_photos
from dino_app.demo.uploads import checked_picture, picture_input, plain_errors
from dino_infer.errors import CheckpointError, DinoError
from tests.app.demo.tiny import noise, photo_file

ORIENTATION = 0x0112  # the EXIF entry


def said(path):
    """The message about an upload."""
    with pytest.raises(gr.Error) as caught:
        checked_picture(path)
    assert not caught.value.print_exception  # a bad upload is no news for the log
    return caught.value.message


def test_a_picture_is_upright_rgb_at_full_size(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    photo = data.chelsea()[:, :200]
    path = photo_file(tmp_path / "turned.png", photo, exif=exif)
    assert np.array_equal(checked_picture(path), np.rot90(photo, -1))


def test_bad_uploads_are_explained_in_plain_words(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(noise(64, 64)).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "text.png").write_bytes(b"Dear diary")
    (tmp_path / "drawing.svg").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "empty.png").write_bytes(b"")
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, format="PNG")
    (tmp_path / "bomb.png").write_bytes(bomb.getvalue())
    assert said(None) == "Choose a picture first."
    assert said(str(tmp_path / "cut.jpg")).startswith("This file is damaged. cut.jpg: ")
    for name in ("text.png", "drawing.svg"):
        assert said(str(tmp_path / name)).startswith("This kind of file cannot be used here. ")
    assert said(str(tmp_path / "empty.png")) == "The file is empty."
    assert said(str(tmp_path / "bomb.png")).startswith("This is too large for the demo. ")
    gone = "The upload is no longer there. Please upload it again."
    assert said(str(tmp_path / "gone.png")) == gone


def test_errors_of_the_toolkit_become_messages_and_others_stay_errors():
    with pytest.raises(gr.Error, match="no such weights"), plain_errors():
        raise CheckpointError("no such weights")
    with pytest.raises(ZeroDivisionError), plain_errors():
        _ = 1 / 0


def test_a_field_hands_on_the_path_unopened(tmp_path):
    path = tmp_path / "not_a_picture.png"
    path.write_bytes(b"nothing")
    field = picture_input()
    payload = field.data_model(path=str(path))
    assert field.preprocess(payload) == str(path)
    assert field.preprocess(None) is None
    with pytest.raises(gr.Error):
        field.preprocess(field.data_model(url="data:image/png;base64,AAAA"))


def test_the_examples_are_real_photographs():
    paths = example_photos()
    assert len(paths) == len(PHOTOS)
    assert all(min(checked_picture(path).shape[:2]) >= 300 for path in paths)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("'/srv/data/my.index' is damaged", "'my.index' is damaged"),
        (
            "no /home/me/run/a.pt; see https://arxiv.org/abs/1 (1/2)",
            "no a.pt; see https://arxiv.org/abs/1 (1/2)",
        ),
        ("at least 1/3 of a/b", "at least 1/3 of a/b"),
    ],
)
def test_messages_name_no_folder_of_this_machine(message, shown):
    with pytest.raises(gr.Error) as error, plain_errors():
        raise DinoError(message)
    assert error.value.message == shown
