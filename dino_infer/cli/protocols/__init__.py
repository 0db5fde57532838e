"""The verbs of dino-eval, one file each, and what they share."""
