"""``python -m kdflow``: the same as the command ``kdflow``."""

import sys

from kdflow.cli.main import main

sys.exit(main())
