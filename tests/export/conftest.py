"""Tracing puts symbols where shapes and sizes are numbers, so shapes are not checked here."""

import jaxtyping
import pytest


@pytest.fixture(scope="module", autouse=True)
def _symbols_are_no_numbers():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
