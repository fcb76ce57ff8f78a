"""Speed beside what a user would run otherwise, always in one run."""
