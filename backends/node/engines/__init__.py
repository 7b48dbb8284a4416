"""What generates, in the engine's own process: scheduler, runners, sampler. Its modules need torch; the front none."""
