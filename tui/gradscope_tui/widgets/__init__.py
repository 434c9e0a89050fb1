"""The widgets of the screen. Each draws the data that it is given; none uses the connection."""
