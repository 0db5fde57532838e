from .boxes import Box as Box, mask_boxes as mask_boxes
from .maps import (
    AttentionMaps as AttentionMaps,
    attention_by_layer as attention_by_layer,
    attention_maps as attention_maps,
    mass_mask as mass_mask,
    rollout_maps as rollout_maps,
)
from .patches import (
    PatchPCA as PatchPCA,
    patch_pca as patch_pca,
    patch_similarity as patch_similarity,
    patch_tokens as patch_tokens,
)
from .views import View as View, view_of as view_of
