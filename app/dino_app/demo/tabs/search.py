"""Search my photos: those of an index, or some that are uploaded, by what they show."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from jaxtyping import Float32
from PIL import Image

from dino_app.demo.albums import Album, IndexAlbum, UploadedAlbum
from dino_app.demo.clicks import EVERY_CLICK
from dino_app.demo.examples import picture_examples
from dino_app.demo.models import Models
from dino_app.demo.photo_sets import photos_input, readable_photos
from dino_app.demo.style import to_result
from dino_app.demo.tiles import caption, plain, tile_gallery
from dino_app.demo.uploads import checked_picture, picture_input, plain_errors, said
from dino_app.demo.vectors import OtherNetwork, Vectors, switch_button, switch_to
from dino_app.store.interface import Store, others
from dino_infer.embedding.embedder import Embedder

INTRO = "Give a photo, and those that show something alike come first."
NO_ALBUM = "Choose the photos to search, then a photo to search with."
NO_QUESTION = "Now choose a photo to search with."
MOST_PHOTOS = 200
K, MOST_K = 12, 60


class Question(NamedTuple):
    """Query of one visitor."""

    vector: Float32[np.ndarray, " dim"]
    name: str
    """Name that the page shows."""
    id: str | None = None
    """Id of the result that is searched with; None for an upload."""


class Session(NamedTuple):
    """State kept for one visitor."""

    album: UploadedAlbum | None = None
    """Photos of the visitor, where there is no index."""
    question: Question | None = None
    ids: tuple[str, ...] = ()
    """Ids of the results that the page shows, in their order."""


class Answer(NamedTuple):
    """Outputs of a search."""

    session: Session
    tiles: list[tuple[Image.Image, str]]
    """Results with their captions."""
    told: str
    switch_to: str | None = None
    """Network that can answer, where the one that is chosen cannot."""


def search_tab(
    models: Models,
    picker: gr.Dropdown,
    *,
    store: Store | None = None,
    embedder: Embedder | None = None,
) -> None:
    """Build the tab inside the one that is open.

    Args:
        models: The networks.
        picker: Choice of one of them.
        store: The index to search; without one, people search photos that they upload.
        embedder: Maker of the vectors, instead of the network that is chosen.
    """
    search = Search(Vectors(models, embedder), None if store is None else IndexAlbum(store))
    gr.Markdown(INTRO, elem_classes="hint")
    with gr.Row(elem_classes="tab"):
        with gr.Column(elem_classes="ask"):
            photos = photos_input(
                f"Photos to search, up to {MOST_PHOTOS}",
                visible=store is None,
                elem_id="search-photos",
            )
            asking = picture_input("Photo to search with", height=240, elem_id="search-photo")
            picture_examples(asking)
        with gr.Column(elem_classes="result", elem_id="search-result"):
            about = gr.Markdown(search.summary, elem_id="search-about")
            told = gr.Markdown(search.first_step(), elem_id="search-told")
            switch = switch_button(picker, elem_id="search-switch")
            gallery = tile_gallery(
                "Choose a result to search again with it",
                elem_id="search-results",
                allow_preview=False,
            )
        with gr.Column(elem_classes="settings"):
            k = gr.Slider(1, MOST_K, K, step=1, label="Results", elem_id="search-k")
            wanted = gr.Dropdown(
                search.choices(), label="Only photos with", multiselect=True,
                visible=bool(search.choices()), elem_id="search-filter",
            )  # fmt: skip
    session = gr.State(Session())
    settings, shown = [k, wanted, session], [session, gallery, told, switch]

    @plain_errors()
    def collect(paths: list[str] | None, name: str, session: Session) -> tuple[Session, str, str]:
        return search.collect(paths, name=name, session=session)

    @plain_errors()
    def search_photo(
        picture: str | None, network: str, results: float = K,
        only: Sequence[str] | None = None, session: Session = Session(),  # noqa: B008
    ) -> tuple[Any, ...]:  # fmt: skip
        """Photos like one that is given, the most similar first, with their similarity."""
        return _shown(
            search.with_upload(picture, name=network, k=int(results), wanted=only, session=session)
        )

    @plain_errors()
    def search_again(
        event: gr.SelectData, k: float, wanted: Sequence[str] | None, session: Session
    ) -> tuple[Any, ...]:
        return _shown(search.with_result(event.index, k=int(k), wanted=wanted, session=session))

    @plain_errors()
    def refined(k: float, wanted: Sequence[str] | None, session: Session) -> tuple[Any, ...]:
        return _shown(search.answer(session, k=int(k), wanted=wanted))

    upload = [asking, picker, *settings]
    # One after the other, so that no late answer forgets what was chosen since.
    busy: dict[str, Any] = {"show_progress_on": gallery, "concurrency_id": "search"}
    asked = asking.change(search_photo, upload, shown, api_name="search", **busy)
    asked.success(None, js=to_result("search-result"), api_visibility="private")
    busy["api_visibility"] = "private"
    gathering: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "search"}
    gathered = photos.change(
        collect, [photos, picker, session], [session, about, told], **gathering
    )
    gathered.success(search_photo, upload, shown, **busy)
    if embedder is None:
        changed = picker.change(
            collect, [photos, picker, session], [session, about, told], **gathering
        )
        changed.success(search_photo, upload, shown, **busy)
    gallery.select(search_again, settings, shown, **busy, **EVERY_CLICK)
    gr.on(
        [k.release, wanted.input],
        refined,
        settings,
        shown,
        show_progress="hidden",
        **gathering,
    )


class Search:
    """Event handlers of the tab, for all visitors.

    Args:
        vectors: Maker of the vectors.
        index: Index that is searched; None for photos that each visitor uploads.
    """

    def __init__(self, vectors: Vectors, index: IndexAlbum | None) -> None:
        self._vectors = vectors
        self._index = index

    def summary(self) -> str:
        """Summary of what is searched, in one line."""
        return "" if self._index is None else self._index.summary()

    def choices(self) -> list[str]:
        """Limits of a search to choose from, such as "label: cat"."""
        return [] if self._index is None else list(self._index.choices)

    def first_step(self) -> str:
        """Hint for a visitor on what to do first."""
        return NO_ALBUM if self._index is None else NO_QUESTION

    def collect(
        self, paths: list[str] | None, *, name: str, session: Session
    ) -> tuple[Session, str, str]:
        """Make the uploads searchable; the session, what is in it, and what to do next.

        Raises:
            gr.Error: None of them can be read.
        """
        if self._index is not None or not paths:
            return session._replace(album=None, ids=()), self.summary(), self.first_step()
        embedder = self._vectors.embedder(name)
        album = UploadedAlbum(readable_photos(paths, most=MOST_PHOTOS), embedder)
        return session._replace(album=album, ids=()), album.summary(), NO_QUESTION

    def with_upload(
        self, path: str | None, *, name: str, k: int, wanted: Sequence[str] | None, session: Session
    ) -> Answer:
        """Search with a photo.

        Raises:
            gr.Error: It cannot be read.
        """
        album = self._album(session)
        if path is None or album is None:
            return self.answer(session._replace(question=None), k=k, wanted=wanted)
        try:
            vector = self._vectors.vector(checked_picture(path), name=name, made=album.model)
        except OtherNetwork as error:
            told = str(error.message)
            return Answer(session._replace(question=None, ids=()), [], told, error.switch_to)
        question = Question(vector, "the photo you gave")
        return self.answer(session._replace(question=question), k=k, wanted=wanted)

    def with_result(
        self, place: object, *, k: int, wanted: Sequence[str] | None, session: Session
    ) -> Answer:
        """Search with the result at a place of the gallery, which may be anything from outside.

        Raises:
            gr.Error: The result is no longer there.
        """
        album, id, vector = self._album(session), "", None
        if album is not None and isinstance(place, int) and 0 <= place < len(session.ids):
            id = session.ids[place]
            vector = album.vector(id)
        if vector is None:
            raise said("This photo is no longer there. Search again.")
        return self.answer(session._replace(question=Question(vector, id, id)), k=k, wanted=wanted)

    def answer(self, session: Session, *, k: int, wanted: Sequence[str] | None) -> Answer:
        """Search with the question of a session."""
        album, question = self._album(session), session.question
        condition = None if self._index is None else self._index.condition(wanted or ())
        if album is None or question is None:
            told = NO_ALBUM if album is None else NO_QUESTION
            return Answer(session._replace(ids=()), [], told)
        found = album.search(question.vector, k=k + 1, condition=condition)
        results = others(found, question.id, k=k)
        tiles = [(one.tile, caption(one.id, f"{one.score:.3f}")) for one in results]
        told = f"**{len(results)}** photos like **{plain(caption(question.name))}**"
        told += " that pass the filter" if condition else ""
        ids = tuple(one.id for one in results)
        return Answer(session._replace(ids=ids), tiles, told + ".")

    def _album(self, session: Session) -> Album | None:
        return self._index or session.album


def _shown(answer: Answer) -> tuple[Session, gr.Gallery, str, gr.Button]:
    """An answer on the page; without the reset, a second click on a place would be no choice."""
    gallery = gr.Gallery(answer.tiles, selected_index=None)
    return answer.session, gallery, answer.told, switch_to(answer.switch_to)
