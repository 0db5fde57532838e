"""The Gradio demo: see what DINO sees, in a browser."""
