"""`python -m blockgraph`, the same program as `blockgraph`."""

import sys

from blockgraph.cli import main

sys.exit(main())
