from .files import Features as Features, read_features as read_features
from .job import (
    embed_to_file as embed_to_file,
    embed_to_folder as embed_to_folder,
    write_features as write_features,
)
from .output import Output as Output
from .shards import Share as Share, merge_shares as merge_shares
