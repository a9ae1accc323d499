# A roll as an orchestration: starts it and waits for its end, so that others can require it.
#   salt-run state.orchestrate orch.rolling pillar='{"release": "r6a4e5fac531f"}'
#   salt-run state.orchestrate orch.rolling pillar='{"state": "common", "role": "redis,ops"}'
# Whatever salt-run rollout.start takes can be in the pillar; without anything it is the release that staging runs.
{%- set given = {'wait': 900, 'by': 'orchestrate'} %}
{%- for name in ['release', 'target', 'state', 'role', 'wait', 'reason', 'cause', 'by', 'batch', 'max_unavailable', 'order',
                 'on_failure', 'min_healthy_s', 'steady_s', 'deadline_s', 'highstate', 'gates', 'force'] if name in pillar %}
{%- do given.update({name: pillar[name]}) %}
{%- endfor %}
roll machine by machine:
  salt.runner:
    - name: rollout.start
    - kwarg: {{ given | json }}
