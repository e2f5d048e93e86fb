"""The one flag that the signal handlers of this process share with its supervisor."""

import threading
from typing import Final

SHUTDOWN: Final = threading.Event()
"""Set when this worker is asked to end."""
