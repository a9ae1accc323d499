"""
The conductor: reads the event bus itself, and does what takes long, one thing at a time per pool.

.. code-block:: yaml

    engines:
      - conductor: {}
"""

import salt.client
import salt.exceptions
import salt.utils.event
from saltern import conducting
from saltern.errors import SalternError


def _publish(jid, ids, function, arguments, keywords):
    try:
        with salt.client.get_local_client(mopts=__opts__) as client:
            client.run_job(list(ids), function, arguments, tgt_type="list", jid=jid, kwarg=keywords)
    except salt.exceptions.SaltException as error:
        raise SalternError(f"{function} on {', '.join(ids)}: {error}") from error


def start():
    """
    Hand the bus to the conductor until the master ends.
    """
    bus = salt.utils.event.get_event("master", sock_dir=__opts__["sock_dir"], opts=__opts__, listen=True)
    voice = salt.utils.event.get_master_event(__opts__, __opts__["sock_dir"], listen=False)
    with bus, voice:
        conducting.conduct(
            __opts__["saltern_state_dir"],
            listen=lambda seconds: bus.get_event(wait=seconds, full=True, auto_reconnect=True),
            fire=lambda tag, data: voice.fire_event(data, tag),
            publish=_publish,
        )
