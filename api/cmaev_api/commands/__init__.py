"""Commands of the `cmaev` program; each imports what it needs when it runs."""
