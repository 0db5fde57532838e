from .attention import (
    AttentionMaps as AttentionMaps,
    Box as Box,
    PatchPCA as PatchPCA,
    attention_by_layer as attention_by_layer,
    attention_maps as attention_maps,
    mask_boxes as mask_boxes,
    mass_mask as mass_mask,
    patch_pca as patch_pca,
    patch_similarity as patch_similarity,
    patch_tokens as patch_tokens,
    rollout_maps as rollout_maps,
)
from .drawing import (
    attention_picture as attention_picture,
    head_colors as head_colors,
    heat_overlay as heat_overlay,
    mask_overlay as mask_overlay,
    pca_colors as pca_colors,
    similarity_overlay as similarity_overlay,
)
from .embedding import (
    Attention as Attention,
    Embedder as Embedder,
    Embedding as Embedding,
)
from .errors import (
    CheckpointError as CheckpointError,
    DataError as DataError,
    DinoError as DinoError,
    ImageError as ImageError,
    MissingExtraError as MissingExtraError,
    OutputInUseError as OutputInUseError,
    RunError as RunError,
    TrainingError as TrainingError,
)
from .features import (
    Features as Features,
    Output as Output,
    Share as Share,
    embed_to_file as embed_to_file,
    embed_to_folder as embed_to_folder,
    merge_shares as merge_shares,
    read_features as read_features,
    write_features as write_features,
)
from .heads import LinearHead as LinearHead
from .images import (
    ImageFailure as ImageFailure,
    Preprocess as Preprocess,
    load_image as load_image,
    read_image as read_image,
)
from .knn import (
    KNNClassifier as KNNClassifier,
    accuracies as accuracies,
    nearest as nearest,
    nearest_others as nearest_others,
)
from .networks import Backbone as Backbone, build_backbone as build_backbone
from .objects import find_objects as find_objects
from .sources import ImageList as ImageList, list_images as list_images
from .weights import (
    CheckpointInfo as CheckpointInfo,
    load_backbone as load_backbone,
    read_training_weights as read_training_weights,
    save_checkpoint as save_checkpoint,
)

__version__: str
