traffic: {}
