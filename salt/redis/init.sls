# The fleet's memory: one primary, read-only replicas, a user for each consumer.
{% set redis = pillar['redis'] %}

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

redis:
  service.running:
    - name: redis-server
    - enable: True
    - watch:
      - pkg: redis packages
      - file: redis configuration
      - file: redis users
