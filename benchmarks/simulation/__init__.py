"""Time and cost of a run on clusters that nobody has here, from rates that were measured, published or assumed."""
