"""The exported module: its outputs, and the head from a checkpoint's tensors."""

import pytest
import torch

from dino_export.graph import ExportedHead, ExportedNetwork, check_outputs
from dino_train.head import DINOHead
from tests.export.networks import ROTARY, SIZE, small_network


def test_the_head_of_a_snapshot_gives_its_logits():
    for use_bn, norm_last_layer in ((False, True), (True, False)):
        torch.manual_seed(0)
        head = DINOHead(
            16, 40, hidden_dim=24, bottleneck_dim=8, use_bn=use_bn, norm_last_layer=norm_last_layer
        ).eval()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(torch.rand_like(parameter) * 0.1)
        features = torch.randn(5, 16)
        with torch.inference_mode():
            found = ExportedHead(head.state_dict()).eval()(features)
            torch.testing.assert_close(found, head(features), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (("cls", "maps"), "`outputs` must be among cls, .*got 'maps'"),
        (("patches",), "`outputs` must hold 'cls'"),
        (("cls", "patches", "cls"), "`outputs` must name each output once"),
        (("cls", "logits"), "no output 'logits', because the weights hold no head"),
    ],
)
def test_outputs_that_cannot_be_are_refused(outputs, message):
    backbone, _ = small_network()
    with pytest.raises(ValueError, match=message):
        check_outputs(outputs, backbone, has_head=False)


@pytest.mark.parametrize("fixed", [True, False])
def test_the_module_gives_what_the_backbone_does_in_the_order_asked_for(fixed):
    backbone, _ = small_network(ROTARY)
    network = ExportedNetwork(
        backbone,
        outputs=("attention", "cls", "patches"),
        fixed_size=(SIZE, 2 * SIZE) if fixed else None,
    ).eval()
    images = torch.randn(2, 3, SIZE, 2 * SIZE)
    with torch.inference_mode():
        attention, cls, patches = network(images)
        tokens = backbone.tokens(images)
    torch.testing.assert_close(attention, backbone.cls_attention(images), rtol=0, atol=1e-5)
    torch.testing.assert_close(cls, tokens.cls, rtol=0, atol=1e-5)
    torch.testing.assert_close(patches, tokens.patches, rtol=0, atol=1e-5)
