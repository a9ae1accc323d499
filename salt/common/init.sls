# What every machine has, whatever its role.
{% set common = pillar['common'] %}

# Saltern's own states and beacons come first: what follows uses them. They are fetched only when they changed.
revision of Saltern's modules:
  file.managed:
    - name: /etc/salt/saltern-modules
    - contents_pillar: fleet:modules
    - order: 1

Saltern's modules:
  module.run:
    - order: 2
    - reload_modules: True
    - saltutil.sync_utils:
      - refresh: True
    - saltutil.sync_states:
      - refresh: True
    - saltutil.sync_modules:
      - refresh: True
    - saltutil.sync_beacons:
      - refresh: True
    - onchanges:
      - file: revision of Saltern's modules

# The minion keeps its pillar from when it started; it reads it anew when what it shall feel has changed.
what the machine feels:
  file.managed:
    - name: /etc/salt/saltern-beacons
    - contents: {{ pillar['beacons'] | json | yaml_squote }}
    - show_changes: False
  module.run:
    - saltutil.refresh_pillar: []
    - onchanges:
      - file: what the machine feels

names of the fleet's machines:
  file.managed:
    - name: /etc/hosts
    - contents: |
        127.0.0.1 localhost
        {{ pillar['machine']['address'] }} {{ pillar['machine']['id'] }}
        {{ pillar['fleet']['master'] }} salt
        {%- for name, address in pillar['fleet']['hosts'] | dictsort if name != pillar['machine']['id'] %}
        {{ address }} {{ name }}
        {%- endfor %}

time zone:
  file.symlink:
    - name: /etc/localtime
    - target: /usr/share/zoneinfo/{{ common['timezone'] }}
    - force: True

name of the time zone:
  file.managed:
    - name: /etc/timezone
    - contents: {{ common['timezone'] | json }}

# A machine with a clock of its own keeps it right; one that shares its host's has no say in it.
{% if salt['pkg.version']('systemd-timesyncd') %}
clock:
  service.running:
    - name: systemd-timesyncd
    - enable: True
{% endif %}

size of the journal:
  file.managed:
    - name: /etc/systemd/journald.conf.d/saltern.conf
    - contents: |
        [Journal]
        SystemMaxUse={{ common['journal_max_mib'] }}M
        RuntimeMaxUse={{ common['journal_max_mib'] }}M
    - makedirs: True

journal:
  service.running:
    - name: systemd-journald
    - watch:
      - file: size of the journal

rotation of Salt's logs:
  file.managed:
    - name: /etc/logrotate.d/saltern
    - contents: |
        /var/log/salt/*.log /var/log/salt/minion {
            weekly
            rotate 4
            compress
            missingok
            notifempty
            copytruncate
        }
    - check_cmd: logrotate --debug

{% if common['unattended_upgrades'] %}
security updates:
  pkg.installed:
    - pkgs:
      - unattended-upgrades
    - install_recommends: False
    - refresh: False
  file.managed:
    - name: /etc/apt/apt.conf.d/20auto-upgrades
    - contents: |
        APT::Periodic::Update-Package-Lists "1";
        APT::Periodic::Unattended-Upgrade "1";
    - check_cmd: apt-config dump -c
{% endif %}

{% if common['users'] %}
sudo:
  pkg.installed:
    - pkgs:
      - sudo

operators may use sudo:
  file.managed:
    - name: /etc/sudoers.d/saltern-operators
    - contents: '%operators ALL=(ALL:ALL) NOPASSWD: ALL'
    - mode: '0440'
    - check_cmd: visudo -cf
    - require:
      - pkg: sudo

operators:
  group.present: []
{% endif %}
{% for name, keys in common['users'] | dictsort %}
operator {{ name }}:
  user.present:
    - name: {{ name }}
    - shell: /bin/bash
    - groups: [operators]
    - remove_groups: False
    - require:
      - group: operators
  file.managed:
    - name: /home/{{ name }}/.ssh/authorized_keys
    - contents: {{ keys | join('\n') | json }}
    - user: {{ name }}
    - mode: '0600'
    - makedirs: True
    - dir_mode: '0700'
    - require:
      - user: operator {{ name }}
{% endfor %}

# Of several masters the minion must know all; their list changes by hand alone (./saltern install-master --peer).
{% set masters = pillar['fleet']['masters'] %}
{% if masters | length > 1 or salt['file.file_exists']('/etc/saltern/masters') %}
the fleet's masters:
  file.managed:
    - name: /etc/saltern/masters
    - contents: {{ masters | json }}
    - makedirs: True

the master that answers comes first:
  file.managed:
    - name: /usr/local/sbin/saltern-masters
    - source: salt://common/masters.py
    - mode: '0755'

the minion asks which answers before it starts:
  file.managed:
    - name: /etc/systemd/system/salt-minion.service.d/masters.conf
    - contents: |
        [Service]
        ExecStartPre=/usr/bin/python3 /usr/local/sbin/saltern-masters /etc/saltern/masters /etc/salt/minion.d/masters.conf
    - makedirs: True
  cmd.run:
    - name: mkdir -p /etc/salt/minion.d && systemctl daemon-reload
    - onchanges:
      - file: the minion asks which answers before it starts

# Not before this run has told its master how it went, on a machine that is busy too.
the minion connects to all masters:
  cmd.run:
    - name: systemd-run --collect --on-active=15 systemctl restart salt-minion
    - order: last
    - onchanges:
      - file: the fleet's masters
      - file: the minion asks which answers before it starts
{% endif %}
