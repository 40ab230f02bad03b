"""mmbatch: keeps the category of every product in a catalog right."""
