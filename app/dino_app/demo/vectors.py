"""Photos to vectors that fit an index or a features file, with the network that is chosen."""

import threading
from collections.abc import Mapping
from typing import Any

import gradio as gr
import numpy as np
from jaxtyping import Float32, UInt8

from dino_app.demo.models import Models
from dino_app.demo.uploads import MESSAGE_S
from dino_app.errors import ModelMismatchError
from dino_app.store.model_match import check_model
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import DataError, DinoError
from dino_infer.images.preprocess import Preprocess

SWITCH = "Switch to "


def switch_button(picker: gr.Dropdown, *, elem_id: str) -> gr.Button:
    """A button, hidden at first, that chooses the network which can answer; see ``switch_to``."""
    button = gr.Button(visible=False, variant="primary", elem_id=elem_id)
    button.click(lambda text: text.removeprefix(SWITCH), button, picker, api_visibility="private")
    return button


def switch_to(name: str | None) -> gr.Button:
    """The button as it offers a network; hidden without one."""
    return gr.Button(f"{SWITCH}{name}", visible=name is not None)


class OtherNetwork(gr.Error):
    """Vectors that one network made are asked for with another.

    Attributes:
        switch_to: The network of the picker that made them, if one did.
    """

    def __init__(self, what: str, chosen: str, switch_to: str | None) -> None:
        self.switch_to = switch_to
        help_ = f"Choose {switch_to} above." if switch_to else (
            "Start the demo with the weights that made it."
        )  # fmt: skip
        super().__init__(
            f"This {what} was made with another network than {chosen}, or from photos prepared in "
            f"another way, so their numbers cannot be compared. {help_}",
            duration=MESSAGE_S, print_exception=False,
        )  # fmt: skip


class Vectors:
    """Makes vectors, with an embedder for each network and each way of looking at photos.

    Args:
        models: The networks of the picker.
        embedder: Embedder to use instead of them, whatever the picker says.
    """

    def __init__(self, models: Models, embedder: Embedder | None = None) -> None:
        self._models = models
        self._given = embedder
        self._made: dict[tuple[object, ...], Embedder] = {}
        self._matching: set[tuple[int, str]] = set()
        self._lock = threading.RLock()

    def embedder(self, name: str, made: Mapping[str, Any] | None = None) -> Embedder:
        """An embedder that looks at photos as the vectors it will be compared with were made.

        Without a description of those vectors the network's own ways are taken.

        Raises:
            DinoError: The network cannot be loaded, or the description cannot be followed.
        """
        if self._given is not None:
            return self._given
        made = made or {}
        preprocess, feature = made.get("preprocess"), made.get("feature", "cls")
        key = (name, str(preprocess), feature)
        with self._lock:
            if key not in self._made:
                self._made[key] = self._new(name, preprocess, feature)
            return self._made[key]

    def vector(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        *,
        name: str,
        made: Mapping[str, Any],
        what: str = "index",
    ) -> Float32[np.ndarray, " dim"]:
        """The vector of an upright RGB photo, comparable with those of a description.

        Raises:
            OtherNetwork: The network is not the one that made them.
            DinoError: The network cannot be loaded, or the description cannot be followed.
        """
        try:
            embedder = self.embedder(name, made)
        except DataError as error:  # say, a convnet, which has no patches to average
            if (fitting := self._fitting(made)) is None:
                raise
            raise OtherNetwork(what, name, fitting) from error
        with self._lock:
            pair = (id(embedder), str(made))
            if pair not in self._matching:  # the description hashes all weights
                try:
                    check_model(made, embedder.description(), what=what)
                except ModelMismatchError as error:
                    raise OtherNetwork(what, name, self._fitting(made)) from error
                self._matching.add(pair)
            row: np.ndarray = embedder([image])[0]
        return row

    def _fitting(self, made: Mapping[str, Any]) -> str | None:
        """The network of the picker that made what is described, if one did."""
        for name in self._models.names if self._given is None else ():
            try:
                check_model(made, self.embedder(name, made).description())
            except (DinoError, ValueError):
                continue
            return name
        return None

    def _new(self, name: str, preprocess: Any, feature: Any) -> Embedder:
        model = self._models.model(name)
        info = model.info
        own = Preprocess(size=info.view_size, mean=info.mean, std=info.std)
        try:
            return Embedder(
                model.backbone,
                own if preprocess is None else Preprocess.from_metadata(preprocess),
                device=next(model.backbone.parameters()).device,
                precision="fp32",  # shares the weights with the picker's network
                feature="cls" if feature == "pooled" else feature,
            )
        except (TypeError, ValueError) as error:
            raise DataError(f"{name!r} cannot make vectors as these were made: {error}") from error
