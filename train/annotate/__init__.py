"""What a run finds in recordings, for people and their tools: lists of events, and a page."""
