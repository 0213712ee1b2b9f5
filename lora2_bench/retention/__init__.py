"""What fine-tuning forgets: measures of an adapted encoder beside the same encoder at its start (docs/RETENTION.md)."""
