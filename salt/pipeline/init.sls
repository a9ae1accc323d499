# Git over ssh, and what builds what is pushed; what may be changed is in pillar/pipeline.sls.
{% set pipeline = pillar['pipeline'] %}
{% set parts = pillar['pipeline_parts'] %}
{% set repository = '/srv/git/product.git' %}
{% set home = '/var/lib/saltern-pipeline' %}
{% set wheels = '/opt/saltern/wheels/' ~ parts['wheels']['id'] %}
{% set seed = '/opt/saltern/seed/' ~ parts['seed']['id'] %}

include:
  - agent

git and ssh packages:
  pkg.installed:
    - pkgs:
      - git
      - openssh-server
    - install_recommends: False
    - refresh: False

# Who may do what: `git` takes pushes and queues builds, `saltern-pipeline` takes them on, and `saltern-build`, who owns
# nothing, runs what was pushed.
git user:
  user.present:
    - name: git
    - system: True
    - home: /srv/git
    - createhome: False
    - shell: /usr/bin/git-shell
    - require:
      - pkg: git and ssh packages

{% for name in ('saltern-pipeline', 'saltern-build') %}
user {{ name }}:
  user.present:
    - name: {{ name }}
    - system: True
    - home: /nonexistent
    - createhome: False
    - shell: /usr/sbin/nologin
{% endfor %}

# --- ssh

host key of this machine:
  file.managed:
    - name: /etc/ssh/saltern_host_key
    - contents_pillar: pipeline_parts:host_key
    - mode: '0600'
    - show_changes: False
    - require:
      - pkg: git and ssh packages

keys that may push:
  file.managed:
    - name: /etc/ssh/saltern_git_keys
    - source: salt://pipeline/git_keys.j2
    - template: jinja
    - require:
      - pkg: git and ssh packages

checker of ssh configurations:
  file.managed:
    - name: /usr/local/sbin/check-sshd-config
    - source: salt://pipeline/check-sshd-config
    - mode: '0755'

ssh configuration:
  file.managed:
    - name: /etc/ssh/sshd_config
    - source: salt://pipeline/sshd_config.j2
    - template: jinja
    - check_cmd: /usr/local/sbin/check-sshd-config
    - require:
      - file: checker of ssh configurations
      - file: host key of this machine

ssh:
  service.running:
    - enable: True
    - require:
      - file: keys that may push
      - user: git user
    - watch:
      - file: ssh configuration
      - file: host key of this machine

# --- the repository

git folder:
  file.directory:
    - name: /srv/git
    - user: git
    - group: git
    - mode: '0755'
    - require:
      - user: git user

git repository:
  cmd.run:
    - name: git init --quiet --bare {{ repository }}
    - runas: git
    - creates: {{ repository }}/HEAD
    - require:
      - file: git folder

git configuration:
  file.managed:
    - name: {{ repository }}/config
    - source: salt://pipeline/git_config.j2
    - template: jinja
    - check_cmd: git config --list -f
    - require:
      - cmd: git repository

git hooks know:
  file.managed:
    - name: /etc/saltern/git.json
    - source: salt://pipeline/git.json.j2
    - template: jinja
    - makedirs: True
    - check_cmd: python3 -m json.tool

{% for hook in ('pre-receive', 'post-receive') %}
git hook {{ hook }}:
  file.managed:
    - name: {{ repository }}/hooks/{{ hook }}
    - contents: |
        #!/bin/sh
        # Written by Salt (salt/pipeline).
        PYTHONPATH=/opt/saltern/agent/current PYTHONDONTWRITEBYTECODE=1 exec /usr/bin/python3 -m saltern.pipeline.hooks {{ hook }} --config /etc/saltern/git.json
    - mode: '0755'
    - check_cmd: sh -n
    - require:
      - cmd: git repository
      - file: git hooks know
      - file: agent
{% endfor %}

first content on disk:
  archive.extracted:
    - name: {{ seed }}
    - source: {{ parts['seed']['source'] }}
    - source_hash: sha256={{ parts['seed']['sha256'] }}
    - enforce_toplevel: False
    - if_missing: {{ seed }}/RELEASE

# Once: what a team has pushed is never touched.
first content of the repository:
  cmd.run:
    - name: /usr/bin/python3 -m saltern.pipeline.seed --repository {{ repository }} --tree {{ seed }} --branches staging,production
    - env:
      - PYTHONPATH: /opt/saltern/agent/current
      - PYTHONDONTWRITEBYTECODE: '1'
    - runas: git
    - unless: test -n "$(git -c safe.directory={{ repository }} -C {{ repository }} for-each-ref --count=1)"
    - require:
      - file: git configuration
      - archive: first content on disk
      - file: agent

# --- what builds

wheels on disk:
  archive.extracted:
    - name: {{ wheels }}
    - source: {{ parts['wheels']['source'] }}
    - source_hash: sha256={{ parts['wheels']['sha256'] }}
    - enforce_toplevel: False
    - if_missing: {{ wheels }}/RELEASE

wheels:
  file.symlink:
    - name: /opt/saltern/wheels/current
    - target: {{ wheels }}
    - require:
      - archive: wheels on disk

# It has pip, which puts wheels where a build wants them, and nothing else.
Python for builds:
  cmd.run:
    - name: python3 -m venv /opt/saltern/build
    - creates: /opt/saltern/build/bin/pip

{% for folder, group, mode in (('', 'saltern-pipeline', '0755'), ('/queue', 'git', '2770'), ('/builds', 'saltern-pipeline', '0755'),
                               ('/artifacts', 'saltern-pipeline', '0755'), ('/outbox', 'saltern-pipeline', '0755')) %}
pipeline folder {{ folder or '/' }}:
  file.directory:
    - name: {{ home }}{{ folder }}
    - user: saltern-pipeline
    - group: {{ group }}
    - mode: '{{ mode }}'
    - require:
      - user: user saltern-pipeline
      - user: git user
{% endfor %}

pipeline configuration:
  file.managed:
    - name: /etc/saltern/pipeline.json
    - source: salt://pipeline/pipeline.json.j2
    - template: jinja
    - makedirs: True
    - group: saltern-pipeline
    - mode: '0640'
    - show_changes: False
    - check_cmd: python3 -m json.tool
    - require:
      - user: user saltern-pipeline

{% for name in ('saltern-build.socket', 'saltern-build@.service', 'saltern-pipeline.service') %}
unit {{ name }}:
  file.managed:
    - name: /etc/systemd/system/{{ name }}
    - source: salt://pipeline/{{ name }}.j2
    - template: jinja
    - mode: '0644'
{% endfor %}

pipeline units:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: unit saltern-build.socket
      - file: unit saltern-build@.service
      - file: unit saltern-pipeline.service

sandbox for builds:
  service.running:
    - name: saltern-build.socket
    - enable: True
    - require:
      - module: pipeline units
      - user: user saltern-build
      - cmd: Python for builds
      - file: wheels
      - file: agent
    - watch:
      - file: unit saltern-build.socket

pipeline:
  service.running:
    - name: saltern-pipeline
    - enable: True
    - require:
      - module: pipeline units
      - service: sandbox for builds
      - file: pipeline folder /queue
    - watch:
      - file: unit saltern-pipeline.service
      - file: pipeline configuration
      - file: agent
