"""The local cloud: real Debian machines on this host, by systemd-nspawn, an overlay and a private bridge."""
