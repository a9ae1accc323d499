# The product's release on the machine's disk, beside those that were there: nothing that runs is touched. A roll applies
# this alone to all machines first, so that each is out of traffic only for as long as switching takes.
{% from 'common/platform.jinja' import fits %}
{% set release = pillar.get('_release', pillar['release']) %}
{% set home = '/opt/product/releases/' ~ release['id'] %}

{{ fits('Python for the product', release) }}
# Verified by its hash before it is unpacked. The old release stays for an instant rollback.
product release on disk:
  archive.extracted:
    - name: {{ home }}
    - source: {{ release['source'] }}
    - source_hash: sha256={{ release['sha256'] }}
    - enforce_toplevel: False
    - if_missing: {{ home }}/RELEASE
    - user: root
    - group: root
{%- if release['platform'] != 'any' %}
    - require:
      - cmd: Python for the product
{%- endif %}

