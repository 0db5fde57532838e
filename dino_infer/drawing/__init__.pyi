from .overlays import (
    head_colors as head_colors,
    heat_overlay as heat_overlay,
    mask_overlay as mask_overlay,
    pca_colors as pca_colors,
    similarity_overlay as similarity_overlay,
)
from .sheets import attention_picture as attention_picture
