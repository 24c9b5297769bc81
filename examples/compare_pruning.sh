#!/bin/sh
# Pruning small weights beside pruning at random, two seeds each: sh examples/compare_pruning.sh [key=value …]
# It ends with the table; outputs/reports/report.html has the figures. The same command again builds nothing.
set -eu
python -m compress_exp -m method=prune/magnitude,prune/random method.prune.sparsity=0.8 seed=0,1 "$@"
