"""Schemathesis over the OpenAPI document: no 5xx, and answers as the document says."""

from contextlib import closing, suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi import checks as openapi_checks

from dino_app.server.app import create_app
from dino_app.server.settings import Settings
from tests.app.server.conftest import filled_store, served

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
    openapi_checks.unsupported_method,
]
EXAMPLES = 5  # right ones of each operation, and as many wrong ones
WITH_PARAMETERS = 13
REFUSED = [400, 404, 405, 413, 415, 422, 431]
CONFIG = {"checks": {"negative_data_rejection": {"expected-statuses": REFUSED}}}


@pytest.fixture(scope="module")
def fuzzed(embedder, tmp_path_factory, dim):
    folder = tmp_path_factory.mktemp("fuzzed") / "index"
    with (
        closing(filled_store(folder, dim)) as store,
        served(create_app(embedder, store, Settings(access_log=False))) as client,
    ):
        yield client


def _fuzz(operation, mode):
    """Ask an operation; returns how often."""
    asked = []

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def fuzz(case):
        asked.append(case)
        case.call_and_validate(checks=CHECKS, timeout=60)

    with suppress(Unsatisfiable):  # there is nothing that could be wrong in GET /livez
        fuzz()
    return len(asked)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_schemathesis_finds_nothing(fuzzed, mode):
    base = str(fuzzed.base_url).rstrip("/")
    schema = schemathesis.openapi.from_url(
        f"{base}/openapi.json", config=SchemathesisConfig.from_dict(CONFIG)
    )
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 21
    assert sum(_fuzz(operation, mode) > 0 for operation in operations) >= WITH_PARAMETERS
    ready = fuzzed.get("/readyz")
    assert ready.status_code == 200, ready.text
