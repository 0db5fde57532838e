"""The commands dino-embed, dino-attention and dino-eval: thin, one file each."""
