"""Viewers and hubs on other machines: the gateway, and the way from the hub of a node to a head hub."""
