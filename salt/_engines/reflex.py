"""
The quick reflexes: reads the event bus itself, so that a storm of events holds up neither the canary nor an alert.

.. code-block:: yaml

    engines:
      - reflex: {}
"""

import salt.utils.event
from saltern import reacting


def start():
    """
    Hand the bus to the reflexes until the master ends.
    """
    bus = salt.utils.event.get_event("master", sock_dir=__opts__["sock_dir"], opts=__opts__, listen=True)
    with bus:
        reacting.react(
            __opts__["saltern_state_dir"],
            listen=lambda seconds: bus.get_event(wait=seconds, full=True, auto_reconnect=True),
        )
