from .coco import coco_annotations as coco_annotations
from .find import (
    ObjectMasks as ObjectMasks,
    find_objects as find_objects,
    objects_in as objects_in,
    patch_keys as patch_keys,
)
from .found import FoundObject as FoundObject
from .lost import lost as lost
from .maskcut import mask_cut as mask_cut
from .painting import (
    PatchModel as PatchModel,
    fit_patch_model as fit_patch_model,
)
from .propagation import (
    patch_labels as patch_labels,
    pixel_labels as pixel_labels,
    propagate_labels as propagate_labels,
)
from .tokencut import token_cut as token_cut
