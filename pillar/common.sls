# Every machine.
common:
  # Time zone, as in /usr/share/zoneinfo. Logs of several machines are compared: keep it the same everywhere.
  timezone: Etc/UTC
  # How much disk the system journal may take, MiB.
  journal_max_mib: 64
  # Whether security updates install themselves every day. Services are not restarted behind your back: see needrestart.
  unattended_upgrades: true
  # Operators: name -> list of ssh public keys. They may use sudo. An empty table makes nobody.
  users: {}
