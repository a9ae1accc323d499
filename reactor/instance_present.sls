# An instance says what it runs: the master checks the signature and writes it into the registry.
register the instance:
  runner.registry.register:
    - args:
      - tag: {{ tag | json }}
      - minion_id: {{ data['id'] | json }}
      - payload: {{ data['data'] | json }}
