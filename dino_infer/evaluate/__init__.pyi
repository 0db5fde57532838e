from .contestants import (
    load_networks as load_networks,
    with_pixels as with_pixels,
    with_twin as with_twin,
)
from .copy_detection import measure_copy_detection as measure_copy_detection
from .data.copies import read_copies as read_copies
from .data.frames import video_sequences as video_sequences
from .data.labelled import labelled_images as labelled_images
from .data.mask_sets import mask_sets as mask_sets
from .data.masks import masked_images as masked_images
from .dense_knn import DenseOptions as DenseOptions, measure_dense_knn as measure_dense_knn
from .few_shot import measure_few_shot as measure_few_shot
from .health import measure_health as measure_health
from .knn import (
    measure_knn as measure_knn,
    sides_of as sides_of,
    sides_of_arrays as sides_of_arrays,
)
from .linear import measure_linear as measure_linear
from .logistic import measure_logistic as measure_logistic
from .objects import measure_objects as measure_objects
from .random_crops import measure_random_crops as measure_random_crops
from .reports.report import write_report as write_report
from .reports.result import (
    Figures as Figures,
    Result as Result,
    Table as Table,
    text_table as text_table,
)
from .reports.scorecard import Scorecard as Scorecard, write_scorecard as write_scorecard
from .retrieval.classes import measure_retrieval as measure_retrieval
from .retrieval.revisited import measure_revisited as measure_revisited
from .segmentation import measure_segmentation as measure_segmentation
from .suite.plans import read_plan as read_plan
from .suite.running import run_suite as run_suite
from .video import measure_video as measure_video
