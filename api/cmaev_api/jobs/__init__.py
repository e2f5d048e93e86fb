"""Jobs: submit, look at, cancel, pause, resume, retry."""
