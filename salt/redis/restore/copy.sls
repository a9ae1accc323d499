# A copy of Redis' data beside the data, judged; nothing else is touched. `salt-run redis.restore` says which.
{% set restore = pillar['_restore'] %}

copy to restore:
  file.managed:
    - name: /var/lib/redis/restore.rdb
    - source: {{ restore['source'] }}
    - source_hash: sha256={{ restore['sha256'] }}
    - user: redis
    - group: redis
    - mode: '0600'
    - show_changes: False
    - check_cmd: redis-check-rdb
