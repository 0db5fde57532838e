"""What the page says about networks; how it is used is tested in tests/browser."""

from dino_app.demo.app import described
from dino_app.demo.models import Models
from tests.app.demo.tiny import weights_file


def test_a_line_tells_newcomers_what_the_network_is(tmp_path):
    models = Models([weights_file(tmp_path), weights_file(tmp_path, "resnet_micro")], "cpu")
    vit, convnet = (described(models.model(name)) for name in models.names)
    assert vit == (
        "**vit_micro**, a Vision Transformer with 1.2 million weights, 4 attention heads and "
        "patches of 8 px."
    )
    assert convnet.startswith("**resnet_micro**, a convolutional network with 1.2 million")
