"""What a runner answers when something expected is wrong, and that it hides nothing else."""

from __future__ import annotations

import inspect

import pytest
import redis
from saltern.errors import SalternError
from saltern.redis_link import ConfigError
from saltern.registry import RegistryError
from saltern.runners import plain_errors

# What Salt's loader puts into the module that a runner is in.
__context__: dict[str, int] = {}


@pytest.fixture(autouse=True)
def fresh_context() -> None:
    __context__.clear()


@pytest.mark.parametrize("kind", [SalternError, RegistryError, ConfigError])
def test_an_expected_error_is_answered_in_one_line_with_a_return_code(kind: type[Exception]) -> None:
    @plain_errors
    def share(percent: int) -> None:
        raise kind(f"split: share {percent} is not between 0 and 100")

    assert share(130) == {"error": "split: share 130 is not between 0 and 100", "retcode": 1}
    assert __context__["retcode"] == 1


def test_an_error_of_redis_is_said_to_be_one() -> None:
    @plain_errors
    def status() -> None:
        raise redis.ConnectionError("Connection refused.")

    assert status() == {"error": "redis: Connection refused.", "retcode": 1}


def test_after_a_failure_the_next_success_is_one() -> None:
    @plain_errors
    def share(percent: int) -> int:
        if percent > 100:
            raise SalternError("too much")
        return percent

    share(130)
    assert share(30) == 30
    assert __context__["retcode"] == 0


def test_a_defect_is_not_hidden() -> None:
    @plain_errors
    def broken() -> None:
        raise KeyError("pool")

    with pytest.raises(KeyError):
        broken()


def test_what_is_right_is_answered_as_it_is_and_the_signature_stays() -> None:
    @plain_errors
    def share(percent: int, cause: str = "") -> tuple[int, str]:
        """Set it."""
        return percent, cause

    assert share(30, cause="1-0") == (30, "1-0")
    assert __context__["retcode"] == 0
    assert inspect.getfullargspec(share).args == ["percent", "cause"]
    assert share.__doc__ == "Set it."
