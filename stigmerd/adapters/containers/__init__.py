"""Lives that are containers, and the Docker Engine that has them."""
