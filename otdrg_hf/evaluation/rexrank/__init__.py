"""The ReXrank leaderboard: its input file, predictions for it, its scores and a submission. `otdrg rexrank`."""
