"""The demonstration: the whole way of a request, with every expectation checked."""
