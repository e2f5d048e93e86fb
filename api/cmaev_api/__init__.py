"""The control plane and the inference gateway: jobs, leases, models, answers, all over REST."""
