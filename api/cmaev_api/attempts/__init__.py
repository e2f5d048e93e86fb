"""The worker protocol: leases, heartbeats, events and outcomes of attempts."""
