"""What every Salt runner of ours does with an error: say it in one line, and end with a status that is not 0."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import redis

from saltern.errors import SalternError
from saltern.redis_link import ConfigError
from saltern.registry import RegistryError
from saltern.steps import StepsError

# What can be wrong with a person's input or with the world; anything else is a defect and shows its traceback.
EXPECTED = (SalternError, RegistryError, ConfigError, StepsError, redis.RedisError)


def plain_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a runner's function: an expected error becomes the answer, and `salt-run` exits with 1.

    Salt answers an exception with its traceback. A return code in `__context__` tells the event bus that a runner
    failed, one in the answer tells the shell. The context outlives the call: the master's reactor calls all runners in
    one process, so whoever succeeds says so as well, or one failure would mark all that follow it.
    """

    @functools.wraps(function)
    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            found, status = function(*args, **kwargs), 0
        except EXPECTED as error:
            whose = "redis: " if isinstance(error, redis.RedisError) else ""
            found, status = {"error": f"{whose}{error}", "retcode": 1}, 1
        function.__globals__["__context__"]["retcode"] = status
        return found

    answer.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return answer
