from .backbone import Backbone as Backbone
from .build import build_backbone as build_backbone
