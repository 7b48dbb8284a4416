"""Short programs for each part of the library. As `benchmarks`, a package, so that no installed one takes its place."""
