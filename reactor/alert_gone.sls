# salt-cloud has ended a machine: nobody else will say that its alerts are over.
end the alerts of the machine:
  runner.alert.gone:
    - args:
      - minion_id: {{ tag.split('/')[2] | json }}
