"""The network family of MASt3R, DUSt3R and groundloc's small model."""

from matching.network.build import build_network
from matching.network.config import NetworkConfig
from matching.network.model import Encoding, PairNetwork
from matching.network.prediction import EVERYTHING, NOTHING, Prediction, Want

__all__ = [
    "EVERYTHING",
    "NOTHING",
    "Encoding",
    "NetworkConfig",
    "PairNetwork",
    "Prediction",
    "Want",
    "build_network",
]
