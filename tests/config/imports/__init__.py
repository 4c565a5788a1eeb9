"""Files of other tools, and the components that are made of them."""
