from .find import (
    ObjectMasks as ObjectMasks,
    find_objects as find_objects,
    objects_in as objects_in,
    patch_keys as patch_keys,
)
from .found import FoundObject as FoundObject
from .lost import lost as lost
from .maskcut import mask_cut as mask_cut
from .tokencut import token_cut as token_cut
