"""Property tests: the same examples in every run, and no limit that a loaded machine could miss.

`HYPOTHESIS_PROFILE=hunt` looks for new examples.
"""

import os

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("hunt", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
