"""Files on disk: path checks, atomic writes, locks between processes."""
