"""The configuration: its sections, parsing it, and building the network, the loss and the loaders."""
