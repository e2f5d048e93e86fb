"""`python -m cmaev` is `cmaev`."""

from cmaev.cli import main

main()
