# salt-cloud has ended a machine: nobody is to be sent there.
unregister the instance:
  runner.registry.unregister:
    - args:
      - minion_id: {{ tag.split('/')[2] | json }}
