"""The public sets that ``download_data.py`` knows, and how they get into place."""
