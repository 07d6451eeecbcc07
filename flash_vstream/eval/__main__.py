"""`python -m flash_vstream.eval`: see main.py."""

import sys

from flash_vstream.eval.main import main

sys.exit(main())
