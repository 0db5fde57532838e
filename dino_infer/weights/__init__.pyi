from .checkpoints import (
    load_backbone as load_backbone,
    read_training_weights as read_training_weights,
    save_checkpoint as save_checkpoint,
)
from .info import CheckpointInfo as CheckpointInfo
