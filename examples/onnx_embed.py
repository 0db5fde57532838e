"""Embed images with an exported file; needs only numpy, Pillow and onnxruntime.

Usage: python examples/onnx_embed.py model.onnx photos/*.jpg, which writes rows to model.npy.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, *paths = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=onnxruntime.get_available_providers())
about = json.loads(session.get_modelmeta().custom_metadata_map["dino"])
side = (about["size"] or [about["input_size"] or about["image_size"]])[0]
rows = []
for path in paths:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    scale = round(side * 256 / 224) / min(image.size)  # then the central square, as in training
    width, height = (max(side, int(length * scale + 1e-6)) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    images = np.asarray(image.crop((left, top, left + side, top + side)))[None]
    if about["input"] == "float32_nchw":
        images = (images / 255 - about["mean"]) / about["std"]
        images = images.transpose(0, 3, 1, 2).astype(np.float32)
    rows.append(session.run(["cls"], {"images": images})[0][0])
np.save(Path(model).with_suffix(".npy"), np.stack(rows))
print(f"{len(rows)} rows of {len(rows[0])} in {Path(model).with_suffix('.npy')}")
