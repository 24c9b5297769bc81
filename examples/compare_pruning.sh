#!/bin/sh
# Pruning small weights beside pruning at random: sh examples/compare_pruning.sh [key=value …], such as seed=0,1,2
# It ends with the table; outputs/reports/report.html has the figures. The same command again builds nothing.
set -eu
python -m compress_exp -m method=prune/magnitude,prune/random method.prune.sparsity=0.8 "$@"
