# A machine is under pressure, or is so no longer, or cannot tell: an alert begins or ends.
tell the operator:
  runner.alert.feel:
    - args:
      - tag: {{ tag | json }}
      - minion_id: {{ data.get('id') | json }}
      - payload: {{ data | json }}
