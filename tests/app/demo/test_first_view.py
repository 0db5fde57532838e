import pytest

from dino_app.demo import first_view as module
from dino_app.demo.first_view import SUBJECTS, _box, first_view
from dino_app.demo.models import Models
from tests.app.demo.tiny import weights_file


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return Models([weights_file(folder), weights_file(folder, "resnet_micro")], "cpu")


@pytest.mark.parametrize("best", ["attention", "objects", "patches"])
def test_the_page_opens_with_what_finds_the_subjects_best(models, monkeypatch, best):
    def subject(look):
        height, width = look.size
        names = {(400, 600): "coffee", (512, 512): "astronaut"}
        return _box(
            SUBJECTS[names.get((height, width), "flower")], (look.view.rows, look.view.columns)
        )

    def nothing(look):
        return subject(look) & False

    monkeypatch.setattr(module, "_attended", subject if best == "attention" else nothing)
    monkeypatch.setattr(module, "_object", subject if best == "objects" else nothing)
    view = first_view(models.model(models.names[0]))
    assert view.tab == best and view.photo is not None


def test_without_attention_the_page_opens_with_the_search(models):
    assert first_view(models.model(models.names[1])) == ("search", None)
