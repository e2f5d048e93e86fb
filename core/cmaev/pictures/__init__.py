"""Pictures for people: reconstructions, attention, losses, confusions, and a page of them all."""
