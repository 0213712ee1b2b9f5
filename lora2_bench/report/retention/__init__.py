"""What was forgotten, read from `retention.json` beside records: settings, the sources' claim, and their sheet."""
