"""The projection heads: MLP, bottleneck, L2 normalisation; DINO's has a last layer as well."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose rows are ``weight_g * weight_v / |weight_v|``.

    The parameters carry the names that published DINO checkpoints use.
    """

    def __init__(self, in_features: int, out_features: int, *, train_norm: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_features, 1), requires_grad=train_norm)
        self.weight_v = nn.Parameter(torch.empty(out_features, in_features))
        bound = in_features**-0.5  # what nn.Linear draws its weights from
        nn.init.uniform_(self.weight_v, -bound, bound)

    def forward(
        self, x: Float[Tensor, "*batch in_features"]
    ) -> Float[Tensor, "*batch out_features"]:
        """Logits; cosines between rows and unit-length inputs while ``weight_g`` is 1."""
        return F.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


class ProjectionHead(nn.Module):
    """Features to unit vectors.

    Args:
        in_dim: Length of the backbone's features.
        hidden_dim: Width of the MLP.
        bottleneck_dim: Width that is L2-normalised.
        use_bn: Batch norm after the two hidden layers.

    Source: https://arxiv.org/abs/2104.14294, section 3.2 and appendix C.
    """

    def __init__(
        self,
        in_dim: int,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        use_bn: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in in (in_dim, hidden_dim):
            layers.append(nn.Linear(width_in, hidden_dim))
            if use_bn:
                layers.append(nn.BatchNorm1d(hidden_dim))
            layers.append(nn.GELU())
        layers.append(nn.Linear(hidden_dim, bottleneck_dim))
        self.mlp = nn.Sequential(*layers)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def bottleneck(
        self, features: Float[Tensor, "batch in_dim"]
    ) -> Float[Tensor, "batch bottleneck_dim"]:
        """Unit vectors, which DINO's last layer takes."""
        return F.normalize(self.mlp(features).float(), dim=-1)  # fp16 norms underflow


class DINOHead(ProjectionHead):
    """Features to logits over ``out_dim`` learned prototypes.

    Args:
        in_dim: Length of the backbone's features.
        out_dim: Number of prototypes, K in the paper.
        hidden_dim: Width of the MLP.
        bottleneck_dim: Width that is L2-normalised before the last layer.
        use_bn: Batch norm after the two hidden layers.
        norm_last_layer: Keep the norms of the last layer's rows at 1 for the whole run.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        use_bn: bool = False,
        norm_last_layer: bool = True,
    ) -> None:
        super().__init__(
            in_dim, hidden_dim=hidden_dim, bottleneck_dim=bottleneck_dim, use_bn=use_bn
        )
        self.last_layer = WeightNormLinear(bottleneck_dim, out_dim, train_norm=not norm_last_layer)

    def forward(self, features: Float[Tensor, "batch in_dim"]) -> Float[Tensor, "batch out_dim"]:
        """Logits, before centring and temperature."""
        return self.last_layer(self.bottleneck(features))  # type: ignore[no-any-return]
