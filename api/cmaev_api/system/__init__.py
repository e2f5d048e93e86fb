"""The control plane itself: is it there, is it ready, how is it."""
