"""What the subcommands do, as plain functions."""
