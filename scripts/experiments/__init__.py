"""What trains sets of experiments and tabulates them."""
