"""`python -m depthloss` is the command `depthloss`."""

import sys

from .cli import main

sys.exit(main())
