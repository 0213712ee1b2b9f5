"""A finished cell put to use: predictions of new rows, and a folder that plain transformers and PEFT load."""
