"""Classification of a posted video by a deployed model."""
