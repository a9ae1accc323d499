# What is yours at a cloud: whatever stands here goes over etc/clouds/<cloud>/cloud.providers.d, where every setting is
# described. No secret belongs here: those stand in the environment, or under "clouds" in the fleet's secrets.json.
clouds:
  # location, image, options: {vpc_uuid: ...}
  digitalocean: {}
  # location, image (an AMI of Debian 12 in that region), options: {subnet_id: ..., security_group_ids: [...]}
  ec2: {}
  # location, options: {resource_group: ..., network: ...}
  azure: {}
  # api_root (your cloud's Keystone), location, image (the id of Debian 12), sizes, options: {network: ...}
  openstack: {}
  # location, options: {firewall_id: ...}
  linode: {}
  # location, options: {vpc: ..., firewall_group_id: ...}
  vultr: {}
  # location (a zone), options: {network: ..., subnetwork: ...}
  gce: {}
