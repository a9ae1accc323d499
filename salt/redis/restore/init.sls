# Redis starts from a copy of its data. Of all Redis machines only the primary may run this, while the others are stopped:
# `salt-run redis.restore` sees to that.
include:
  - redis.restore.copy

redis stops:
  service.dead:
    - name: redis-server
    - require:
      - file: copy to restore

data from the copy:
  cmd.run:
    - name: /usr/bin/python3 -m saltern.rdb lay /var/lib/redis/restore.rdb --dir /var/lib/redis
    - runas: redis
    - cwd: /var/lib/redis
    - env:
      - PYTHONPATH: /opt/saltern/agent/current
      - PYTHONDONTWRITEBYTECODE: '1'
    - require:
      - service: redis stops

redis starts again:
  service.running:
    - name: redis-server
    - require:
      - cmd: data from the copy

copy that was restored:
  file.absent:
    - name: /var/lib/redis/restore.rdb
    - require:
      - service: redis starts again
