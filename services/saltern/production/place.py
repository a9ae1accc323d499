"""Where an installed master keeps what, and what runs it there: paths and files, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saltern.fleet import SERVICE, SERVICE_USER, Fleet

OPT = Path("/opt/saltern")
RELEASES = OPT / "releases"
CURRENT = OPT / "current"
UNITS = Path("/etc/systemd/system")
FIREWALL = Path("/etc/saltern/master.nft")
# Rules of the operator's own, read into the table.
OWN_RULES = Path("/etc/saltern/master.nft.d")
SHARE_UNIT = UNITS / "saltern-share.service"
BACKUPS = Path("/var/backups/saltern")
COMMANDS = Path("/usr/local/bin")
TABLE = "saltern_master"
FIREWALL_SERVICE, BACKUP_SERVICE, SHARE_SERVICE = "saltern-firewall", "saltern-backup", "saltern-share"
MASTER_PORTS = (4505, 4506)
# Salt's own commands, there to be typed with no flags.
SALT_COMMANDS = ("salt", "salt-run", "salt-key", "salt-cloud", "salt-ssh", "salt-cp")
DAYS_KEPT = 14


@dataclass(frozen=True)
class File:
    """:ivar text: all of it; :ivar mode: as chmod takes it"""

    text: str
    mode: int = 0o644


def files(fleet: Fleet, home: Path, ssh_ports: Sequence[int], ssh_from: str) -> dict[Path, File]:
    """Every file outside the fleet's own folder that an installed master has.

    :param home: SALTERN_HOME
    :param ssh_ports: where this machine's sshd listens
    :param ssh_from: the network that may reach it; empty for everybody
    """
    made = {
        FIREWALL: File(firewall(fleet.subnet, ssh_ports, ssh_from, fleet.peers)),
        UNITS / f"{SERVICE}.service": File(master_unit(fleet, home)),
        UNITS / f"{FIREWALL_SERVICE}.service": File(FIREWALL_UNIT),
        UNITS / f"{BACKUP_SERVICE}.service": File(backup_unit(fleet, home)),
        UNITS / f"{BACKUP_SERVICE}.timer": File(BACKUP_TIMER),
        Path("/etc/logrotate.d/saltern-master"): File(rotation(fleet)),
        COMMANDS / "saltern": File(command(fleet, home, "python -m saltern.cli"), 0o755),
    }
    if fleet.peers:
        made[SHARE_UNIT] = File(share_unit(fleet, home))
    as_user = f"setpriv --reuid={SERVICE_USER} --regid={SERVICE_USER} --init-groups "
    for name in SALT_COMMANDS:
        made[COMMANDS / name] = File(command(fleet, home, f"{name} -c {fleet.etc}", as_user), 0o755)
    return made


def firewall(subnet: str, ssh_ports: Sequence[int], ssh_from: str, peers: Sequence[str] = ()) -> str:
    """The table of an installed master: the fleet reaches Salt, operators reach ssh, nobody anything else.

    It is replaced in one step, and refuses nothing that this machine itself has asked for. Both kinds of ICMP go by
    their numbers: a small system has no list of names.
    """
    ports = ", ".join(map(str, ssh_ports))
    who = f"ip saddr {ssh_from} " if ssh_from else ""
    salt = ", ".join(map(str, MASTER_PORTS))
    others = f"        ip saddr {{ {', '.join(peers)} }} tcp dport {{ {ports} }} accept\n" if peers else ""
    return f"""#!/usr/sbin/nft -f
# Written by `saltern install-master`. Rules of your own go into {OWN_RULES}/*.nft, one a line, such as
#   tcp dport 9100 ip saddr 10.0.0.7 accept
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state invalid drop
        ct state established,related accept
        iifname "lo" accept
        meta l4proto {{ 1, 58 }} accept
        udp dport {{ 68, 546 }} accept
        {who}tcp dport {{ {ports} }} accept
        ip saddr {subnet} tcp dport {{ {salt} }} accept
{others}        include "{OWN_RULES}/*.nft"
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
    }}
}}
"""


def master_unit(fleet: Fleet, home: Path) -> str:
    """The master, as a user of its own that can write nothing but the fleet's state."""
    return f"""[Unit]
Description=Salt master of fleet {fleet.name}
Documentation=file:{CURRENT}/docs/production.md
Wants=network-online.target
After=network-online.target
# It never listens without its firewall.
Requires={FIREWALL_SERVICE}.service
After={FIREWALL_SERVICE}.service

[Service]
Type=notify
NotifyAccess=all
User={SERVICE_USER}
Group={SERVICE_USER}
UMask=0027
Environment=SALTERN_HOME={home} HOME={fleet.state_dir}
ExecStart={CURRENT}/.venv/bin/salt-master -c {fleet.etc}
KillMode=mixed
TimeoutStartSec=120
TimeoutStopSec=20
Restart=always
RestartSec=2
LimitNOFILE=100000
# Reflexes go first in a storm.
LimitNICE=-20
CPUWeight=400
ReadWritePaths={fleet.state_dir}
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes

[Install]
WantedBy=multi-user.target
"""


FIREWALL_UNIT = f"""[Unit]
Description=Firewall of the Salt master: a table of its own
DefaultDependencies=no
Before=network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f {FIREWALL}
ExecReload=/usr/sbin/nft -f {FIREWALL}
ExecStop=/usr/sbin/nft delete table inet {TABLE}

[Install]
WantedBy=multi-user.target
"""


def backup_unit(fleet: Fleet, home: Path) -> str:
    """What the timer starts."""
    return f"""[Unit]
Description=Backup of the Salt master's keys and state

[Service]
Type=oneshot
Environment=SALTERN_HOME={home}
ExecStart={CURRENT}/.venv/bin/python -m saltern.cli backup --fleet {fleet.name} --keep {DAYS_KEPT} {BACKUPS}
Nice=10
"""


BACKUP_TIMER = """[Unit]
Description=Daily backup of the Salt master's keys and state

[Timer]
OnCalendar=daily
RandomizedDelaySec=1h
Persistent=yes

[Install]
WantedBy=timers.target
"""


def share_unit(fleet: Fleet, home: Path) -> str:
    """What brings the other masters what this one keeps, while this one leads. As root: the ssh key is root's."""
    return f"""[Unit]
Description=Other masters of fleet {fleet.name} know what this one does
Documentation=file:{CURRENT}/docs/production.md
Wants=network-online.target
After=network-online.target

[Service]
Environment=SALTERN_HOME={home} HOME=/root
ExecStart={CURRENT}/.venv/bin/python -m saltern.cli share --fleet {fleet.name}
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
"""


def rotation(fleet: Fleet) -> str:
    """The master's processes share each log and keep it open: it is copied, then emptied."""
    return f"""{fleet.state_dir}/log/* {{
    su {SERVICE_USER} {SERVICE_USER}
    weekly
    maxsize 64M
    rotate 8
    compress
    delaycompress
    missingok
    notifempty
    copytruncate
}}
"""


def command(fleet: Fleet, home: Path, line: str, before: str = "") -> str:
    """A command of the installed release. Root does Salt's work as the master's user, whose files they are."""
    run = f"{CURRENT}/.venv/bin/{line}"
    text = f"#!/bin/sh\n# Written by `saltern install-master`.\nexport SALTERN_HOME={home} SALTERN_FLEET={fleet.name}\n"
    if before:
        text += f'[ "$(id -u)" != 0 ] || HOME={fleet.state_dir} exec {before}{run} "$@"\n'
    return text + f'exec {run} "$@"\n'
