"""What each method can do, found by running it -> docs/CAPABILITIES.md: `python scripts/capabilities.py --help`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests' tiny encoders and helpers

from tests.capabilities.command import main

if __name__ == "__main__":
    main()
