"""The whole stack on one machine: `cmaev up`."""
