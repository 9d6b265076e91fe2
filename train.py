"""The command line: ``python train.py {fit,validate,test,predict,study,rank} --config FILE``."""

from distill.cli import main

if __name__ == "__main__":
    main()
