"""From a configuration to a network."""

from matching.network.config import NetworkConfig
from matching.network.model import PairNetwork


def build_network(config: NetworkConfig) -> PairNetwork:
    """The network of a configuration, with random weights."""
    if config.architecture == "GroundlocSmall":
        from matching.network.small import SmallNetwork

        return SmallNetwork(config)
    return PairNetwork(config)
