"""The ways to fine-tune: one file per family behind the protocol of `base`."""
