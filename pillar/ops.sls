# ops1: alerts and mail.
ops:
  # TCP port of Alertmanager.
  alertmanager_port: 9093
  mail:
    # Where alerts go.
    to: operator@fleet.test
    from: saltern@fleet.test
    # host:port of the smarthost; empty delivers to the fleet's own mail sink on ops1.
    smarthost: ''
    # Whether the smarthost must offer TLS.
    require_tls: true
    # TCP port of the mail sink, and the folder (Maildir) it delivers to.
    sink_port: 1025
    sink_maildir: /var/mail/sink
  # How long Alertmanager waits to group what comes together, s; then between mails of a group that grew, s; and before
  # it says again what has not changed, s.
  group_wait: 1
  group_interval: 30
  repeat_interval: 14400
