"""What a run left behind: events, logs, metrics, artifacts."""
