"""The student, and the teacher that follows it as a moving average."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dino_infer.networks.backbone import Backbone
from dino_train.head import ProjectionHead

PLAIN_ATTENTION_PATCHES = 400
"""Limit beyond which attention matrices kept for the backward pass would fill the memory."""


class Outputs(NamedTuple):
    """Outputs of a network for every crop of a batch, in the order of the crops."""

    bottlenecks: Float[Tensor, "all_crops batch bottleneck"]
    """Unit vectors of the head; they go into its last layer where it has one."""
    features: Float[Tensor, "all_crops batch embed"]
    """Features of the backbone."""

    def first(self, crops: int) -> "Outputs":
        """Outputs of the first crops alone."""
        return Outputs(self.bottlenecks[:crops], self.features[:crops])


class MultiCropNetwork(nn.Module):
    """A backbone and a head that see crops of several sizes: one backbone pass for each size."""

    def __init__(self, backbone: Backbone, head: ProjectionHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        if not backbone.has_attention:
            backbone.to(memory_format=torch.channels_last)

    def forward(self, *crops: Float[Tensor, "_crops batch 3 _height _width"]) -> Outputs:
        """Bottlenecks and features of every crop, in the order given.

        The head's last layer is left to the loss, see ``sliced_loss``.

        Args:
            crops: One tensor for each crop size: all crops of that size.
        """
        features = torch.cat([self._features(group.flatten(0, 1)) for group in crops])
        batch = crops[0].shape[1]
        bottlenecks = self.head.bottleneck(features)
        return Outputs(*(rows.unflatten(0, (-1, batch)) for rows in (bottlenecks, features)))  # type: ignore[no-untyped-call]

    def _features(self, images: Tensor) -> Tensor:
        if not self.backbone.has_attention:  # convolutions are faster with channels last
            images = images.contiguous(memory_format=torch.channels_last)
        return self.backbone(images).float()  # type: ignore[no-any-return]


def use_plain_attention(backbone: Backbone) -> None:
    """Compute attention as two products and a softmax, where its matrix is small.

    On a CPU PyTorch's fused kernel takes 1.5 to 6 times as long in bfloat16, forward and backward.
    """
    patches = getattr(getattr(backbone.network, "patch_embed", None), "num_patches", None)
    if patches is None or patches > PLAIN_ATTENTION_PATCHES:
        return
    module: Any
    for module in backbone.network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False


def teacher_of(student: MultiCropNetwork, teacher: MultiCropNetwork) -> MultiCropNetwork:
    """Make a freshly built network of the same shape the frozen copy of the student.

    The two are built apart because the student alone has stochastic depth.
    """
    teacher.load_state_dict(student.state_dict())
    return teacher.requires_grad_(False)


@torch.no_grad()
def update_teacher(
    teacher: MultiCropNetwork,
    student: MultiCropNetwork,
    *,
    momentum: float,
    applies: Bool[Tensor, ""] | None = None,
    sees_images: bool = True,
) -> None:
    """Exponential moving average of the parameters: ``momentum`` of the old, the rest new.

    Buffers (batch-norm statistics) stay the teacher's own, as in the original; a teacher that
    sees no images has none of its own and takes the student's. Where ``applies``, a flag on the
    device, is false, nothing changes.

    Source: https://arxiv.org/abs/2104.14294, section 3.1.
    """
    averages: list[Tensor] = list(teacher.parameters())
    weight = torch.full((), 1 - momentum, device=averages[0].device)
    if applies is not None:
        weight = weight * applies
    weights: list[Any] = [weight] * len(averages)  # tensors, which the stubs do not know of
    torch._foreach_lerp_(averages, list(student.parameters()), weights)
    if not sees_images:  # of a skipped step the student has those from before
        for own, its in zip(teacher.buffers(), student.buffers(), strict=True):
            own.copy_(its)
