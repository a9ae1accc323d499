# The product: on prod* the release of the production pool, on staging* that of the canary.
{% from 'common/platform.jinja' import fits %}
{% set product = pillar['product'] %}
{% set release = pillar['release'] %}
{% set home = '/opt/product/releases/' ~ release['id'] %}

product user:
  user.present:
    - name: product
    - system: True
    - home: /var/lib/product
    - createhome: False
    - shell: /usr/sbin/nologin

product state folder:
  file.directory:
    - name: /var/lib/product
    - user: product
    - group: product
    - mode: '0750'
    - require:
      - user: product user

{{ fits('Python for the product', release) }}
# Verified by its hash, unpacked beside the old one, then switched to: the old release stays for an instant rollback.
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

product release:
  file.symlink:
    - name: /opt/product/current
    - target: {{ home }}
    - require:
      - archive: product release on disk

product configuration:
  file.managed:
    - name: /etc/product/config.json
    - source: salt://product/config.json.j2
    - template: jinja
    - makedirs: True
    - group: product
    - mode: '0640'
    - show_changes: False
    - check_cmd: python3 -m json.tool
    - require:
      - user: product user

product unit:
  file.managed:
    - name: /etc/systemd/system/product.service
    - source: salt://product/product.service.j2
    - template: jinja
    - mode: '0644'
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: product unit

product:
  service.running:
    - enable: True
    - require:
      - file: product state folder
      - module: product unit
    - watch:
      - file: product unit
      - file: product release
      - file: product configuration

instance in the registry:
  registry.present:
    - name: {{ pillar['machine']['id'] }}
    - port: {{ product['port'] }}
    - release: {{ release['id'] }}
    - require:
      - service: product
