"""OpenFeature provider whose flags live in one Redis key and flip in every process within milliseconds."""

from openfeature_redis.provider import RedisProvider

__all__ = ["RedisProvider"]
