"""
For runners: refusals and outages as one line, where Salt would show a traceback.
"""

from salt.exceptions import NotImplemented as Plain

try:
    import redis
    from saltern.errors import SalternError
    from saltern.redis_link import ConfigError
    from saltern.registry import RegistryError

    HAS_SALTERN = True
except ImportError:
    HAS_SALTERN = False


def __virtual__():
    if not HAS_SALTERN:
        return False, "runners are the master's; here the saltern package is not on Salt's Python path"
    return "plain"


def call(function, *args, **kwargs):
    """
    Call a function of the saltern package; what it refuses, a person is told in its own words.

    Of all exceptions a runner may raise there is one whose text alone reaches the caller, with exit status 1 and
    without a traceback: the one called NotImplemented, whatever its name says.
    """
    try:
        return function(*args, **kwargs)
    except (SalternError, RegistryError, ConfigError) as error:
        raise Plain(str(error)) from error
    except redis.RedisError as error:
        raise Plain(f"redis: {' '.join(str(error).split())}") from error
