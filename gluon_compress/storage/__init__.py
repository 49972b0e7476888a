"""Files, artifact folders and downloads: complete or absent, and checked."""
