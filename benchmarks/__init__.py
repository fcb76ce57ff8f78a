"""Speed compared with other frameworks, measured alternately on one machine."""
