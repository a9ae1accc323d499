canary: {}
