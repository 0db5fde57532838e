"""The tab where people see the objects that patches fall into by themselves."""

from pathlib import Path
from typing import Any

import gradio as gr

from dino_app.demo.availability import vit_only
from dino_app.demo.detail import detail_choice, detailed_look
from dino_app.demo.examples import picture_examples
from dino_app.demo.models import Look, Models
from dino_app.demo.style import to_result
from dino_app.demo.tabs.mask_pictures import (
    PhotoMasks,
    masked_picture,
    smooth_mask,
    upload_mask,
    view_of_picture,
    write_masks,
)
from dino_app.demo.tabs.saving import connect_save, save_button
from dino_app.demo.uploads import checked_picture, picture_input, plain_errors, said
from dino_infer.choices import ObjectMethod
from dino_infer.drawing.overlays import box_overlay

METHODS: dict[str, ObjectMethod] = {
    "TokenCut": "tokencut", "MaskCut": "maskcut", "LOST": "lost",
}  # fmt: skip
MOST_OBJECTS = 6
ABOUT = (
    "Patches that are alike fall into groups by themselves, without a label or a click. TokenCut "
    "and LOST cut out one object, MaskCut several."
)
FIRST_STEP = "Choose a picture to begin."
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def objects_tab(models: Models, picker: gr.Dropdown) -> gr.Image:
    """Build the tab and return its upload field."""
    with vit_only(models, picker, "patches to cut out"):
        gr.Markdown(ABOUT, elem_classes="hint")
        with gr.Row(elem_classes="tab"):
            with gr.Column(elem_classes="ask"):
                picture = picture_input("Your picture", height=280, elem_id="objects-picture")
                picture_examples(picture)
            with gr.Column(elem_classes="result", elem_id="objects-result"):
                shown = gr.Image(
                    label="Objects", format="jpeg", interactive=False, buttons=["fullscreen"],
                    elem_id="objects-shown",
                )  # fmt: skip
                told = gr.Markdown(FIRST_STEP, elem_classes="hint", elem_id="objects-told")
                save, made = save_button("Save masks (PNG, COCO JSON)", elem_id="objects-save")
            with gr.Column(elem_classes="settings"):
                controls = _controls()
                detail = detail_choice()
    look = gr.State(None)

    @plain_errors()
    def objects(
        picture: str | None, network: str, detail: str = "normal", method: str = "TokenCut",
        most: float = 3, opacity: float = 50, boxes: bool = True,
    ) -> tuple[Any, ...]:  # fmt: skip
        """The objects in a picture, tinted and boxed, and a sentence about them."""
        model = models.model(network)
        if picture is None or not model.has_attention:
            return None, *_drawn(None, method, most, opacity, boxes)
        seen = detailed_look(model, checked_picture(picture), detail)
        return seen, *_drawn(seen, method, most, opacity, boxes)

    drawn = [shown, told]
    asked = picture.change(
        objects, [picture, picker, detail, *controls], [look, *drawn],
        api_name="objects", concurrency_id="look", show_progress_on=shown,
    )  # fmt: skip
    asked.success(None, js=to_result("objects-result"), **QUIET)
    gr.on(
        [picker.change, detail.change], objects, [picture, picker, detail, *controls],
        [look, *drawn], api_visibility="private", concurrency_id="look", show_progress_on=shown,
    )  # fmt: skip
    gr.on(
        [control.input for control in controls], plain_errors()(_drawn), [look, *controls], drawn,
        trigger_mode="always_last", **QUIET,
    )  # fmt: skip
    connect_save(save, made, _masks_file, [look, *controls])
    return picture


def _controls() -> list[Any]:
    """Settings that run no network, in the order that ``_drawn`` takes."""
    method = gr.Radio(list(METHODS), value="TokenCut", label="Method", elem_id="objects-method")
    most = gr.Slider(
        1, MOST_OBJECTS, 3, step=1, label="Objects at most", info="For MaskCut.",
        elem_id="objects-most",
    )  # fmt: skip
    opacity = gr.Slider(0, 100, 50, step=5, label="Opacity (%)", elem_id="objects-opacity")
    boxes = gr.Checkbox(True, label="Boxes", elem_id="objects-boxes")
    return [method, most, opacity, boxes]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.005 else "less than 1%"


def _drawn(
    look: Look | None, method: str, most: float, opacity: float, boxes: bool
) -> tuple[Any, str]:
    """Outputs for the page: the picture with its objects, and a sentence."""
    if look is None:
        return None, FIRST_STEP
    found = look.objects(_method(method), most=_bounded(most))
    masks = [smooth_mask(one.mask, *look.shown.shape[:2]) for one in found]
    drawn = masked_picture(look.shown, masks, opacity=opacity / 100)
    if boxes:
        view = view_of_picture(look.shown, (look.view.rows, look.view.columns))
        drawn = box_overlay(drawn, [one.box(view) for one in found])
    if not found:
        return drawn, f"{method} finds no object: all parts are alike to this network."
    shares = " and ".join(_percent(float(one.mask.mean())) for one in found)
    number = "one object" if len(found) == 1 else f"{len(found)} objects"
    return drawn, f"{method} finds {number}, on {shares} of the picture."


def _masks_file(folder: Path, look: Look | None, method: str, most: float, *_: Any) -> str | None:
    """The masks in pixels of the upload as a file to keep."""
    found = () if look is None else look.objects(_method(method), most=_bounded(most))
    if look is None or not found:
        raise said("There are no masks yet. Choose a picture first.")
    masks = [upload_mask(look, one.mask) for one in found]
    return write_masks([PhotoMasks("picture", masks)], folder)


def _method(name: str) -> ObjectMethod:
    if name not in METHODS:
        raise ValueError(f"method must be one of {list(METHODS)}, got {name!r}")
    return METHODS[name]


def _bounded(most: float) -> int:
    """Clamp the number of objects that a client of the API asks for."""
    return max(1, min(MOST_OBJECTS, round(most)))
