"""What ``supported_models.py`` measures of a model, and the page that it makes."""
