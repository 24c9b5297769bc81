"""What Weights & Biases shows of all runs: a saved workspace, a report, and runs that it does not have yet."""
