# Roles come from the minion id alone: an id is proven by its key, a grain is only said.
base:
  '*':
    - common
  'redis*':
    - redis
  'proxy*':
    - proxy
  'prod* or staging*':
    - match: compound
    - product
  'ops*':
    - ops
    - pipeline
