from .convert import convert_weights as convert_weights
from .errors import ExportError as ExportError
from .exports import export as export
from .parity import Deviation as Deviation, Parity as Parity, sample_photos as sample_photos
from .runtimes import ExportedFile as ExportedFile, open_export as open_export
from .settings import ExportSettings as ExportSettings

__version__: str
