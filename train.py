"""The command line: ``python train.py {fit,validate,test,predict,study} --config FILE``."""

import callbacks  # noqa: F401
import datamodules  # noqa: F401
import distill.methods
import distill.models  # noqa: F401
from distill.cli import main

if __name__ == "__main__":
    main()
