"""`cmaev demo`: the main job, from videos to HTTP answers, through the REST API alone."""
