from .image_list import ImageList as ImageList, list_images as list_images
