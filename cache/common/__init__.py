"""What all three packages stand on: errors, settings, words to people, plain files."""
