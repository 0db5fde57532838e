from . import recipes as recipes
from .config import Machine as Machine, SettingsError as SettingsError, TrainConfig as TrainConfig
from .pretraining import TrainResult as TrainResult, train as train

__version__: str
