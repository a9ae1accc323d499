# Alerts and mail: Alertmanager, what keeps it told, and a sink that keeps mail where a person can read it; the dashboard.
{% set ops = pillar['ops'] %}

include:
  - agent

alert and mail packages:
  pkg.installed:
    - pkgs:
      - prometheus-alertmanager
      - python3-aiosmtpd
    - install_recommends: False
    - refresh: False

text of the mails:
  file.managed:
    - name: /etc/prometheus/saltern.tmpl
    - source: salt://ops/saltern.tmpl
    - require:
      - pkg: alert and mail packages

{% if ops['mail']['username'] %}
password at the smarthost:
  file.managed:
    - name: /etc/prometheus/smarthost.password
    - contents_pillar: secrets:smarthost
    - contents_newline: False
    - user: prometheus
    - mode: '0400'
    - show_changes: False
    - require:
      - pkg: alert and mail packages
    - require_in:
      - file: alertmanager configuration
{% else %}
password at the smarthost:
  file.absent:
    - name: /etc/prometheus/smarthost.password
{% endif %}

alertmanager configuration:
  file.managed:
    - name: /etc/prometheus/alertmanager.yml
    - source: salt://ops/alertmanager.yml.j2
    - template: jinja
    - check_cmd: amtool check-config
    - require:
      - file: text of the mails

alertmanager arguments:
  file.managed:
    - name: /etc/default/prometheus-alertmanager
    # What was mailed is written down every second, so that an Alertmanager that dies mails nothing twice.
    - contents: |
        ARGS="--web.listen-address={{ pillar['machine']['address'] }}:{{ ops['alertmanager_port'] }} --cluster.listen-address= --data.maintenance-interval=1s --log.level=warn"
    - require:
      - pkg: alert and mail packages

alertmanager:
  service.running:
    - name: prometheus-alertmanager
    - enable: True
    - watch:
      - file: alertmanager configuration
      - file: alertmanager arguments
      - file: text of the mails

# Daemons of several users read their own file in it.
folder of configurations:
  file.directory:
    - name: /etc/saltern
    - mode: '0755'

alerts user:
  user.present:
    - name: saltern-alerts
    - system: True
    - home: /nonexistent
    - createhome: False
    - shell: /usr/sbin/nologin

alerts configuration:
  file.managed:
    - name: /etc/saltern/alerts.json
    - source: salt://ops/alerts.json.j2
    - template: jinja
    - group: saltern-alerts
    - mode: '0640'
    - show_changes: False
    - check_cmd: python3 -m json.tool
    - require:
      - file: folder of configurations
      - user: alerts user

alerts unit:
  file.managed:
    - name: /etc/systemd/system/saltern-alerts.service
    - source: salt://ops/saltern-alerts.service
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: alerts unit

alerts:
  service.running:
    - name: saltern-alerts
    - enable: True
    - require:
      - module: alerts unit
      - service: alertmanager
    - watch:
      - file: alerts unit
      - file: alerts configuration
      - file: agent

# The dashboard: it reads Redis as `observer`, and has no right to change anything; who changes something brings a token.
dashboard user:
  user.present:
    - name: saltern-dashboard
    - system: True
    - home: /nonexistent
    - createhome: False
    - shell: /usr/sbin/nologin

dashboard configuration:
  file.managed:
    - name: /etc/saltern/dashboard.json
    - source: salt://ops/dashboard.json.j2
    - template: jinja
    - group: saltern-dashboard
    - mode: '0640'
    - show_changes: False
    - check_cmd: python3 -m json.tool
    - require:
      - file: folder of configurations
      - user: dashboard user

dashboard unit:
  file.managed:
    - name: /etc/systemd/system/saltern-dashboard.service
    - source: salt://ops/saltern-dashboard.service
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: dashboard unit

dashboard:
  service.running:
    - name: saltern-dashboard
    - enable: True
    - require:
      - module: dashboard unit
    - watch:
      - file: dashboard unit
      - file: dashboard configuration
      - file: agent

mail sink user:
  user.present:
    - name: mailsink
    - system: True
    - home: {{ ops['mail']['sink_maildir'] }}
    - createhome: False
    - shell: /usr/sbin/nologin

{% for folder in ('', '/cur', '/new', '/tmp') %}
mail sink folder {{ folder or '/' }}:
  file.directory:
    - name: {{ ops['mail']['sink_maildir'] }}{{ folder }}
    - user: mailsink
    - group: mailsink
    - mode: '0755'
    - makedirs: True
    - require:
      - user: mail sink user
{% endfor %}

mail sink unit:
  file.managed:
    - name: /etc/systemd/system/mail-sink.service
    - contents: |
        # Written by Salt (salt/ops). Mail to anybody is delivered here and goes no further.
        [Unit]
        Description=Mail sink
        After=network.target

        [Service]
        User=mailsink
        Group=mailsink
        ExecStart=/usr/bin/aiosmtpd --nosetuid --listen {{ pillar['machine']['address'] }}:{{ ops['mail']['sink_port'] }} --class aiosmtpd.handlers.Mailbox {{ ops['mail']['sink_maildir'] }}
        Restart=always
        RestartSec=1
        NoNewPrivileges=yes
        ProtectSystem=strict
        ReadWritePaths={{ ops['mail']['sink_maildir'] }}
        ProtectHome=yes
        PrivateTmp=yes
        PrivateDevices=yes
        CapabilityBoundingSet=

        [Install]
        WantedBy=multi-user.target
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: mail sink unit

mail sink:
  service.running:
    - name: mail-sink
    - enable: True
    - require:
      - pkg: alert and mail packages
      - module: mail sink unit
      - file: mail sink folder /tmp
    - watch:
      - file: mail sink unit
