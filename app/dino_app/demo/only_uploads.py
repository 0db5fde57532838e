"""Nothing but uploads is readable: what Gradio leaves open when it is mounted is closed here."""

import functools
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.base import Component

from dino_app.demo.uploads import said


def close_to_all_but_uploads(blocks: gr.Blocks) -> None:
    """Refuse paths and addresses that clients send in the place of an upload.

    Gradio compares paths with its upload folder only after ``launch``, which a mounted app never
    sees: any picture of the server could be had. It also downloads addresses.
    """
    blocks.has_launched = True
    for block in blocks.blocks.values():
        if isinstance(block, Component):
            take = block.async_move_resource_to_block_cache
            block.async_move_resource_to_block_cache = (  # type: ignore[method-assign]
                functools.partial(_local_only, take)
            )


async def _local_only(take: Any, place: str | Path | None) -> Any:
    if str(place).lower().startswith(("http:", "https:")):
        raise said("Addresses are not fetched here. Please upload the file.")
    return await take(place)
