"""Export, prediction and serving of finetuned runs.

onnxruntime writes telemetry files as soon as it is imported, unless this variable was set before;
every module that needs it lives in this package, so here is the one place that comes first.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
