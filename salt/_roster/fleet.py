"""
The fleet's machines as ``salt-ssh`` reaches them: from its inventory, so that there is no list to keep.

.. code-block:: yaml

    roster: fleet
    # Salt's own; what holds for every machine.
    roster_defaults: {user: admin, sudo: True}

Useful where a minion does not answer: ``salt-ssh prod3 cmd.run 'journalctl -u salt-minion'``.
"""

from saltern.fleet import Fleet


def targets(tgt, tgt_type="glob", **kwargs):
    """
    The machines that a target means, with their addresses.

    CLI Example:

    .. code-block:: bash

        salt-ssh --user admin --priv ~/.ssh/id_ed25519 'prod*' test.ping
    """
    addresses = Fleet.load(__opts__["saltern_state_dir"]).addresses()
    machines = {name: {"host": address} for name, address in addresses.items()}
    return __utils__["roster_matcher.targets"](machines, tgt, tgt_type, "ipv4")
