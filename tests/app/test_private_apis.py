"""Undocumented parts of dependencies that the app uses, each with the file that does."""

import asyncio
import inspect

import gradio as gr
import pytest
from gradio.components.base import Component
from gradio.route_utils import GradioMultiPartParser
from starlette.formparsers import MultiPartException, MultiPartParser
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle


def test_uvicorns_protocol_has_the_cycle_that_tells_an_idle_connection():
    """server/uvicorn_server.py closes connections whose header takes too long."""
    for method in ("connection_made", "data_received", "connection_lost"):
        assert inspect.isfunction(getattr(H11Protocol, method))
    assert {"self.cycle", "self.loop", "self.transport"} <= _written_in(H11Protocol.__init__)
    assert "self.response_complete" in _written_in(RequestResponseCycle.__init__)


def test_uvicorns_server_asks_handle_exit_and_ends_by_its_flags():
    """server/uvicorn_server.py drains at the first signal and stops at the second."""
    from uvicorn import Server

    assert list(inspect.signature(Server.handle_exit).parameters) == ["self", "sig", "frame"]
    assert {"self.should_exit", "self.force_exit"} <= _written_in(Server.__init__)


def test_starlettes_form_parser_keeps_files_below_a_size_in_memory():
    """server/request_images.py lets no form touch the disk."""
    assert isinstance(MultiPartParser.spool_max_size, int)
    assert "self.spool_max_size" in inspect.getsource(MultiPartParser)


def test_gradio_moves_files_by_the_method_that_is_wrapped():
    """demo/only_uploads.py refuses addresses there, and says that the page was launched."""
    take = Component.async_move_resource_to_block_cache
    assert asyncio.iscoroutinefunction(take)
    assert len(inspect.signature(take).parameters) == 2
    assert "has_launched" in inspect.getsource(gr.blocks)


def test_gradios_mounted_app_has_an_event_that_ends_its_streams():
    """demo/app.py sets it when a server ends."""
    assert "self.stop_event" in _written_in(gr.routes.App)


@pytest.mark.parametrize("component", [gr.Image, gr.File])
def test_gradios_components_hand_uploads_to_preprocess(component):
    """demo/uploads.py and demo/photo_sets.py put their own in its place."""
    assert list(inspect.signature(component.preprocess).parameters) == ["self", "payload"]


def test_gradio_deletes_the_files_of_a_form_that_it_cannot_read(tmp_path):
    """demo/uploads.py makes uploads that break off such forms."""

    async def stream():
        yield b'--a\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\nyy'
        assert len(list(tmp_path.iterdir())) == 1
        raise MultiPartException("broken off")

    headers = {"Content-Type": "multipart/form-data; boundary=a"}
    parser = GradioMultiPartParser(headers, stream(), upload_dir=tmp_path, max_file_size=100)
    with pytest.raises(MultiPartException, match="broken off"):
        asyncio.run(parser.parse())
    assert list(tmp_path.iterdir()) == []


def test_safehttpx_connects_to_the_address_that_was_checked():
    """server/fetching.py gives it one."""
    from safehttpx import AsyncSecureTransport

    assert "verified_ip" in inspect.signature(AsyncSecureTransport.__init__).parameters


def test_milvus_lite_has_the_manager_that_frees_a_file():
    """store/milvus_store/connection.py closes the last user of a file with it."""
    manager = pytest.importorskip("milvus_lite.server_manager")
    assert callable(manager.server_manager_instance.release_server)


def _written_in(function):
    """Attributes of ``self`` that the source of a function names."""
    words = inspect.getsource(function).replace(":", " ").replace("=", " ").split()
    return {word for word in words if word.startswith("self.")}
