scaling:
  pools:
    prod:
      auto: true
      min: 5
      max: 6
      targets:
        cpu: 45
        proxy_cpu: 90
      tolerance: 0.1
      warmup_s: 1
      out:
        window_s: 0
        cooldown_s: 5
        steps:
        - machines: 1
          period_s: 5
      in:
        window_s: 3600
        cooldown_s: 3600
        steps: []
      backoff_s: 60
      backoff_max_s: 3600
  memory:
    auto: false
    roles:
    - prod
    - staging
    max_mib: 1536
    cooldown_s: 60
    low_percent: 40
    low_s: 1800
  healing:
    auto: false
    grace_s: 20
    flap_s: 1800
    most_percent: 55
  conductor:
    serve_s: 180
    configure_s: 60
    drain_s: 60
    stale_s: 90
    attempts: 5
    retry_s: 5
    retry_max_s: 300
