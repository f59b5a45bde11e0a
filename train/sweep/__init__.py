"""The search for better settings: many cheap trainings, judged on validation."""
