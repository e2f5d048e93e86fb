"""The job specification and everything the services agree on.

The leaf of the import graph: pydantic, PyYAML and the standard library, nothing else. It is what
the control plane, the workers, the library and the serving side share, so it stays cheap to import.
"""

__version__ = "0.1.0"
