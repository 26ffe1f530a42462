"""Compare recorded runs: python compare.py [EXPERIMENT] [--against unfreeze=0] [--by backbone,unfreeze] [--out DIR]"""

import sys

from thaw.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
