"""The command line, as `python -m tests.e2e.lifecycle` or with this folder's name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "load"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from lifecycle import main

if __name__ == "__main__":
    sys.exit(main())
