"""Trains a policy: `python -m experiments.train --config=configs/X.py --workdir=W [--config.key=value]`.

The same command again resumes where it stopped.
"""
