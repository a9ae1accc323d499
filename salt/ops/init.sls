# Alerts and mail: Alertmanager, and a sink that keeps mail where a person can read it.
{% set ops = pillar['ops'] %}

alert and mail packages:
  pkg.installed:
    - pkgs:
      - prometheus-alertmanager
      - python3-aiosmtpd
    - install_recommends: False
    - refresh: False

alertmanager configuration:
  file.managed:
    - name: /etc/prometheus/alertmanager.yml
    - source: salt://ops/alertmanager.yml.j2
    - template: jinja
    - check_cmd: amtool check-config
    - require:
      - pkg: alert and mail packages

alertmanager arguments:
  file.managed:
    - name: /etc/default/prometheus-alertmanager
    - contents: |
        ARGS="--web.listen-address={{ pillar['machine']['address'] }}:{{ ops['alertmanager_port'] }} --cluster.listen-address= --log.level=warn"
    - require:
      - pkg: alert and mail packages

alertmanager:
  service.running:
    - name: prometheus-alertmanager
    - enable: True
    - watch:
      - file: alertmanager configuration
      - file: alertmanager arguments

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
