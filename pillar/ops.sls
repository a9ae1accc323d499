# ops1: alerts and mail, the dashboard.
ops:
  # TCP port of Alertmanager.
  alertmanager_port: 9093
  dashboard:
    # Where it listens: "*" is every IPv4 address of ops1; TCP port.
    address: "*"
    port: 8080
    # Pages that may listen at once.
    viewers: 128
    # Seconds a person stays signed in.
    session_s: 28800
  mail:
    # Where alerts go.
    to: operator@fleet.test
    from: saltern@fleet.test
    # host:port of the smarthost; empty delivers to the fleet's own mail sink on ops1.
    smarthost: ''
    # Whether the smarthost must offer TLS (STARTTLS; on port 465 TLS is spoken from the start).
    require_tls: true
    # Who Alertmanager logs in as there; empty logs in nowhere. A password goes over TLS alone.
    username: ''
    # File on the master's host that holds the password, readable by the master; only ops1 is told what is in it.
    password_file: ''
    # File on ops1 with the certificates the smarthost's must be signed by; empty takes the system's own.
    ca_file: ''
    # TCP port of the mail sink, and the folder (Maildir) it delivers to.
    sink_port: 1025
    sink_maildir: /var/mail/sink
  # URLs that get every alert too, begun and over, as JSON (Alertmanager's webhook): a gateway to chat or SMS.
  webhooks: []
  # How long Alertmanager waits to group what comes together, s; then between mails of a group that grew, s; and before
  # it says again what has not changed, s.
  group_wait: 1
  group_interval: 30
  repeat_interval: 14400
