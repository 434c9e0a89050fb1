"""The link to the hub: its address, starting the hub, and one end of the connection."""

from gradscope.transport.addresses import HubAddress, hub_address, split_target
from gradscope.transport.election import ensure_hub
from gradscope.transport.link import Link, LinkState
from gradscope.transport.probe import hub_answers, hub_listens, hub_pid

__all__ = [
    "HubAddress",
    "Link",
    "LinkState",
    "ensure_hub",
    "hub_address",
    "hub_answers",
    "hub_listens",
    "hub_pid",
    "split_target",
]
