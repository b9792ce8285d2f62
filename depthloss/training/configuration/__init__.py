"""From a configuration to what it names: sections, parsing, the network, the loss and the loaders."""
