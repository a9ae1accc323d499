Etc/UTC time zone:
  timezone.system:
    - name: Etc/UTC
