# Saltern's own daemons: one artifact with all they import, verified by its hash.
{% from 'common/platform.jinja' import fits %}
{% set agent = pillar['agent'] %}
{% set agent_home = '/opt/saltern/agent/' ~ agent['id'] %}

# Each configuration in it is for one user; the folder is for all of them.
folder of the agent's configurations:
  file.directory:
    - name: /etc/saltern
    - mode: '0755'

{{ fits('Python for the agent', agent, agent_home) }}
agent on disk:
  archive.extracted:
    - name: {{ agent_home }}
    - source: {{ agent['source'] }}
    - source_hash: sha256={{ agent['sha256'] }}
    - enforce_toplevel: False
    - if_missing: {{ agent_home }}/RELEASE
    - user: root
    - group: root
{%- if agent['platform'] != 'any' %}
    - require:
      - cmd: Python for the agent
{%- endif %}

agent:
  file.symlink:
    - name: /opt/saltern/agent/current
    - target: {{ agent_home }}
    - require:
      - archive: agent on disk
