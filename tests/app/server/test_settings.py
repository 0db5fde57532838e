"""Limits as the library takes them."""

import pytest

from dino_app.server.settings import Settings

WRONG = [{"max_k": 2000}, {"max_queue": 0}, {"batch_wait_ms": -1}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_limit_is_a_wrong_value_of_a_parameter(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must"):
        Settings(**wrong)
