from .backbone import Backbone as Backbone, Tokens as Tokens
from .build import ViTShape as ViTShape, build_backbone as build_backbone
