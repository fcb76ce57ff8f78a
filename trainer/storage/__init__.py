"""Files on disk: checked paths, whole-or-nothing writes, locks between processes."""
