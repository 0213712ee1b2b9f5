"""Many adapters over one frozen backbone: a library of finished cells, and batches that mix them (docs/SERVING.md)."""
