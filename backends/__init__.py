"""Places to run a model: the device, a cloud node, and what joins them."""
