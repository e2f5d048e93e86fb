"""The error of everything that reads videos."""

from cmaev_spec.exits import BadInput


class DataError(BadInput):
    """A video or an index cannot be used; the message says where, why and what to do."""
