"""
What a machine is told about itself and its fleet: address, role, its own secrets, the release it shall run.

The whole pillar is checked against its schema here, before a machine gets any of it.
"""

from saltern.fleet import Fleet
from saltern.pillar import check, for_machine

# The master's own id (etc/master), as an orchestration has it. No machine can be called that: it names no role.
MASTER = "master"


def ext_pillar(minion_id, pillar, state_dir):
    """
    Check the pillar, and add what this machine alone may know. An orchestration gets what it is given.
    """
    if minion_id == MASTER:
        return {}
    check(pillar)
    return for_machine(Fleet.load(state_dir), minion_id)
