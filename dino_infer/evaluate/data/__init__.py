"""Ground truth of protocols: labels, masks, frames, and the images they belong to."""
