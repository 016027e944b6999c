"""The tests import the project's files as a user's Python would in the project's folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
