# The front door: HAProxy, and the controller that keeps it equal to the registry.
{% set traffic = pillar['traffic'] %}

include:
  - agent

haproxy package:
  pkg.installed:
    - pkgs:
      - haproxy
    - install_recommends: False
    - refresh: False

traffic state folder:
  file.directory:
    - name: {{ traffic['state_dir'] }}
    - user: {{ traffic['user'] }}
    - group: {{ traffic['group'] }}
    - mode: '0755'
    - makedirs: True
    - require:
      - pkg: haproxy package

# What HAProxy starts from when nobody tells it more: the controller keeps these files as it finds the world.
{% for file, start in {
  'split.acl': '',
  'instances.map': '',
  'releases.map': '',
  'servers.state': '1',
}.items() %}
{{ file }}:
  file.managed:
    - name: {{ traffic['state_dir'] }}/{{ file }}
    - contents: {{ start | json }}
    - allow_empty: True
    - replace: False
    - user: {{ traffic['user'] }}
    - group: {{ traffic['group'] }}
    - require:
      - file: traffic state folder
    - require_in:
      - file: haproxy configuration
{% endfor %}

page for when nobody can answer:
  file.managed:
    - name: {{ traffic['unavailable_page'] }}
    - source: salt://proxy/503.http
    - makedirs: True
    - require:
      - pkg: haproxy package

haproxy configuration:
  file.managed:
    - name: /etc/haproxy/haproxy.cfg
    - source: salt://proxy/haproxy.cfg.j2
    - template: jinja
    - context:
        traffic: {{ dict(traffic, metrics=dict(traffic.metrics, allow=[pillar['fleet']['subnet']] + traffic.metrics.allow)) | json }}
    - check_cmd: haproxy -c -f
    - require:
      - file: page for when nobody can answer

# Its own socket directory and enough open files are the package's unit's business; a reload loses no connection.
haproxy:
  service.running:
    - enable: True
    - reload: True
    - watch:
      - file: haproxy configuration
      - file: page for when nobody can answer

controller configuration:
  file.managed:
    - name: /etc/saltern/controller.json
    - source: salt://proxy/controller.json.j2
    - template: jinja
    - makedirs: True
    - group: {{ traffic['group'] }}
    - mode: '0640'
    - show_changes: False
    - check_cmd: python3 -m json.tool
    - require:
      - pkg: haproxy package

controller unit:
  file.managed:
    - name: /etc/systemd/system/saltern-controller.service
    - source: salt://proxy/saltern-controller.service.j2
    - template: jinja
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: controller unit

controller:
  service.running:
    - name: saltern-controller
    - enable: True
    - require:
      - module: controller unit
      - service: haproxy
    - watch:
      - file: controller unit
      - file: controller configuration
      - file: agent

# The admin API: a user of its own, who may speak to HAProxy and leave orders for the controller.
admin user:
  user.present:
    - name: saltern-admin
    - system: True
    - home: /nonexistent
    - createhome: False
    - shell: /usr/sbin/nologin

orders for the controller:
  file.directory:
    - name: {{ traffic['state_dir'] }}/orders
    - user: {{ traffic['user'] }}
    - group: {{ traffic['group'] }}
    # What is left here belongs to the group, so that the controller can read it.
    - mode: '2770'
    - require:
      - file: traffic state folder

admin configuration:
  file.managed:
    - name: /etc/saltern/admin.json
    - source: salt://proxy/admin.json.j2
    - template: jinja
    - makedirs: True
    - group: saltern-admin
    - mode: '0640'
    - show_changes: False
    - check_cmd: python3 -m json.tool
    - require:
      - user: admin user

admin unit:
  file.managed:
    - name: /etc/systemd/system/saltern-admin.service
    - source: salt://proxy/saltern-admin.service.j2
    - template: jinja
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: admin unit

admin:
  service.running:
    - name: saltern-admin
    - enable: True
    - require:
      - module: admin unit
      - file: orders for the controller
      - service: controller
    - watch:
      - file: admin unit
      - file: admin configuration
      - file: agent

# The flags a new fleet starts with. They are written once: from then on salt-run flags.* changes them, and no state does.
flags of a new fleet:
  file.managed:
    - name: /etc/saltern/flags.json
    - source: salt://proxy/flags.json
    - makedirs: True

{% set seed = '/usr/bin/python3 -m saltern.flag_seed --config /etc/saltern/admin.json --flags /etc/saltern/flags.json' %}
first flags:
  cmd.run:
    - name: {{ seed }}
    - env:
      - PYTHONPATH: /opt/saltern/agent/current
      - PYTHONDONTWRITEBYTECODE: '1'
    - stateful:
      - test_name: {{ seed }} --test
    - require:
      - file: agent
      - file: admin configuration
      - file: flags of a new fleet
