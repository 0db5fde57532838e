from .pictures import Picture as Picture
from .preprocess import Preprocess as Preprocess
from .read import ImageFailure as ImageFailure, load_image as load_image, read_image as read_image
