"""Hydra finds our plugins here; light imports only, since this is loaded at every start."""
