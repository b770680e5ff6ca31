//! Chooses a worker. Pure: sees views, never the network.
