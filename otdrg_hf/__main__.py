"""`python -m otdrg_hf`, the same as `otdrg`."""

from otdrg_hf.cli import main

main()
