# A machine has come up: have it take on its role, and register itself at the end of that.
{% set minion = data['id'] %}
highstate of the machine that started:
  local.state.apply:
    - tgt: [{{ minion | json }}]
    - tgt_type: list
    - kwarg:
        queue: True
