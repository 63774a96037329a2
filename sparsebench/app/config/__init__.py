"""Configuration: the YAML tree, composed, checked, frozen and built."""
