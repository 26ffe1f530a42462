"""Classify pictures with a recorded model: python predict.py IMAGE|DIR|GLOB ... [--run ID | --experiment NAME]"""

import sys

from thaw.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
