"""Speed next to what a user would run otherwise, always measured in one run."""
