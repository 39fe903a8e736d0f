"""How the demo networks are trained; not needed to run them."""
