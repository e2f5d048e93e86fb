"""Training from Python: jobs on lists of files, and runs as objects (docs/python.md).

A job runs in processes of its own, as `cmaev train` starts them: see docs/adr/0004-python-jobs.md.
"""
