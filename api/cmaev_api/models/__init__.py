"""Deployed models: versions, provenance, and the serving agent that holds them."""
