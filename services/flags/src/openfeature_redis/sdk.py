"""The two things this provider needs from the OpenFeature SDK that it does not offer publicly.

Kept in one place so that a new SDK release has one file to be checked against; tests fail when it no longer
fits.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from openfeature import _event_support
from openfeature.provider import FeatureProvider, ProviderStatus
from openfeature.provider._registry import provider_registry


def announced(provider: FeatureProvider) -> bool:
    """Whether the SDK has recorded how `initialize` ended.

    It does so after `initialize` returns. An event of ours that came earlier would be overwritten by its
    READY.
    """
    return provider_registry.get_provider_status(provider) is not ProviderStatus.NOT_READY


def mend_after_fork() -> None:
    """Give a forked child working locks and event threads.

    The SDK runs handlers in a thread pool made at import. A child inherits the pool's count of idle threads
    without the threads, so its first handlers would wait for ever. Its locks may have been held by a thread
    the child lacks.
    """
    _event_support._event_executor = ThreadPoolExecutor(thread_name_prefix="openfeature-event-handler")
    _event_support._global_lock = threading.RLock()
    _event_support._client_lock = threading.RLock()
    provider_registry._lock = threading.RLock()
