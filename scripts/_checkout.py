"""Imported first by each script that is run by itself: the packages are those of this checkout.

Installed, they have other names, so that they are in nobody's way.
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))
