# The fleet's memory: one primary, read-only replicas, a user for each consumer. With three machines or more Sentinel says
# who is primary; no state here does, and none touches the files that Redis and Sentinel rewrite.
{% set redis = pillar['redis'] %}
{% set sentinel = pillar['fleet']['redis']['sentinel'] %}

include:
  - agent

redis packages:
  pkg.installed:
    - pkgs:
      - redis-server
      - redis-tools
    - install_recommends: False
    - refresh: False

checker of redis configurations:
  file.managed:
    - name: /usr/local/sbin/check-redis-conf
    - source: salt://redis/check-redis-conf
    - mode: '0755'
    - require:
      - pkg: redis packages

{% if redis['tls'] %}
{% for file, secret in {'ca.crt': 'ca', 'server.crt': 'certificate', 'server.key': 'key'}.items() %}
redis {{ file }}:
  file.managed:
    - name: /etc/redis/tls/{{ file }}
    - contents_pillar: secrets:tls:{{ secret }}
    - makedirs: True
    - group: redis
    - mode: '0640'
    - show_changes: False
    - require:
      - pkg: redis packages
    - require_in:
      - file: redis configuration
    - watch_in:
      - service: redis
      {%- if sentinel %}
      - service: sentinel
      {%- endif %}
{% endfor %}
{% endif %}

redis users:
  file.managed:
    - name: /etc/redis/users.acl
    - source: salt://redis/users.acl.j2
    - template: jinja
    - user: redis
    - group: redis
    - mode: '0640'
    - show_changes: False
    - require:
      - pkg: redis packages

redis configuration:
  file.managed:
    - name: /etc/redis/redis.conf
    - source: salt://redis/redis.conf.j2
    - template: jinja
    - user: redis
    - group: redis
    - mode: '0640'
    - show_changes: False
    - check_cmd: /usr/local/sbin/check-redis-conf
    - require:
      - file: checker of redis configurations
      - file: redis users

# Who this machine is and whom it asks, before Redis or Sentinel starts.
redis start:
  file.managed:
    - name: /etc/redis/start.json
    - source: salt://redis/start.json.j2
    - template: jinja
    - group: redis
    - mode: '0640'
    - show_changes: False
    - check_cmd: python3 -m json.tool
    - require:
      - pkg: redis packages

redis unit:
  file.managed:
    - name: /etc/systemd/system/redis-server.service.d/saltern.conf
    - source: salt://redis/redis-server.conf
    - makedirs: True
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: redis unit

redis:
  service.running:
    - name: redis-server
    - enable: True
    - require:
      - file: agent
      - file: redis start
      - module: redis unit
    - watch:
      - pkg: redis packages
      - file: redis configuration
      - file: redis users
      - file: redis unit
      {%- if not sentinel %}
      # Without Sentinel the pillar says who is primary, and Redis learns it when it starts.
      - file: redis start
      {%- endif %}

{% if sentinel %}
sentinel users:
  file.managed:
    - name: /etc/redis/sentinel-users.acl
    - source: salt://redis/sentinel-users.acl.j2
    - template: jinja
    - user: redis
    - group: redis
    - mode: '0640'
    - show_changes: False
    - require:
      - pkg: redis packages

sentinel configuration:
  file.managed:
    - name: /etc/redis/sentinel.conf
    - source: salt://redis/sentinel.conf.j2
    - template: jinja
    - user: redis
    - group: redis
    - mode: '0640'
    - show_changes: False
    - check_cmd: /usr/local/sbin/check-redis-conf --sentinel
    - require:
      - file: checker of redis configurations
      - file: sentinel users

sentinel unit:
  file.managed:
    - name: /etc/systemd/system/redis-sentinel.service
    - source: salt://redis/redis-sentinel.service
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: sentinel unit

sentinel:
  service.running:
    - name: redis-sentinel
    - enable: True
    - require:
      - service: redis
      - module: sentinel unit
    - watch:
      - file: sentinel configuration
      - file: sentinel users
      - file: sentinel unit
      - file: redis start
{% else %}
no sentinel:
  service.dead:
    - name: redis-sentinel
    - enable: False
    - onlyif: test -e /etc/systemd/system/redis-sentinel.service
{% endif %}

# Copies of the data: each replica keeps some on its own disk.
folder of redis backups:
  file.directory:
    - name: /var/backups/redis
    - user: redis
    - group: redis
    - mode: '0700'
    - require:
      - pkg: redis packages

redis backup configuration:
  file.managed:
    - name: /etc/redis/backup.json
    - source: salt://redis/backup.json.j2
    - template: jinja
    - group: redis
    - mode: '0640'
    - show_changes: False
    - check_cmd: python3 -m json.tool
    - require:
      - pkg: redis packages

redis backup units:
  file.managed:
    - names:
      - /etc/systemd/system/redis-backup.service:
        - source: salt://redis/redis-backup.service
      - /etc/systemd/system/redis-backup.timer:
        - source: salt://redis/redis-backup.timer.j2
        - template: jinja
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: redis backup units

redis backup:
  service.running:
    - name: redis-backup.timer
    - enable: True
    - require:
      - file: folder of redis backups
      - file: redis backup configuration
      - module: redis backup units
    - watch:
      - file: redis backup units
