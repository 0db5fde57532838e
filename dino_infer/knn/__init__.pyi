from .classifier import (
    KNNClassifier as KNNClassifier,
    accuracies as accuracies,
    nearest as nearest,
    nearest_others as nearest_others,
)
from .neighbors import Neighbors as Neighbors
