"""Devices, hosts, storage, caches and output: what every wing may use. All modules are public."""
