"""One cell from plan to record: look-up, checks, set-up, training, and the record."""
