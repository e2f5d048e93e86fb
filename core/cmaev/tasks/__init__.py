"""One module per kind of training: how a batch becomes a loss, and what a run ends with."""
